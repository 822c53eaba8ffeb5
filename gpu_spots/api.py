"""Python interface: find_spots for files, images and arrays; convert; ratios; report; batch."""

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gpu_spots.backend import select_backend
from gpu_spots.errors import OutputError, ParameterError, given
from gpu_spots.files.images.image_list import ImageRequest, default_output
from gpu_spots.files.images.image_stack import open_images
from gpu_spots.files.opening import open_stack
from gpu_spots.files.output.converted import write_converted
from gpu_spots.files.output.laueutil_ratios import output_names, write_laueutil
from gpu_spots.files.output.merged_file import merged_of, write_merged
from gpu_spots.files.output.new_file import check_output
from gpu_spots.files.output.ratios_file import ratios_of, write_ratios
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.geometry import Geometry, UnitCell
from gpu_spots.inputs import Inputs, parse_regions
from gpu_spots.memory.plan import ResourceLimits
from gpu_spots.memory.workers import default_workers
from gpu_spots.parameters import STACK_NAMES, Parameters
from gpu_spots.resources import Resources
from gpu_spots.run import Output, find_in_memory, find_to_file, spool_for
from gpu_spots.spots.ratios import RatioResult
from gpu_spots.spots.ratios.merging import MergeResult

if TYPE_CHECKING:
    from distributed import Client


class PythonWarnings:
    """An observer that shows no progress; its warnings are Python's."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """Show nothing."""

    def advance(self, steps: int) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Warn whoever called `find_spots`."""
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals["__name__"].split(".")[0] == "gpu_spots":
            level, frame = level + 1, frame.f_back
        warnings.warn(message, UserWarning, stacklevel=level)


def find_spots(
    frames: str | Path | ArrayLike | ImageRequest,
    parameters: Parameters | None = None,
    *,
    output: str | Path | None = None,
    frames_path: str | Sequence[str] | None = None,
    angles_path: str | None = None,
    laser_path: str | None = None,
    table: str | Path | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
    valid_pixels: ArrayLike | None = None,
    mask: str | Path | None = None,
    mask_good: int | None = None,
    file_mask: bool = True,
    reject: str | Sequence[str] = (),
    valid_range: tuple[float | None, float | None] | None = None,
    saturation: float | None = None,
    compression: str = "gzip",
    backend: str = "auto",
    threads: int | None = None,
    device: int | Sequence[int] | None = None,
    device_memory_limit: int | None = None,
    memory_limit: int | None = None,
    scratch: str | Path | None = None,
    batch: int | None = None,
    keep: Collection[str] = STACK_NAMES,
    force: bool = False,
) -> SpotsFile:
    """Find the spots of a run and return the results.

    Args:
        frames: Path of a run, an HDF5 file; an `ImageRequest` for images; or the frames themselves,
            ``(n_frames, n_X, n_Y)``, counts, of uint8, uint16, uint32, int16, int32, float32 or
            float64.
        parameters: Parameters of the search. None: the defaults of ``gpu-spots find``, which
            require 10 different angles; ``Parameters(angles=0)`` requires none. `Parameters.manual`
            has the defaults of the manual.
        output: Spots file to write. None: the results stay in memory.
        frames_path: Dataset of the frames in the file, or several that form one stack. None: as
            the layout of the file defines it.
        angles_path: Dataset of the angles in the file, degrees, one per frame. None: as the layout
            defines it.
        laser_path: Dataset of the laser states in the file, 0 or 1, one per frame. None: as the
            layout defines it.
        table: Text file with columns such as ``angle`` and ``laser_on``, which replace those of the
            input.
        columns: Metadata of frames in memory: one value per frame for each name, such as ``angle``
            (degrees) and ``laser_on`` (0 or 1).
        valid_pixels: ``(n_X, n_Y)`` bool; False pixels are in no mask and in no spot. None: all
            pixels are valid.
        mask: File with an image of good and bad pixels, as ``FILE`` or ``FILE:PATH``.
        mask_good: Good pixels of ``mask``: 0 (zeros are good) or 1 (non-zeros are good). None: as
            the format of the mask defines it, if it does.
        file_mask: Whether the pixel mask in the input file is used.
        reject: Regions to exclude: ``"rect:X0,X1,Y0,Y1"``, ``"disc:X,Y,R"`` or ``"border:N"``.
        valid_range: Smallest and largest valid value, counts; None in its place: no limit. None:
            as the file defines it.
        saturation: Smallest saturated value, counts. None: as the file defines it, otherwise the
            maximum of an integer type; unknown for floats.
        compression: Compression of ``output``: ``"gzip"``, ``"lzf"``, ``"none"``, or a filter of
            hdf5plugin, if that is installed.
        backend: ``"auto"``, ``"gpu"`` or ``"cpu"``.
        threads: Number of threads of the host, at least one per GPU. None: one per core.
        device: Number of the GPU, or of several GPUs that share the work. None: the first one.
        device_memory_limit: GPU memory that may be used, on each GPU, bytes. None: all that is
            free.
        memory_limit: Memory that frames and results may use, bytes. None: all that is free.
        scratch: Folder of a scratch file, for runs that do not fit in memory. None: the folder of
            ``output``.
        batch: Number of frames whose masks are computed at once. None: chosen by the program.
        keep: Stacks of the results: some of ``raw``, ``filtered``, ``synced``, ``labels`` and
            ``pixels``.
        force: Whether an existing ``output`` is overwritten.

    Returns:
        The results. Use them in a ``with`` statement, or close them.

    Raises:
        GpuSpotsError: The input, a parameter or the output cannot be used. The text is one line
            that gives the file, dataset or parameter, the value found and the value expected.

    Warns:
        UserWarning: What the commands print as a warning, such as a beam that drifts.

    Examples:
        >>> import numpy as np
        >>> frames = np.random.default_rng(7).poisson(100, (40, 60, 80)).astype(np.uint16)
        >>> frames[5, 20:26, 30:35] += 200  # a spot on frame 5
        >>> with find_spots(frames, Parameters(angles=0)) as results:
        ...     print(results.n_spots, results.spots()["frame"])
        1 [5]
    """
    parameters = Parameters() if parameters is None else parameters
    if not isinstance(parameters, Parameters):
        raise ParameterError("parameters", f"{parameters!r} is not Parameters(...)")
    parameters.check_used()
    inputs = Inputs(
        frames_path=(frames_path,) if isinstance(frames_path, str) else tuple(frames_path or ()),
        angles_path=angles_path,
        laser_path=laser_path,
        table=None if table is None else Path(table),
        mask=None if mask is None else str(mask),
        mask_good=mask_good,
        file_mask=file_mask,
        reject=parse_regions(reject),
        valid_range=valid_range,
        saturation=saturation,
        columns=columns,
        valid_pixels=None if valid_pixels is None else np.asarray(valid_pixels, bool),
    )
    results = Output(None if output is None else Path(output), compression, frozenset(keep), force)
    resources = Resources(
        select_backend(backend, threads, device, device_memory_limit),
        ResourceLimits(memory_limit, batch),
        spool_for(results.path, None if scratch is None else Path(scratch)),
    )
    observer = PythonWarnings()
    with open_stack(frames, inputs, observer, resources.backend.workers) as stack:
        if results.path is None:
            return find_in_memory(stack, parameters, resources, results, observer)
        find_to_file(stack, parameters, resources, results, observer)
        return open_spots(results.path)


