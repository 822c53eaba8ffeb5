"""The CUDA backend: the only rooms that import CuPy, and only when a device is asked for."""
