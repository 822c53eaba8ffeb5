"""Imports: which module may import which, and what an import loads."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gpu_spots.background.methods import METHODS
from gpu_spots.parameters import METHOD_NAMES
from helpers import ROOT

FILES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for room in ("gpu_spots", "cpu_fallback")
    for path in (ROOT / room).rglob("*.py")
}


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """Return every module that a file imports, as a path.

    ``from package import module`` counts as the module.
    """
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name.replace(".", "/") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = (node.module or "").replace(".", "/")
            for alias in node.names:
                name = f"{base}/{alias.name}"
                found.add(name if name in FILES or f"{name}/__init__" in FILES else base)
    return frozenset(found)


def ours(name: str) -> set[str]:
    return {
        module
        for module in imported(FILES[name])
        if module.split("/")[0] in ("gpu_spots", "cpu_fallback")
    }


def importers(module: str) -> set[str]:
    return {
        name
        for name, path in FILES.items()
        if any(found.split("/")[0] == module for found in imported(path))
    }


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 40
    assert ours("gpu_spots/pipeline")


FOUNDATION = {f"gpu_spots/{name}" for name in ("errors", "model", "noise_model", "parameters")}


@pytest.mark.parametrize("name", ["errors", "model", "noise_model", "parameters", "columns"])
def test_the_foundation_stands_on_itself(name: str) -> None:
    assert ours(f"gpu_spots/{name}") <= FOUNDATION


@pytest.mark.parametrize(
    "name",
    [
        "background/maps",
        "background/levels",
        "background/clip",
        "background/correlation",
        "background/noise",
        "background/static_spots",
        "masks/grouping",
        "spots/frames",
        "spots/centroids",
        "spots/neighbours",
        "spots/one_frame",
        "spots/profiles",
        "spots/properties",
        "spots/table",
        "spots/turns",
    ],
)
def test_formulas_import_the_foundation_only(name: str) -> None:
    others = {
        "background/levels": {"gpu_spots/background/correlation"},
        "background/noise": {"gpu_spots/background/clip"},
        "spots/frames": {"gpu_spots/masks/grouping"},
        "spots/centroids": {"gpu_spots/spots/turns"},
        "spots/properties": {
            "gpu_spots/columns",
            "gpu_spots/spots/neighbours",
            "gpu_spots/spots/turns",
        },
        "spots/profiles": {
            "gpu_spots/spots/centroids",
            "gpu_spots/spots/properties",
            "gpu_spots/spots/turns",
        },
        "spots/table": {"gpu_spots/spots/properties"},
    }
    assert ours(f"gpu_spots/{name}") <= others.get(name, set()) | FOUNDATION


def test_ratios_are_computed_from_arrays() -> None:
    """Neither files nor other formulas: only errors, bits of flags, and each other."""
    package = "gpu_spots/spots/ratios/"
    names = [name for name in FILES if name.startswith(package)]
    assert len(names) > 8
    for name in names:
        others = {module for module in ours(name) if not module.startswith(package)}
        assert others <= {"gpu_spots/columns", "gpu_spots/errors"}, name


@pytest.mark.parametrize(
    "name",
    [
        "pipeline",
        "memory/amounts",
        "memory/needs",
        "memory/plan",
        "memory/shuffled",
        "memory/source",
        "memory/workers",
        "first_pass",
        "second_pass",
        "protocols",
    ],
)
def test_the_pipeline_knows_contracts_and_no_implementation(name: str) -> None:
    assert not [
        module
        for module in ours(f"gpu_spots/{name}")
        if module.startswith(("cpu_fallback", "gpu_spots/files", "gpu_spots/cli"))
    ]


def test_only_files_imports_hdf5_and_codecs() -> None:
    for module in ("h5py", "hdf5plugin", "deflate", "isal"):
        assert importers(module)
        assert all(name.startswith("gpu_spots/files/") for name in importers(module))


def test_only_cli_imports_click_and_rich() -> None:
    for module in ("click", "rich"):
        assert importers(module)
        assert all(name.startswith("gpu_spots/cli/") for name in importers(module))


def test_scipy_is_the_fallbacks_and_two_formulas() -> None:
    assert {name for name in importers("scipy") if not name.startswith("cpu_fallback/")} == {
        "gpu_spots/background/methods",
        "gpu_spots/spots/ratios/null_tests",
        "gpu_spots/spots/ratios/pairing",
    }


def test_the_fallback_imports_the_model_and_formulas_only() -> None:
    rooms = (
        "model",
        "background/clip",
        "background/maps",
        "background/methods",
        "masks/kernels",
        "masks/matched",
        "masks/matched_spots",
        "masks/seed_levels",
        "spots/neighbours",
    )
    allowed = {f"gpu_spots/{room}" for room in rooms}
    for name in FILES:
        if name.startswith("cpu_fallback/"):
            assert {module for module in ours(name) if module.startswith("gpu_spots")} <= allowed


def test_no_room_asks_which_background_method_it_is() -> None:
    """Only the backends, which compute it; everything else asks the method itself."""
    names = {method.__name__ for method in METHODS.values()}
    for name, path in FILES.items():
        if (
            name.startswith(("cpu_fallback/", "gpu_spots/cuda/"))
            or name == "gpu_spots/background/methods"
        ):
            continue
        source = parsed(path)
        used = {node.id for node in ast.walk(source) if isinstance(node, ast.Name)}
        compared = {
            side.value
            for node in ast.walk(source)
            if isinstance(node, ast.Compare)
            for side in (node.left, *node.comparators)
            if isinstance(side, ast.Constant)
        }
        assert not used & names, name
        assert not compared & METHODS.keys(), name


def test_no_room_asks_which_stack_it_is() -> None:
    """Only what opens frames names its kind of stack, and convert, which needs image headers."""
    rooms = {
        "ArrayStack": {"frames", "opening"},
        "FileStack": {"frames"},
        "ImageStack": {
            "images/image_stack",
            "opening",
            "output/converted",
            "output/frames_of_spots",
        },
    }
    for stack, allowed in rooms.items():
        users = {
            name for name, path in FILES.items() if re.search(rf"\b{stack}\b", path.read_text())
        }
        assert users == {f"gpu_spots/files/{name}" for name in allowed}, stack


def test_every_background_method_can_be_chosen() -> None:
    """parameters.py has the names once more, since METHODS needs NumPy, which loads slowly."""
    assert tuple(METHODS) == METHOD_NAMES


def test_only_the_cuda_room_imports_cupy() -> None:
    assert importers("cupy")
    assert all(name.startswith("gpu_spots/cuda/") for name in importers("cupy"))


def test_the_cuda_room_is_entered_by_its_devices_only() -> None:
    """Only the choice of a backend and the list of devices import it, inside functions.

    It never imports the fallback.
    """
    outside = {
        name: {m for m in ours(name) if m.startswith("gpu_spots/cuda")}
        for name in FILES
        if not name.startswith("gpu_spots/cuda/")
    }
    assert {name: modules for name, modules in outside.items() if modules} == {
        "gpu_spots/backend": {"gpu_spots/cuda/devices"},
        "gpu_spots/cli/devices": {"gpu_spots/cuda/devices"},
        "gpu_spots/cli/runner": {"gpu_spots/cuda/devices"},
    }
    for name in FILES:
        if name.startswith("gpu_spots/cuda/"):
            rooms = (
                "errors",
                "model",
                "packages",
                "spots/table",
                "background/clip",
                "background/maps",
                "background/methods",
                "masks/kernels",
                "masks/matched",
                "masks/matched_spots",
                "masks/seed_levels",
            )
            allowed = {f"gpu_spots/{room}" for room in rooms}
            assert (
                not {module for module in ours(name) if not module.startswith("gpu_spots/cuda/")}
                - allowed
            ), name


def test_only_select_backend_knows_the_fallback() -> None:
    assert {name for name in importers("cpu_fallback") if name.startswith("gpu_spots/")} == {
        "gpu_spots/backend"
    }


def test_files_never_import_a_backend_or_the_pipeline() -> None:
    for name in FILES:
        if name.startswith("gpu_spots/files/"):
            assert not ours(name) & {
                "gpu_spots/backend",
                "gpu_spots/pipeline",
                "gpu_spots/first_pass",
                "gpu_spots/second_pass",
            }


def test_exports_import_files_and_columns_and_no_computation() -> None:
    """A format is loaded by the list of formats only, and pandas and pyarrow when they are used."""
    allowed = {"columns", "errors", "geometry", "model", "packages", "protocols"}
    allowed |= {"masks/grouping", "memory/workers"}
    for name in FILES:
        if name.startswith("gpu_spots/export/"):
            others = {module.removeprefix("gpu_spots/") for module in ours(name)} - {"__init__"}
            rest = {m for m in others if not m.startswith(("export/", "files/"))}
            assert rest - {"gpu_spots"} <= allowed, name
    outside = {name for name in FILES if not name.startswith("gpu_spots/export/")}
    users = {name for name in outside if any(m.startswith("gpu_spots/export") for m in ours(name))}
    assert users == {"gpu_spots/cli/export", "gpu_spots/beamtime/task"}
    assert importers("pyarrow") == {"gpu_spots/beamtime/tables", "gpu_spots/export/parquet"}
    assert importers("pandas") == {"gpu_spots/files/output/spots_file"}


def test_only_two_modules_import_dask() -> None:
    """Whatever else is said of a batch is said of one run, and can be tested without a cluster."""
    for module in ("dask", "distributed", "dask_jobqueue"):
        assert importers(module) <= {
            "gpu_spots/api",  # the type of an argument
            "gpu_spots/beamtime/cluster",
            "gpu_spots/beamtime/session",
        }
    inside = {name for name in FILES if name.startswith("gpu_spots/beamtime/")}
    assert not [name for name in inside if any("/cuda" in m or "cpu_f" in m for m in ours(name))]
    assert not [name for name in inside if any(m.startswith("gpu_spots/cli") for m in ours(name))]


def test_the_task_of_ewoks_is_alone() -> None:
    """Only a program that has Ewoks loads it."""
    assert importers("ewokscore") == {"gpu_spots/ewoks"}
    assert not [name for name in FILES if "gpu_spots/ewoks" in ours(name)]


def test_pictures_are_made_of_arrays() -> None:
    """They compress as HDF5 files do, and read no file."""
    assert ours("gpu_spots/pictures") == {
        "gpu_spots/errors",
        "gpu_spots/model",
        "gpu_spots/files/hdf5/codecs",
    }


def test_reports_read_files_and_compute_nothing_of_a_run() -> None:
    """They are made where they are asked for, and load the engine of the page then."""
    rooms = {name for name in FILES if name.startswith("gpu_spots/reporting/")}
    never = ("cli/", "cuda/", "memory/", "backend", "pipeline", "run", "first_pass", "second_pass")
    for name in rooms:
        others = {module.removeprefix("gpu_spots/") for module in ours(name)}
        assert not [module for module in others if module.startswith(never)], name
    users = {name for name in FILES if ours(name) & rooms} - rooms
    assert users == {"gpu_spots/api", "gpu_spots/cli/find", "gpu_spots/cli/report"}
    assert importers("jinja2") == {"gpu_spots/beamtime/page", "gpu_spots/reporting/write"}


def test_tuning_computes_by_the_pipeline_and_knows_no_page() -> None:
    """The viewer and one command use it; it names no backend and no command."""
    for name in FILES:
        if name.startswith("gpu_spots/tuning/"):
            others = {module.removeprefix("gpu_spots/") for module in ours(name)}
            assert not {m for m in others if m.startswith(("cli", "cuda", "view", "cpu_fallback"))}
    outside = {name for name in FILES if not name.startswith("gpu_spots/tuning/")}
    users = {name for name in outside if any(m.startswith("gpu_spots/tuning") for m in ours(name))}
    assert users == {"gpu_spots/cli/tune", "gpu_spots/view/viewed"}


def test_only_the_viewer_has_a_server() -> None:
    """It is entered by its command, inside a function, as the packages may be missing."""
    assert importers("uvicorn") == {"gpu_spots/view/server"}
    assert importers("starlette") == {"gpu_spots/view/app", "gpu_spots/view/guard"}
    outside = {name for name in FILES if not name.startswith("gpu_spots/view/")}
    users = {name for name in outside if any(m.startswith("gpu_spots/view/") for m in ours(name))}
    assert users == {"gpu_spots/cli/view"}


@pytest.mark.parametrize(
    "statement", ["import gpu_spots", "import gpu_spots.cli", "import gpu_spots.cuda.devices"]
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    heavy = {"cupy", "scipy", "numpy", "h5py", "rich", "distributed"}
    program = f"import sys; {statement}; print(*sorted({heavy!r} & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.split() == []


def test_no_test_imports_another_test() -> None:
    """Code for several test modules is in a folder or a file without tests."""
    tests = ROOT / "tests"
    modules = {path.stem for path in tests.rglob("test_*.py")}
    importing = {
        path.relative_to(tests).as_posix()
        for path in tests.rglob("*.py")
        if any(module in path.read_text() for module in modules)  # others need not be parsed
        if any(modules & set(name.split("/")) for name in imported(path))
    }
    assert len(modules) > 40
    assert not importing


def test_every_test_module_has_a_name_of_its_own() -> None:
    """Pytest imports test modules by their name, without their folder."""
    paths = list((ROOT / "tests").rglob("test_*.py"))
    assert len({path.stem for path in paths}) == len(paths)


def members(name: str, owner: str) -> list[str]:
    """Public functions of a class, or the names that it gives to some, as they stand in a file."""
    (found,) = (
        node
        for node in parsed(FILES[name]).body
        if isinstance(node, ast.ClassDef) and node.name == owner
    )
    names = []
    for node in found.body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names.append(ast.unparse(node.targets[0]))
    return [name for name in names if not name.startswith("_")]


def functions(name: str) -> list[str]:
    """Public functions of a file, as they stand in it."""
    nodes = parsed(FILES[name]).body
    return [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


CONTRACT = [
    operation
    for part in ("DeviceMemory", "Operations", "MatchedFinder")
    for operation in members("gpu_spots/backend", part)
]


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("cpu_fallback/backend", "CpuBackend"),
        ("gpu_spots/cuda/backend", "GpuBackend"),
        ("gpu_spots/cuda/several", "SeveralGpus"),
    ],
)
def test_backends_have_the_operations_of_the_contract_in_its_order(name: str, owner: str) -> None:
    assert members(name, owner) == CONTRACT


def test_backends_compute_the_same_in_files_of_the_same_name() -> None:
    """The CPU has more files for ranks, blocks and values; CUDA has more for the device."""
    twins = {
        name.removeprefix("cpu_fallback/") for name in FILES if name.startswith("cpu_fallback/")
    } - {"__init__", "basins", "blocks", "ranks"}
    twins -= {"clip_blocks", "clip_narrow", "clip_short", "clip_values", "narrow"}
    file_of: dict[str, str] = {}
    for twin in twins:
        ours, theirs = functions(f"cpu_fallback/{twin}"), functions(f"gpu_spots/cuda/{twin}")
        both = [name for name in ours if name in theirs]
        assert both == [name for name in theirs if name in ours], twin
        file_of |= dict.fromkeys(both, twin)
    only_in_backends = {
        "free_bytes",
        "allocate",
        "staging",
        "upload",
        "release",
        "allocate_background",
    }
    assert {*CONTRACT} - {*file_of} == only_in_backends
