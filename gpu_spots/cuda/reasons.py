"""What CuPy and CUDA say, as one line that says what to do."""

from gpu_spots.packages import install_command

EXTRA, EXTRA12 = install_command("gpu"), install_command("gpu12")
NO_CUPY = f"CuPy is not installed: {EXTRA} for NVIDIA drivers from 580 on (CUDA 13), {EXTRA12} for older ones"
KNOWN = (
    (("libnvrtc", "nvrtc64", "failed to load nvrtc"), f"NVRTC, CUDA's compiler, is missing: {EXTRA} (CUDA 12: {EXTRA12}) brings it"),
    (
        ("cannot open source file", "could not open source file", "cuda_fp16.h"),
        f"CUDA's headers are missing: {EXTRA} (CUDA 12: {EXTRA12}) brings them",
    ),
    (("cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE"), "the NVIDIA driver sees no device"),
    (("cudaErrorDevicesUnavailable",), "the device is taken by another process that does not share it"),
    (("cudaErrorInsufficientDriver",), "the NVIDIA driver is too old for this CuPy"),
    (("gpu-architecture", "arch="), "the device is too old for this CUDA: version 13 asks for compute capability 7.5, version 12 for 5.0"),
    (
        ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
        "out of memory: other processes use it, or the job is too large",
    ),
)
"""Words that an error has, and what it means."""


def reason(error: BaseException) -> str:
    """One line: what it means where that is known, and what was said."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = said if len(said) <= 200 else f"{said[:200]}..."
    for words, meaning in KNOWN:
        if any(word.lower() in said.lower() for word in words):
            return f"{meaning} ({said})"
    return said