def convert(
    images: ImageRequest,
    output: str | Path | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
) -> Path:
    """Write a run of images as one HDF5 file, as ``gpu-spots convert`` does.

    Args:
        images: Images of the run, and their metadata.
        output: File to write. None: a name made from the log, the table or the images.
        threads: Number of threads that read and compress. None: one per core.
        force: Whether an existing ``output`` is overwritten.

    Returns:
        Path of the file.

    Raises:
        GpuSpotsError: An image, a parameter or the output cannot be used. The text is one line that
            gives the file or parameter, the value found and the value expected.

    Examples:
        >>> print(convert(ImageRequest(log="scan.log", folder="xray_images")))
        scan__mccd.h5
    """
    path = default_output(images, "mccd") if output is None else Path(output)
    workers = threads or default_workers()
    observer = PythonWarnings()
    write_converted(open_images(images, observer, workers), path, observer, workers, force=force)
    return path


def ratios(
    spots: str | Path,
    output: str | Path | None = None,
    *,
    scale: str = "none",
    intensity: str | None = None,
    keep_saturated: bool = False,
    hkl: str | Path | None = None,
    geometry: Geometry | None = None,
    cell: UnitCell | None = None,
    laueutil: str | Path | None = None,
    force: bool = False,
) -> RatioResult:
    """Return the on/off ratios of a spots file, as ``gpu-spots ratios`` does.

    Args:
        spots: Spots file of a laser run with ``-S pairs`` or ``-S blocks``.
        output: Ratios file to write. None: nothing is written.
        scale: ``"none"`` or ``"pairs"``; see `SpotsFile.ratios`.
        intensity: ``"I"`` or ``"I_prf"``. None: ``I_prf`` if the file has it.
        keep_saturated: Whether pairs with saturated spots are used.
        hkl: Table with the Miller indices of spots; see docs/ratios.md.
        geometry: Detector and wavelengths, for sin(theta)/wavelength and the photo-Wilson fit.
        cell: Unit cell, for sin(theta)/wavelength of reflections with Miller indices.
        laueutil: Name, without ending, of the files of LaueUtil's lu_indexing2ratios to write.
            None: none. They need ``hkl``.
        force: Whether an existing ``output`` is overwritten.

    Returns:
        Ratios, pairs, null tests and verdict.

    Raises:
        GpuSpotsError: The spots file, a table, a parameter or the output cannot be used.

    Examples:
        >>> found = ratios("laser__spots.h5", "laser__ratios.h5")
        >>> print(found.verdict.partition(":")[0], "with", sorted(found.null))
        response seen with ['off_off', 'on_off', 'on_on', 'pairs']
    """
    if laueutil is not None and hkl is None:
        raise ParameterError("laueutil", f"needs Miller indices; give them with {given('hkl')}")
    sources = [Path(spots), *([] if hkl is None else [Path(hkl)])]
    if output is not None:
        check_output(Path(output), sources, force)
        if laueutil is not None and Path(output) in output_names(Path(laueutil)):
            raise OutputError(f"{output}: two outputs have the same name; choose another")
    with open_spots(spots) as results:
        found = ratios_of(
            results,
            scale=scale,
            intensity=intensity,
            keep_saturated=keep_saturated,
            hkl=None if hkl is None else Path(hkl),
            geometry=geometry,
            cell=cell,
        )
        if laueutil is not None:
            places = results.spots()["XY"]
            left_out = write_laueutil(
                found, places, Path(laueutil), sources, geometry=geometry, force=force
            )
            found.notes.extend(left_out)
    if output is not None:
        options = {
            "scale": scale,
            "intensity": found.figures["intensity"],
            "keep_saturated": keep_saturated,
            **({} if hkl is None else {"hkl": str(hkl)}),
            **({} if geometry is None else asdict(geometry)),
            **({} if cell is None else {"cell": astuple(cell)}),
        }
        write_ratios(found, Path(output), sources, options, force=force)
    return found


