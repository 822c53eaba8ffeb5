"""Replace CuPy by a stand-in in every Python that has this folder on its PYTHONPATH.

See tests/emulator/stand_in.py. CuPy is imported and replaced when a program first asks for it.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class StandInModule(ModuleType):
    """The module cupy: functions of arrays are NumPy's, as the benchmarks compare with CuPy's own.

    The backend is held to the few that `emulator.arrays.ArrayModule` has.
    """

    cuda: Any

    def __getattr__(self, name: str) -> Any:
        import numpy as np

        from emulator.arrays import DeviceArray, in_the_role_of

        if name == "ndarray":
            return DeviceArray
        value = getattr(np, name)
        return value if isinstance(value, type | np.dtype | float | int) else in_the_role_of(value)


class StandInFinder(MetaPathFinder, Loader):
    """Finds one module, cupy."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """CuPy, by this loader."""
        return ModuleSpec(fullname, self) if fullname == "cupy" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The stand-in, made of the real one."""
        sys.meta_path.remove(self)
        sys.path.append(str(Path(__file__).parents[2]))
        import cupy as real

        # what is imported from here on finds the stand-in, and the errors that the real one raises
        stand_in = sys.modules["cupy"] = StandInModule("cupy")
        stand_in.cuda = real.cuda
        from emulator.stand_in import fill

        fill(stand_in, real)
        return stand_in

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


sys.meta_path.insert(0, StandInFinder())
