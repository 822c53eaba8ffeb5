"""Command ``python -m gpu_spots``, the same as ``gpu-spots``."""

from gpu_spots.cli import gpu_spots

if __name__ == "__main__":
    gpu_spots(prog_name="gpu-spots")
