"""Errors of CuPy and CUDA as one line with a remedy."""

from gpu_spots.packages import install_command

EXTRA, EXTRA12 = install_command("gpu"), install_command("gpu12")
NO_CUPY = (
    f"CuPy is not installed: {EXTRA} for NVIDIA drivers from 580 on (CUDA 13), {EXTRA12} "
    "for "
    "older ones"
)
KNOWN = (
    (
        ("libnvrtc", "nvrtc64", "failed to load nvrtc"),
        f"NVRTC, CUDA's compiler, is missing: {EXTRA} (CUDA 12: {EXTRA12}) brings it",
    ),
    (
        ("cannot open source file", "could not open source file", "cuda_fp16.h"),
        f"CUDA's headers are missing: {EXTRA} (CUDA 12: {EXTRA12}) brings them",
    ),
    (("cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE"), "the NVIDIA driver sees no device"),
    (
        ("cudaErrorDevicesUnavailable",),
        "the device is taken by another process that does not share it",
    ),
    (("cudaErrorInsufficientDriver",), "the NVIDIA driver is too old for this CuPy"),
    (
        (
            "No space left",
            "Read-only file system",
            "Permission denied",
            "quota exceeded",
            "kernel_cache",
        ),
        "CuPy's kernel cache cannot be written; set CUPY_CACHE_DIR to a folder with free space",
    ),
    (("NVRTC_ERROR_OUT_OF_MEMORY",), "the host's memory is not enough to compile a kernel"),
    (("gpu-architecture", "arch="), "this CUDA cannot compile for the device"),
    (
        (
            "cudaErrorMemoryAllocation",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "out of memory",
            "bad_alloc",
            "bad allocation",
        ),
        "out of memory: other processes use it, or the job is too large",
    ),
)
"""Words that an error has, and what it means."""


def reason(error: BaseException) -> str:
    """Return one line: the meaning of an error if it is known, and its message."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = said if len(said) <= 200 else f"{said[:200]}..."
    for words, meaning in KNOWN:
        if any(word.lower() in said.lower() for word in words):
            return f"{meaning} ({said})"
    return said
