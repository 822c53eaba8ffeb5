"""Command lines of find as lists of words: made from options, checked, and looked into."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gpu_spots.cli.find import find, take_request
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.parameters import Parameters, has_effect

NOT_IN_A_BATCH = ("output", "report", "force", "quiet", "debug", "version", "help", "dry_run")
"""Options of find that each run of a batch gets from the batch."""
WITHOUT_EFFECT = (
    *("backend", "threads", "device", "device_memory_limit", "memory_limit", "scratch", "batch"),
)
"""Options of find that do not change results."""


def find_options() -> dict[str, click.Option]:
    """Return the options of find that the runs of a batch can have, by the names of parameters."""
    return {
        str(option.name): option
        for option in find.params
        if isinstance(option, click.Option) and option.name not in NOT_IN_A_BATCH
    }


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return the words for options by their long names, as a list of runs has them.

    Args:
        options: values by name, such as ``cutoff``, ``angle-step`` or ``no_file_mask``. A switch
            is True or False. An option that can be repeated may have a list.

    Raises:
        ParameterError: find has no such option.
    """
    known: dict[str, click.Option] = {}
    for option in find_options().values():
        known |= {opt.lstrip("-").replace("-", "_"): option for opt in option.opts}
    words: list[str] = []
    for name, value in options.items():
        key = name.replace("-", "_")
        if key not in known:
            raise ParameterError(name, "is not an option of gpu-spots find")
        words += option_words(known[key], value)
    return words


def option_words(option: click.Option, value: Any) -> list[str]:
    """Return the words that give an option of find a value. Raises `ParameterError`."""
    word = option.opts[0]
    if option.is_flag:
        if str(value).lower() in ("true", "1", "yes"):
            return [word]
        if str(value).lower() in ("false", "0", "no", ""):
            return []
        raise ParameterError(word, f"{value!r} is not true or false")
    if value is None:
        return []
    if option.multiple and isinstance(value, list | tuple):
        return [part for one in value for part in (word, str(one))]
    if isinstance(value, list | tuple):
        return [word, ",".join(map(str, value))]
    return [word, str(value)]


def words_of_parameters(parameters: Parameters) -> list[str]:
    """Return the words for all parameters of the search that have an effect."""
    options = find_options()
    chosen = {"method": parameters.method, "finder": parameters.finder}
    return [
        word
        for name in Parameters.__dataclass_fields__
        if has_effect(name, chosen)
        for word in option_words(options[name], getattr(parameters, name))
    ]