def merge_ratios(
    files: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    by: str | None = None,
    force: bool = False,
) -> MergeResult:
    """Return the merged on/off ratios of several runs, as ``gpu-spots merge`` does.

    Args:
        files: At least two ratios files, of different runs.
        output: File to write. None: nothing is written.
        by: ``"hkl"``: reflections with the same Miller indices and delay, at all angles.
            ``"position"``: those of the same angle, delay and place, within 3 pixels. None:
            ``"hkl"`` if all files have it, else ``"position"``.
        force: Whether an existing ``output`` is overwritten.

    Returns:
        Weighted means with errors, the ratios in them, and a comparison of each two runs.

    Raises:
        GpuSpotsError: A file is no ratios file, is of the same run as another, the runs have no
            reflection in common, or the output cannot be written.

    Examples:
        >>> merge_ratios(["laser__ratios.h5"])
        Traceback (most recent call last):
        ...
        gpu_spots.errors.ParameterError: files: found 1, expected at least two ratios files
    """
    paths = [Path(file) for file in files]
    if output is not None:
        check_output(Path(output), paths, force)
    found = merged_of(paths, by)
    if output is not None:
        write_merged(found, Path(output), paths, force=force)
    return found


def report(
    spots: str | Path,
    output: str | Path | None = None,
    *,
    frames_from: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write a page about a run, and its numbers as JSON, as ``gpu-spots report`` does.

    Args:
        spots: Spots file.
        output: Page to write; the numbers get the same name with the ending ``.json``. None: a
            name made from that of the spots file, in its folder.
        frames_from: HDF5 file with the frames of the run, or folder of its images. None: as the
            spots file names them. Without frames, the page has no pictures of them.
        force: Whether existing outputs are overwritten.

    Returns:
        Path of the page.

    Raises:
        GpuSpotsError: The spots file or ``frames_from`` cannot be read, an output exists or cannot
            be written, or Jinja2 is not installed.

    Examples:
        >>> print(report("laser__spots.h5"))
        laser__report.html
    """
    from gpu_spots.reporting.write import default_output, write_report  # only reports need it

    path = default_output(Path(spots)) if output is None else Path(output)
    frames = None if frames_from is None else Path(frames_from)
    write_report(Path(spots), path, frames, force=force)
    return path


class _Notes:
    """An observer of a batch that shows no progress; its notes are Python's warnings."""

    def begin(self, n_runs: int, n_done: int, n_bytes: int) -> None:
        """Nothing to show."""

    def finished(self, record: Mapping[str, Any], n_bytes: int) -> None:
        """Nothing to show."""

    def tick(self) -> None:
        """Nothing to show."""

    def note(self, message: str) -> None:
        """Warn whoever called `batch`."""
        PythonWarnings().warn(message)


def batch(
    runs: str | Path | Sequence[str | Path],
    output: str | Path,
    parameters: Parameters | None = None,
    *,
    options: Sequence[str] = (),
    dark_options: Sequence[str] = (),
    laser_options: Sequence[str] = (),
    ratios: bool = False,
    export: Sequence[str] = (),
    report: bool = False,
    pattern: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    client: "Client | None" = None,
    jobs: int | None = None,
    backend: str = "auto",
    threads: int | None = None,
    memory_limit: int | None = None,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Find the spots of many runs, as ``gpu-spots batch`` does.

    Runs that are done, with the same input and options, are skipped. A run that fails does not end
    the others. A script that calls this without a ``client`` must do so below a line
    ``if __name__ == "__main__":``, as Dask starts processes that import the script.

    Args:
        runs: Folders, files of runs, or lists of runs (CSV or YAML).
        output: Folder of the results, which is made.
        parameters: Parameters of all runs. None: the defaults of ``gpu-spots find``.
        options: Further options of all runs, as words of the command line of ``gpu-spots find``.
        dark_options: Further options of runs without laser-on frames.
        laser_options: Further options of runs with laser-on frames.
        ratios: Whether on/off ratios of laser runs are written.
        export: Formats of ``gpu-spots export`` that are written for each run.
        report: Whether a report of each run is written.
        pattern: Patterns of files in folders that are runs. Empty: all that can be runs.
        exclude: Patterns of files and folders that are left out.
        client: Client of a Dask cluster. Its workers must see the files of the runs and the folder
            of the results. None: a cluster on this computer, for this batch.
        jobs: Number of runs at the same time, without a ``client``. None: one per GPU, or one per
            2 cores.
        backend: ``"auto"``, ``"gpu"`` or ``"cpu"``. With a ``client``, ``"gpu"`` uses workers with
            a Dask resource ``GPU``.
        threads: Number of threads of each run. None: the cores of a computer are shared.
        memory_limit: Memory of each run, bytes. None: the memory of a computer is shared.
        force: Whether runs that are done are processed again.

    Returns:
        One row per run: the columns of ``runs.csv``, see docs/beamtime.md. ``state`` is ``"done"``
        or ``"failed"``, then with the reason in ``error``.

    Raises:
        GpuSpotsError: There are no runs, a parameter is wrong, the folder cannot be written, or
            there is no cluster.

    Examples:
        >>> rows = batch("laser__mccd.h5", "results", laser_options=["-S", "blocks"], jobs=1)
        >>> print(rows[0]["run"], rows[0]["state"], rows[0]["frames"])
        laser done 60
    """
    from gpu_spots.beamtime.computers import local_computers, require_cluster
    from gpu_spots.beamtime.lists import take_runs
    from gpu_spots.beamtime.runs import Search
    from gpu_spots.beamtime.session import Batch, run_batch, sort_out
    from gpu_spots.beamtime.tables import rows
    from gpu_spots.beamtime.task import Processing
    from gpu_spots.cli.words import check_words, input_files, words_of, words_of_parameters

    require_cluster()
    if parameters is not None and not isinstance(parameters, Parameters):
        raise ParameterError("parameters", f"{parameters!r} is not Parameters(...)")
    common = [*(words_of_parameters(parameters) if parameters else ()), *options]
    for words in (dark_options, laser_options):
        check_words([*common, *words])
    processing = Processing(
        options=tuple(common),
        dark=tuple(dark_options),
        laser=tuple(laser_options),
        ratios=ratios,
        exports=tuple(tuple(one.split()) for one in export),
        report=report,
        resources=() if backend == "auto" else ("--backend", backend),
    )
    out = Path(output)
    search = Search(
        _texts(pattern), _texts(exclude), (out,), image_folders="--angle-step" in common
    )
    found = take_runs(
        [runs] if isinstance(runs, str | Path) else runs, search, check_words, words_of
    )
    observer = _Notes()
    for note in found.notes:
        observer.note(note)
    whole = Batch(
        found.runs, processing, out, input_files, force=force, threads=threads, memory=memory_limit
    )
    if client is not None:
        whole = replace(whole, resources={"GPU": 1} if backend == "gpu" else {})
        return rows(run_batch(whole, lambda: nullcontext(client), observer))
    n_pending = len(sort_out(whole, "")[0])
    computers = local_computers(max(1, n_pending), jobs, None, backend)
    whole = replace(
        whole,
        processing=replace(processing, resources=(*computers.backend, *processing.resources)),
        threads=threads or computers.threads,
        memory=memory_limit or computers.memory,
        resources=computers.resources,
    )
    return rows(run_batch(whole, computers.connect, observer))


def _texts(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
