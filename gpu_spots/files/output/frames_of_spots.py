"""Frames that a spots file was made from, found as its group ``info`` records them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from gpu_spots.background.methods import METHODS
from gpu_spots.errors import InputError, given
from gpu_spots.files.frames import open_hdf5, open_run
from gpu_spots.files.hdf5.tree import member
from gpu_spots.files.images.image import COMPRESSED, Image, read_image
from gpu_spots.files.images.image_list import ImageList
from gpu_spots.files.images.image_stack import ImageStack
from gpu_spots.files.lauecollect import Column
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.inputs import Inputs
from gpu_spots.model import Array
from gpu_spots.protocols import Stack


@contextmanager
def open_frames(results: SpotsFile, path: Path | None = None) -> Iterator[Stack]:
    """Open the run that a spots file was made from.

    Args:
        results: The spots file.
        path: HDF5 file of the run, or folder of its images. None: those that ``info`` names, or
            of that name in the folder of the spots file.

    Raises:
        InputError: There is no such file, it cannot be read, or its frames are not those of the
            spots file. Reading a frame raises it too if the frame lacks maxima of ``stats/max``.
    """
    if path is None and is_of_images(results):
        path = _recorded_folder(results)
    if path is not None and path.is_dir():
        images = _images_in(results, path)
        _check_shape(results, images, path)
        yield cast(Stack, _CheckedFrames(results, images, images.changed))
        return
    path = recorded_run(results) if path is None else path
    with open_run(path, Inputs(frames_path=_frames_path(path, results.info))) as stack:
        _check_shape(results, stack, path)
        checked = _CheckedFrames(results, stack, partial(_changed, results, path))
        checked.check_one()
        yield cast(Stack, checked)


def _check_shape(results: SpotsFile, stack: Stack, path: Path) -> None:
    """Raise `InputError` if frames have another shape than those of the spots file."""
    expected = (results.n_frames, *results.avg.shape)
    if stack.shape != expected:
        raise InputError(
            f"{path}: frames have shape {stack.shape}, expected {expected} as in "
            f"{results.name}; give the run with {given('frames_from')}"
        )


class _CheckedFrames:
    """Stack whose frames are compared with the maxima of a spots file when they are read."""

    def __init__(
        self, results: SpotsFile, stack: Stack, changed: Callable[[int, str], InputError]
    ) -> None:
        """Check a stack; ``changed`` returns the error of a frame, from its index and a reason."""
        self._results, self._stack, self._changed = results, stack, changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read frames; may be called by several threads.

        Raises `InputError`, which names the frame, also if it lacks maxima of ``stats/max``.
        """
        self._stack.read(begin, end, into)
        for frame in range(begin, end):
            self._check(frame, into[frame - begin])

    def check_one(self) -> None:
        """Raise `InputError` if the frame with most maxima is another one, as of another run."""
        arg, _, is_known = self._maps
        frame = int(np.bincount(arg[is_known], minlength=1).argmax())
        image = np.empty((1, *self._stack.shape[1:]), self._stack.dtype)
        try:
            self._stack.read(frame, frame + 1, image)
        except InputError:
            return  # other frames may be readable; whoever reads this one gets the error
        self._check(frame, image[0])

    def _check(self, frame: int, image: Array) -> None:
        arg, largest, is_known = self._maps
        pixels = np.flatnonzero((arg == frame) & is_known)
        if (image.reshape(-1)[pixels] != largest[pixels]).any():
            raise self._changed(frame, "other values at the maxima in stats/max")

    @cached_property
    def _maps(self) -> tuple[Array, Array, Array]:
        """Frame of the maximum of each pixel, the maximum, and whether it is one of the frames."""
        results = self._results
        is_known = results.valid
        method = METHODS.get(_text(results.info.get("method", "")))
        normalise = _text(results.info.get("normalise", "none"))
        if normalise != "none" and (method is None or method.scales_frames):
            is_known = np.zeros_like(is_known)  # maxima of scaled frames
        return results.arg.reshape(-1), results.max.reshape(-1), is_known.reshape(-1)


def _changed(results: SpotsFile, path: Path, frame: int, found: str) -> InputError:
    return InputError(
        f"{path}: its frame {frame} is not that of {results.name}, found {found}; give the run "
        f"with {given('frames_from')}, or find the spots again"
    )


def is_of_images(results: SpotsFile) -> bool:
    """Return whether the frames of a spots file are images, one file per frame."""
    info = results.info
    # of images, info has no layout, and their folder in the place of the dataset
    return "layout" not in info and _text(info.get("frames_path", "")) != ""


def image_names(results: SpotsFile) -> list[str]:
    """Return the names of the images of a run. Raises `InputError` if they are not recorded."""
    files = results.columns.get("file")
    if files is None or np.shape(files) != (results.n_frames,):
        raise InputError(
            f"{results.name}: has no names of images in lauecollect/file, expected one per frame"
        )
    names = [str(name) for name in files.tolist()]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(
            f"{results.name}: frames are not found: {twice} is the name of several images; write "
            f"one file of them with gpu-spots convert, and give it with {given('frames_from')}"
        )
    return names


