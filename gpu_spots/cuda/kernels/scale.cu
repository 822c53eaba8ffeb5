// Frames brought to a common level by whole numbers of 2^-16.
//
// FRAME: the frames' type. IS_FLOAT. MARK: what invalid integers become.

#if IS_FLOAT
typedef f64 Wide;
static __device__ __forceinline__ Wide wide(FRAME value) { return widened(value); }
static __device__ __forceinline__ Wide product(Wide value, i64 factor) { return value * ((f64)factor * (1.0 / 65536)); }
static __device__ __forceinline__ void set_invalid(f32 *value) { *value = __uint_as_float(0x7fc00000u); }
static __device__ __forceinline__ void set_invalid(f64 *value) { *value = __longlong_as_double(0x7ff8000000000000ll); }
static __device__ __forceinline__ void set(f32 *to, f64 value) { *to = narrowed(value); }
static __device__ __forceinline__ void set(f64 *to, f64 value) { *to = value; }
#else
typedef i64 Wide;
static __device__ __forceinline__ Wide wide(FRAME value) { return value; }
// rounded halves up; wraps as the host's does
static __device__ __forceinline__ Wide product(Wide value, i64 factor) { return (i64)((u64)value * (u64)factor + (1u << 15)) >> 16; }
static __device__ __forceinline__ void set_invalid(FRAME *value) { *value = (FRAME)MARK; }
static __device__ __forceinline__ void set(FRAME *to, i64 value) { *to = (FRAME)value; }
#endif

// n frames (grid.y) of n_pixels; `stride` values from one to the next, result contiguous. Values outside of low .. high become invalid.
extern "C" __global__ void __launch_bounds__(256)
scaled(const FRAME *__restrict__ frames, i64 stride, i32 n_pixels, const i64 *__restrict__ factors, Wide low, Wide high, Wide lowest,
       Wide highest, FRAME *__restrict__ result) {
  const i64 pixel = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= n_pixels) return;
  const Wide value = wide(frames[blockIdx.y * stride + pixel]);
  FRAME *const to = result + ((i64)blockIdx.y * n_pixels + pixel);
  // NaN is within no bounds
  if (!(value >= low && value <= high)) {
    set_invalid(to);
    return;
  }
  Wide scaled = product(value, factors[blockIdx.y]);
  if (scaled < lowest) scaled = lowest;
  if (scaled > highest) scaled = highest;
  set(to, scaled);
}

// The same of values less a part of their background: levels in 2^-16 over the run's, or null with a surface. follows: that part, in 1/16 counts for
// integers.
extern "C" __global__ void __launch_bounds__(256)
levelled(const FRAME *__restrict__ frames, i64 stride, i32 n_pixels, const i64 *__restrict__ levels,
         const i32 *__restrict__ surface, const Wide *__restrict__ follows, Wide low, Wide high, Wide lowest, Wide highest,
         FRAME *__restrict__ result) {
  const i64 pixel = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= n_pixels) return;
  const Wide value = wide(frames[blockIdx.y * stride + pixel]);
  FRAME *const to = result + ((i64)blockIdx.y * n_pixels + pixel);
  if (!(value >= low && value <= high)) {
    set_invalid(to);
    return;
  }
  i64 above = -65536;
  if (surface) above += surface_level(surface, blockIdx.y, (i32)(pixel / surface[4]), (i32)(pixel % surface[4]));
  else above += levels[blockIdx.y];
#if IS_FLOAT
  Wide left = value - (f64)above * (1.0 / 65536) * follows[pixel];
#else
  Wide left = value - ((above * follows[pixel] + (1 << 19)) >> 20);
#endif
  if (left < lowest) left = lowest;
  if (left > highest) left = highest;
  set(to, left);
}
