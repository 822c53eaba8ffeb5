"""gpu_spots: finds the spots of Laue diffraction runs, as lu_hdf2spots does.

`find_spots` processes a run, `open_spots` opens the results, `ratios` makes their
on/off ratios, `merge_ratios` merges those of several runs, `report` writes a page about a run,
`batch` processes many runs, `Parameters` says what to look for.
`ImageRequest` says which images make a run, and `convert` writes them as one file. Importing this
package loads nothing heavy.
"""

from typing import TYPE_CHECKING, Any

from gpu_spots.errors import GpuSpotsError
from gpu_spots.parameters import Parameters

if TYPE_CHECKING:
    from gpu_spots.api import batch, convert, find_spots, merge_ratios, ratios, report
    from gpu_spots.files.images.image_list import ImageRequest
    from gpu_spots.files.output.spots_file import SpotsFile, open_spots
    from gpu_spots.geometry import Geometry, UnitCell

__version__ = "0.1.0"

__all__ = [
    "Geometry",
    "GpuSpotsError",
    "ImageRequest",
    "Parameters",
    "SpotsFile",
    "UnitCell",
    "__version__",
    "batch",
    "convert",
    "find_spots",
    "merge_ratios",
    "open_spots",
    "ratios",
    "report",
]


def __getattr__(name: str) -> Any:
    """Load what needs NumPy and h5py when it is first used."""
    if name in ("batch", "convert", "find_spots", "merge_ratios", "ratios", "report"):
        from gpu_spots import api

        return getattr(api, name)
    if name == "ImageRequest":
        from gpu_spots.files.images.image_list import ImageRequest

        return ImageRequest
    if name in ("Geometry", "UnitCell"):
        from gpu_spots import geometry

        return getattr(geometry, name)
    if name in ("SpotsFile", "open_spots"):
        from gpu_spots.files.output import spots_file

        return getattr(spots_file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
