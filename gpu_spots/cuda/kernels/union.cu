#define THREADS 256

// One thread a word of a mask, frame after frame, as several frames may share a mask.
extern "C" __global__ void __launch_bounds__(THREADS)
unite(const u32* __restrict__ masks, const i32* __restrict__ mask_of_frame, i32 n_frames, i64 n_words, u32* __restrict__ onto) {
  const i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_words) return;
  for (i32 frame = 0; frame < n_frames; frame++) {
    const u32 word = masks[frame * n_words + i];
    if (word) onto[mask_of_frame[frame] * n_words + i] |= word;
  }
}

// The pixels of `words` that are not in `invalid`.
extern "C" __global__ void __launch_bounds__(256)
subtract(const u32* __restrict__ words, const u32* __restrict__ invalid, i64 n_words, u32* __restrict__ left) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n_words) left[i] = words[i] & ~invalid[i];
}
