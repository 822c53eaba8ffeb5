// Sums over components: one warp a spot, that is a component on a frame, so a spot needs no atomics and no second pass.
//
// FRAME is the type of a value; FLOAT is 1 where it is a float. SUM holds a value, a sum and what is compared.
#ifndef FRAME
#define FRAME u16
#define SUM i64
#define FLOAT 0
#endif
#define THREADS 256

__device__ __forceinline__ SUM as_sum(FRAME value) {
#if FLOAT
  return widened(value);
#else
  return value;
#endif
}

// The largest value so far, and where its pixel stands in the list; `none` where there is no value yet.
struct Peak {
  SUM value;
  i64 at, none;

  __device__ __forceinline__ void meet(SUM other, i64 there) {
    if (there < none && (at == none || other > value || (other == value && there < at))) {
      value = other;
      at = there;
    }
  }
};

template <class T> __device__ __forceinline__ T sum_of_warp(T value) {
#pragma unroll
  for (i32 step = 16; step; step >>= 1) value += __shfl_xor_sync(EVERY_LANE, value, step);
  return value;
}

// Pixels of a component ascend. Of equal values the first in raster order is the peak.
// Integers: `total` and the two parts of the background are exact. low_is_signed: mean_low is of 32 bits with a sign, and mean_high null. Floats: differences from `mean`, divided by the frame's factor,
// are added one after the other in the order of the pixels, as rounding depends on it.
extern "C" __global__ void __launch_bounds__(THREADS)
measure(const FRAME* __restrict__ frames, i64 stride, i32 n_spots, const i32* __restrict__ frame_of_spot,
        const i32* __restrict__ component_of_spot, const i64* __restrict__ begin, const i32* __restrict__ pixels, SUM saturation,
        const i64* __restrict__ mean_high, const u32* __restrict__ mean_low, i32 low_is_signed, const f64* __restrict__ mean,
        const f64* __restrict__ one_over_factor, SUM* __restrict__ total, i64* __restrict__ background_high,
        i64* __restrict__ background_low, i64* __restrict__ peak, i64* __restrict__ overload) {
  const i32 spot = (i32)(((i64)blockIdx.x * THREADS + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (spot >= n_spots) return;  // the whole warp
  const i32 component = component_of_spot[spot], frame = frame_of_spot[spot];
  const i64 first = begin[component], end = begin[component + 1];
  const FRAME* const values = frames + frame * stride;
  Peak largest = {0, end, end};
  SUM sum = 0;
  i64 n_over = 0;
#if FLOAT
  const f64 scale = one_over_factor ? one_over_factor[frame] : 1.0;
  for (i64 i = first; i < end; i += 32) {
    f64 difference = 0;
    if (i + lane < end) {
      const i32 pixel = pixels[i + lane];
      const SUM value = as_sum(values[pixel]);
      largest.meet(value, i + lane);
      n_over += value >= saturation;
      difference = value - mean[pixel] * scale;
    }
    const i32 n = end - i < 32 ? (i32)(end - i) : 32;
    for (i32 j = 0; j < n; j++) sum += __shfl_sync(EVERY_LANE, difference, j);
  }
#else
  i64 high = 0, low = 0;
  for (i64 i = first + lane; i < end; i += 32) {
    const i32 pixel = pixels[i];
    const SUM value = as_sum(values[pixel]);
    largest.meet(value, i);
    n_over += value >= saturation;
    sum += value;
    if (mean_high) high += mean_high[pixel];
    if (low_is_signed) high += (i32)mean_low[pixel] >> 31;
    low += mean_low[pixel];
  }
  sum = sum_of_warp(sum);
  high = sum_of_warp(high);
  low = sum_of_warp(low);
#endif
  n_over = sum_of_warp(n_over);
#pragma unroll
  for (i32 step = 16; step; step >>= 1) {
    const SUM value = __shfl_xor_sync(EVERY_LANE, largest.value, step);
    const i64 at = __shfl_xor_sync(EVERY_LANE, largest.at, step);
    largest.meet(value, at);
  }
  if (lane) return;
  total[spot] = sum;
  peak[spot] = pixels[largest.at];
  overload[spot] = n_over;
#if !FLOAT
  background_high[spot] = high;
  background_low[spot] = low;
#endif
}
