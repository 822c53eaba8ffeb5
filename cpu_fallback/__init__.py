"""The CPU backend: the operations of ``gpu_spots.backend.Backend`` with NumPy."""

from cpu_fallback.backend import CpuBackend

__all__ = ["CpuBackend"]
