"""Moments of a band as the kernels leave them on the device, and their way to the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit, fetched
from gpu_spots.cuda.validity import bits_of
from gpu_spots.model import Array, FloatMoments, IntegerMoments


@dataclass(frozen=True, slots=True)
class PlaneMoments:
    """Results of the bit-plane kernel: flat arrays of the band's pixels, 0 if masked.

    They are on the device, in the shortest types.
    """

    kept: Any
    """uint16."""
    total: Any
    """uint32, modulo 2^32: int32 for signed frames."""
    scatter: Any
    """uint64."""
    iqr4: Any
    """int32."""
    max: Any
    """The frames' dtype."""
    arg: Any
    """uint16."""
    gaps: Any
    """(1,) int32: 1 if a pixel that is not masked is invalid on some frames and valid on others."""

    def to_host(self, toolkit: Toolkit, shape: tuple[int, ...]) -> IntegerMoments:
        """Return the moments on the host."""
        on_device = (self.kept, self.total, self.scatter, self.iqr4, self.max, self.arg, self.gaps)
        kept, total, scatter, iqr4, largest, arg, gaps = fetched(toolkit, on_device)
        return IntegerMoments(
            kept=kept.astype(np.int32).reshape(shape),
            total=total.view(np.int32 if largest.dtype.kind == "i" else np.uint32)
            .astype(np.int64)
            .reshape(shape),
            scatter_low=scatter.reshape(shape),
            scatter_high=None,
            iqr4=iqr4.astype(np.int64).reshape(shape),
            max=largest.reshape(shape),
            arg=arg.astype(np.int32).reshape(shape),
            gaps=bool(gaps[0]),
        )


@dataclass(frozen=True, slots=True)
class RankedMoments:
    """Results of the sorting kernels: flat arrays of the band's pixels, 0 if masked.

    They are on the device.
    """

    maps: dict[str, Any]
    """Maps by the fields of `IntegerMoments` or `FloatMoments`; ``dropped`` for kruskal only."""
    gaps: Any
    """(1,) int32: 1 if a pixel that is not masked is invalid on some frames and valid on others."""

    @classmethod
    def empty(cls, toolkit: Toolkit, dtype: np.dtype[Any], n_pixels: int) -> "RankedMoments":
        """Allocate the moments of frames of a type."""
        types: dict[str, Any] = {"kept": np.int32, "max": dtype, "arg": np.int32}
        if dtype.kind == "f":
            types |= dict.fromkeys(("average", "deviation", "iqr"), np.float64)
        else:
            types |= {
                "total": np.int64,
                "iqr4": np.int64,
                "scatter_low": np.uint64,
                "scatter_high": np.uint64,
            }
        return cls(
            {name: toolkit.xp.empty(n_pixels, kind) for name, kind in types.items()},
            toolkit.xp.zeros(1, np.int32),
        )

    def arguments(self) -> tuple[Any, ...]:
        """Return the arrays in the order of the kernels' arguments."""
        names = (
            ["average", "deviation", "iqr"]
            if "average" in self.maps
            else ["total", "iqr4", "scatter_low", "scatter_high"]
        )
        largest = self.maps["max"]
        return (
            self.maps["kept"],
            largest if "average" in self.maps else bits_of(largest),
            self.maps["arg"],
            self.gaps,
            *(self.maps[name] for name in names),
        )

    def to_host(self, toolkit: Toolkit, shape: tuple[int, ...]) -> IntegerMoments | FloatMoments:
        """Return the moments on the host."""
        return self._moments(fetched(toolkit, [*self.maps.values(), self.gaps]), shape)

    @contextmanager
    def on_host(
        self, toolkit: Toolkit, shape: tuple[int, ...]
    ) -> Iterator[IntegerMoments | FloatMoments]:
        """Yield the moments on the host; they are valid until the block ends."""
        with toolkit.host_copies([*self.maps.values(), self.gaps]) as on_host:
            yield self._moments(on_host, shape)

    def _moments(
        self, on_host: list[Array], shape: tuple[int, ...]
    ) -> IntegerMoments | FloatMoments:
        *maps, gaps = on_host
        fields: dict[str, Any] = {
            name: values.reshape(shape) for name, values in zip(self.maps, maps, strict=True)
        }
        if "average" in fields:
            return FloatMoments(**fields, gaps=bool(gaps[0]))
        if not fields["scatter_high"].any():
            fields["scatter_high"] = None
        return IntegerMoments(**fields, gaps=bool(gaps[0]))
