"""The CPU backend: the operations of ``gpu_spots.backend.Backend`` with NumPy and SciPy."""

from cpu_fallback.backend import CpuBackend

__all__ = ["CpuBackend"]
