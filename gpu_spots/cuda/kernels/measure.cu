// Sums over components: one warp a spot, that is a component on a frame, so a spot needs no atomics and no second pass.
//
// FRAME is the type of a value; FLOAT is 1 where it is a float, WIDE where it is an integer of 32 bits. SUM holds a value, a sum
// and what is compared.
#ifndef FRAME
#define FRAME u16
#define SUM i64
#define FLOAT 0
#define WIDE 0
#endif
#define THREADS 256
#define HALF_BITS 16
#define N_MOMENTS 5

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

  __device__ __forceinline__ void merge(SUM other, i64 there) {
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

// Where a spot is: pixels of its component, ascending, and its box.
struct Area {
  const i32* pixels;
  i64 first, end;
  i32 x_begin, x_end, y_begin, y_end, n_columns;

  __device__ __forceinline__ bool contains(i32 pixel, i64 from, i64 to) const {
    while (from < to) {
      const i64 middle = (from + to) / 2;
      if (pixels[middle] < pixel) from = middle + 1;
      else to = middle;
    }
    return from < end && pixels[from] == pixel;
  }

  // Whether no neighbour in the component is higher than the pixel at `at` in the list, nor as high and before it.
  __device__ bool is_maximum(const FRAME* values, i64 at, SUM value) const {
    const i32 pixel = pixels[at], x = pixel / n_columns, y = pixel - x * n_columns;
#pragma unroll 1
    for (i32 step = 0; step < 9; step++) {
      const i32 dx = step / 3 - 1, dy = step % 3 - 1;
      if (step == 4 || x + dx < x_begin || x + dx >= x_end || y + dy < y_begin || y + dy >= y_end) continue;
      const i32 other = pixel + dx * n_columns + dy;
      const SUM beside = as_sum(values[other]);
      const bool is_before = step < 4;
      if (!(beside > value || (is_before && beside == value))) continue;
      if (is_before ? contains(other, first, at) : contains(other, at + 1, end)) return false;
    }
    return true;
  }
};

// Pixels of a component ascend. Of equal values the first in raster order is the peak.
// `sums` has a row of n_spots for each of: total, largest value, and sums of value times x, y, x^2, y^2 and x y, with x and y from
// the begin of the box; if WIDE these are of the lower halves of the values, and five rows of the upper halves follow.
// `counts` has a row for each of: peak, overload, maxima, and for integers the upper and the lower part of the background.
// `values_of_spots`, if it is not null, gets the values of each spot, which end at `end_of_values`.
// Integers: all sums are exact. low_is_signed: mean_low is of 32 bits with a sign, and mean_high null. Moments are unsigned, as
// they may overflow where they are not used. Floats: differences from `mean`, divided by the frame's factor,
// are added one after the other in the order of the pixels, as rounding depends on it.
extern "C" __global__ void __launch_bounds__(THREADS)
measure(const FRAME* __restrict__ frames, i64 stride, i32 n_spots, const i32* __restrict__ frame_of_spot,
        const i32* __restrict__ component_of_spot, const i64* __restrict__ begin, const i32* __restrict__ pixels,
        const i32* __restrict__ boxes, i32 n_columns, SUM saturation, const i64* __restrict__ mean_high,
        const u32* __restrict__ mean_low, i32 low_is_signed, const f64* __restrict__ mean,
        const f64* __restrict__ one_over_factor, SUM* __restrict__ sums, i64* __restrict__ counts,
        const i64* __restrict__ end_of_values, FRAME* __restrict__ values_of_spots) {
  const i32 spot = (i32)(((i64)blockIdx.x * THREADS + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (spot >= n_spots) return;  // the whole warp
  const i32 component = component_of_spot[spot], frame = frame_of_spot[spot];
  const i32* const box = boxes + 4 * (i64)component;
  const Area area = {pixels, begin[component], begin[component + 1], box[0], box[1], box[2], box[3], n_columns};
  const i64 first = area.first, end = area.end;
  const FRAME* const values = frames + frame * stride;
  Peak largest = {0, end, end};
  SUM sum = 0, least = as_sum(values[pixels[first]]);
  i64 n_over = 0;
#if FLOAT
  const f64 scale = one_over_factor ? one_over_factor[frame] : 1.0;
  f64 moments[N_MOMENTS] = {0, 0, 0, 0, 0};
  for (i64 i = first; i < end; i += 32) {
    f64 difference = 0;
    i32 x = 0, y = 0;
    if (i + lane < end) {
      const i32 pixel = pixels[i + lane];
      const SUM value = as_sum(values[pixel]);
      largest.merge(value, i + lane);
      least = value < least ? value : least;
      n_over += value >= saturation;
      difference = value - mean[pixel] * scale;
      x = pixel / n_columns;
      y = pixel - x * n_columns - area.y_begin;
      x -= area.x_begin;
    }
    const f64 parts[N_MOMENTS] = {difference * x, difference * y, difference * (f64)((i64)x * x), difference * (f64)((i64)y * y),
                                  difference * (f64)((i64)x * y)};
    const i32 n = end - i < 32 ? (i32)(end - i) : 32;
    for (i32 j = 0; j < n; j++) {
      sum += __shfl_sync(EVERY_LANE, difference, j);
#pragma unroll
      for (i32 k = 0; k < N_MOMENTS; k++) moments[k] += __shfl_sync(EVERY_LANE, parts[k], j);
    }
  }
#else
  i64 high = 0, low = 0;
  u64 moments[N_MOMENTS] = {0, 0, 0, 0, 0};
#if WIDE
  u64 upper[N_MOMENTS] = {0, 0, 0, 0, 0};
#endif
  for (i64 i = first + lane; i < end; i += 32) {
    const i32 pixel = pixels[i];
    const SUM value = as_sum(values[pixel]);
    largest.merge(value, i);
    least = value < least ? value : least;
    n_over += value >= saturation;
    sum += value;
    if (mean_high) high += mean_high[pixel];
    if (low_is_signed) high += (i32)mean_low[pixel] >> 31;
    low += mean_low[pixel];
    const i32 row = pixel / n_columns;
    const u64 x = row - area.x_begin, y = pixel - row * n_columns - area.y_begin;
    const u64 places[N_MOMENTS] = {x, y, x * x, y * y, x * y};
#pragma unroll
    for (i32 k = 0; k < N_MOMENTS; k++) {
#if WIDE
      moments[k] += (u64)(value & ((1 << HALF_BITS) - 1)) * places[k];
      upper[k] += (u64)(value >> HALF_BITS) * places[k];
#else
      moments[k] += (u64)value * places[k];
#endif
    }
  }
  sum = sum_of_warp(sum);
  high = sum_of_warp(high);
  low = sum_of_warp(low);
#pragma unroll
  for (i32 k = 0; k < N_MOMENTS; k++) {
    moments[k] = sum_of_warp(moments[k]);
#if WIDE
    upper[k] = sum_of_warp(upper[k]);
#endif
  }
#endif
  n_over = sum_of_warp(n_over);
#pragma unroll
  for (i32 step = 16; step; step >>= 1) {
    const SUM value = __shfl_xor_sync(EVERY_LANE, largest.value, step);
    const i64 at = __shfl_xor_sync(EVERY_LANE, largest.at, step);
    largest.merge(value, at);
    const SUM lower = __shfl_xor_sync(EVERY_LANE, least, step);
    least = lower < least ? lower : least;
  }
  i64 n_maxima = 0;
  FRAME* const kept = values_of_spots ? values_of_spots + end_of_values[spot] - end : nullptr;
  for (i64 i = first + lane; i < end; i += 32) {
    const FRAME found = values[pixels[i]];
    const SUM value = as_sum(found);
    if (kept) kept[i] = found;
#if FLOAT
    const bool is_high = value >= 0.5 * largest.value + 0.5 * least;
#else
    const bool is_high = 2 * value >= largest.value + least;
#endif
    n_maxima += is_high && area.is_maximum(values, i, value);
  }
  n_maxima = sum_of_warp(n_maxima);
  if (lane) return;
  SUM* const sums_of_spot = sums + spot;
  const i64 row = n_spots;
  sums_of_spot[0] = sum;
  sums_of_spot[row] = largest.value;
#pragma unroll
  for (i32 k = 0; k < N_MOMENTS; k++) {
    sums_of_spot[(2 + k) * row] = moments[k];
#if WIDE
    sums_of_spot[(2 + N_MOMENTS + k) * row] = upper[k];
#endif
  }
  i64* const counts_of_spot = counts + spot;
  counts_of_spot[0] = pixels[largest.at];
  counts_of_spot[row] = n_over;
  counts_of_spot[2 * row] = n_maxima;
#if !FLOAT
  counts_of_spot[3 * row] = high;
  counts_of_spot[4 * row] = low;
#endif
}
