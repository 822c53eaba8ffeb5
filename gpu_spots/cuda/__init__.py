"""The CUDA backend: the only modules that import CuPy, when a device is requested."""
