"""The run's metadata: group lauecollect, one 1-D array a column, one value a frame."""

import h5py

from gpu_spots.errors import InputError
from gpu_spots.grouping import Columns

GROUP = "lauecollect"
COLUMNS = ("angle", "laser_on", "delay", "file")
"""What the program looks at; the whole group is copied to the output."""


def read_columns(file: h5py.File) -> Columns:
    """The columns of the group that the program uses; none where there is no such group.

    Raises `InputError` where one cannot be read. Lengths and values are checked by those who use them, as not every run needs every column.
    """
    group = file.get(GROUP)
    if group is None:
        return {}
    if not isinstance(group, h5py.Group):
        raise InputError(f"{file.filename}: {GROUP} is a dataset, expected a group of columns")
    columns = {}
    for name in COLUMNS:
        column = group.get(name)
        if isinstance(column, h5py.Dataset):
            try:
                columns[name] = column[()]
            except (OSError, RuntimeError, TypeError) as error:
                raise InputError(f"{file.filename}: {GROUP}/{name} cannot be read: {error}") from error
    return columns