def without_effect(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that can change results, and the others."""
    neutral = {
        opt: option.is_flag
        for name in WITHOUT_EFFECT
        if (option := find_options().get(name)) is not None
        for opt in option.opts
    }
    kept: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name = word.partition("=")[0] if word.startswith("--") else word
        target = others if name in neutral else kept
        target.append(word)
        if name in neutral and not neutral[name] and name == word and rest:
            target.append(rest.pop(0))
    return kept, others


@contextmanager
def parsed(words: Iterable[str]) -> Iterator[tuple[Any, Any, Parameters, dict[str, Any]]]:
    """Parse a command line of find; the running command is find while the block runs.

    Yields:
        What to open, `Inputs`, `Parameters`, and the other options by name.

    Raises:
        InputError: Something is wrong with the words.
    """
    words = list(words)
    try:
        context = find.make_context("find", words)
    except click.ClickException as error:
        raise InputError(" ".join(error.format_message().split())) from error
    except click.exceptions.Exit:
        raise InputError("--help and --version cannot be used in a batch") from None
    with context.scope():
        options = dict(context.params)
        sources = options.pop("sources")
        for name in ("output", "report", "force", "dry_run"):
            if options[name]:
                opt = next(o.opts[-1] for o in find.params if o.name == name)
                raise InputError(f"{opt}: cannot be used for single runs of a batch")
        try:
            images, inputs, parameters = take_request(sources, options)
        except click.ClickException as error:
            raise InputError(" ".join(error.format_message().split())) from error
        frames: Any = Path(sources[0]) if images is None else images
        if images is not None:
            from gpu_spots.files.images.image_list import ImageRequest

            frames = ImageRequest(**images)
        yield frames, inputs, parameters, options


def check_words(words: Sequence[str], source: str = "run__mccd.h5") -> None:
    """Raise `InputError` for words that find would refuse before it opens the input."""
    with parsed([source, *words]):
        pass


def input_files(words: Sequence[str]) -> list[Path]:
    """Return the files that a run reads, as far as they are known without opening HDF5 files.

    Raises:
        InputError: The words are wrong, or the log or table of a run of images is.
    """
    from gpu_spots.beamtime.runs import companions
    from gpu_spots.files.images.image_list import ImageRequest, list_images

    with parsed(words) as (frames, inputs, _, __):
        others = [] if inputs.table is None else [inputs.table]
        if inputs.mask is not None:
            whole = Path(inputs.mask)
            others.append(whole if whole.exists() else Path(inputs.mask.rpartition(":")[0]))
        if not isinstance(frames, ImageRequest):
            return [frames, *companions(frames), *others]
        images = list_images(frames)
        return [*images.inputs, *images.paths, *others]


class Quiet:
    """An observer that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str, total: int, unit: str) -> None:
        """Nothing to show."""

    def advance(self, steps: int) -> None:
        """Nothing to show."""

    def warn(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)


def look_into(words: Sequence[str]) -> dict[str, Any]:
    """Open a run without reading frames, and return what a batch must know.

    Returns:
        ``kind`` (laser if it has laser-on frames, else dark), ``shape``, ``dtype``, ``bytes``,
        ``files`` that were opened, and ``given``, the files that `input_files` returns.

    Raises:
        GpuSpotsError: The run cannot be opened.
    """
    from gpu_spots.files.opening import open_stack
    from gpu_spots.masks import grouping
    from gpu_spots.memory.workers import default_workers

    with (
        parsed(words) as (frames, inputs, _, __),
        open_stack(frames, inputs, Quiet(), default_workers()) as stack,
    ):
        try:
            states = grouping.laser_states(stack.columns, stack.shape[0], stack.source)
        except InputError:  # find says so, where it needs the states
            states = None
        is_laser = states is not None and bool(states.any())
        return {
            "kind": "laser" if is_laser else "dark",
            "shape": list(stack.shape),
            "dtype": str(stack.dtype),
            "bytes": int(stack.dtype.itemsize * stack.shape[0] * stack.shape[1] * stack.shape[2]),
            "files": [os.path.abspath(path) for path in stack.files],
            "given": [os.path.abspath(path) for path in input_files(words)],
        }


def plan_lines(words: Sequence[str], output: Path) -> list[str]:
    """Return the plan of a run as lines.

    Raises:
        GpuSpotsError: find would refuse the run before it reads frames.
    """
    from gpu_spots.backend import choose_backend
    from gpu_spots.cli.plan_options import plan_in_words
    from gpu_spots.files.opening import open_stack
    from gpu_spots.memory.plan import ResourceLimits
    from gpu_spots.resources import Resources
    from gpu_spots.run import Output, expected_size, plan_to_file, spool_for

    with parsed(words) as (frames, inputs, parameters, options):
        backend, _ = choose_backend(
            options["backend"],
            options["threads"],
            options["device"],
            options["device_memory_limit"],
        )
        limits = ResourceLimits(options["memory_limit"], options["batch"])
        resources = Resources(backend, limits, spool_for(output, options["scratch"]))
        results = Output(output, options["compression"], options["keep"], force=True)
        with open_stack(frames, inputs, Quiet(), backend.workers) as stack:
            plan = plan_to_file(stack, parameters, resources, results)
            size = expected_size(stack, parameters, options["keep"])
            return plan_in_words(plan, output, size, must_force=False)
