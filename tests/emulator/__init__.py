"""CUDA on the CPU: kernels compiled by g++, and NumPy in CuPy's place."""