def frame_names(results: SpotsFile) -> list[str]:
    """Return a name for each frame, without ending.

    It is the name of the frame's image if the run has these, else the number of the frame.
    """
    stem = re.sub(r"(__spots)?\.h5$", "", Path(results.name).name)
    digits = max(4, len(str(results.n_frames - 1)))
    numbered = [f"{stem}_{frame:0{digits}}" for frame in range(results.n_frames)]
    files = results.columns.get("file")
    if files is None or np.shape(files) != (results.n_frames,):
        return numbered
    names = [re.split(r"[/\\]", str(file))[-1].rpartition(".")[0] for file in files.tolist()]
    is_good = all(re.fullmatch(r"[\w.+-]+", name) and name[0] != "." for name in names)
    return names if is_good and len(set(names)) == len(names) else numbered


def images_of(results: SpotsFile) -> list[Path]:
    """Return the images of a run. Raises `InputError` if they are not found."""
    folder = _recorded_folder(results)
    return [_image(folder, name) for name in image_names(results)]


def _recorded_folder(results: SpotsFile) -> Path:
    """Return the folder of the images of a run: as recorded, or that of the spots file."""
    names = image_names(results)
    recorded = Path(_text(results.info.get("frames_path", "")))
    for folder in (recorded, Path(results.name).parent / recorded.name, Path(results.name).parent):
        if any(_image(folder, name).is_file() for name in (names[0], names[-1])):
            return folder
    raise InputError(
        f"{results.name}: its frames are not found: no image {recorded / names[0]}; give "
        f"their folder with {given('frames_from')}"
    )


def _images_in(results: SpotsFile, folder: Path) -> "_ImagesOfRun":
    """Return the images of a run, which are in a folder, as a stack."""
    names = image_names(results)
    places = [_image(folder, name) for name in names]
    images = ImageList(str(folder), places, {"file": Column(np.array(names, object))}, [])
    first = _first_readable(places)
    n_rows, n_columns = first.frame.shape
    stack = _ImagesOfRun(images, (n_rows, n_columns), results.max.dtype, first)
    stack.results = results
    return stack


def _first_readable(places: list[Path]) -> Image:
    """Return the first image that can be read. Raises the error of the first one if none can."""
    errors = []
    for place in places:
        try:
            return read_image(place)
        except InputError as error:
            errors.append(error)
    raise errors[0]


class _ImagesOfRun(ImageStack):
    """Images of a run whose spots are known. An image that was changed since then is an error."""

    results: SpotsFile
    """The spots file."""

    def _check(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        try:
            super()._check(path, shape, dtype)
        except InputError:
            frame = self.images.paths.index(path)
            raise self.changed(frame, f"shape {shape} and type {dtype}") from None

    def changed(self, frame: int, found: str) -> InputError:
        """Return the error of an image that is not the one of the run."""
        return InputError(
            f"{self.images.paths[frame]}: is not frame {frame} of {self.results.name}, found "
            f"{found}; give the folder of the images with {given('frames_from')}, or find the "
            "spots again"
        )


def _image(folder: Path, name: str) -> Path:
    """Return an image of a folder, compressed or not.

    Its name may have the folder of another computer before it.
    """
    ways = (folder / name, folder / re.split(r"[/\\]", name)[-1])
    tried = (way.with_name(way.name + ending) for ending in ("", *COMPRESSED) for way in ways)
    return next((path for path in tried if path.is_file()), ways[1])


def recorded_run(results: SpotsFile) -> Path:
    """Return the HDF5 file of the run of a spots file. Raises `InputError` if it is not found."""
    info = results.info
    recorded, remedy = _text(info.get("input_file", "")), f"give it with {given('frames_from')}"
    if not recorded:
        raise InputError(
            f"{results.name}: the file of the frames is not recorded in info; {remedy}"
        )
    if is_of_images(results):
        raise InputError(
            f"{results.name}: the frames are images ({recorded}), expected an HDF5 file; "
            "write one with gpu-spots convert"
        )
    path, moved = recorded_inputs(results)
    if path.is_file():
        return path
    if not moved.is_file():
        raise InputError(
            f"{results.name}: its frames are not found: no file {path}, nor {moved}; {remedy}"
        )
    return moved


def recorded_inputs(results: SpotsFile) -> tuple[Path, ...]:
    """Return where the input of a spots file may be: as recorded, and in the same folder."""
    recorded = _text(results.info.get("input_file", ""))
    return (Path(recorded), Path(results.name).parent / Path(recorded).name) if recorded else ()


def link_to_frames(results: SpotsFile, group: h5py.Group, name: str) -> str | None:
    """Make a link in an HDF5 file to the frames of a spots file.

    Args:
        results: The spots file.
        group: Group of the new file.
        name: Name of the link in it.

    Returns:
        None if the link was made, else the reason why not.
    """
    if is_of_images(results):
        return "the frames are images; gpu-spots convert makes one file of them"
    try:
        path = recorded_run(results)
    except InputError:
        return "the file of the frames is not found"
    dataset = _frames_path(path, results.info)
    if not dataset:
        return "the frames are not in one dataset"
    group[name] = h5py.ExternalLink(str(path.absolute()), dataset[0])
    return None


def _frames_path(path: Path, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the recorded dataset of the frames if the file has it; empty: it has to be found."""
    recorded = _text(info.get("frames_path", ""))
    with open_hdf5(path) as file:
        has_it = recorded and isinstance(member(file, recorded), h5py.Dataset)
    return (recorded,) if has_it else ()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
