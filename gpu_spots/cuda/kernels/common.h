// Comes before every kernel file, for NVRTC, nvcc and the emulation of the tests alike.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef double f64;

#define EVERY_LANE 0xffffffffu

// `name` points at the block's dynamic shared memory; one use a kernel
#ifdef EMULATED
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(emulator::S.dynamic)
#else
#define DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char gpu_spots_shared[]; \
  type* const name = reinterpret_cast<type*>(gpu_spots_shared)
#endif

// CuPy compiles with -ftz=true, which takes the smallest float32 values for 0 in every operation on float32, conversions and
// comparisons included. So kernels do none: they widen to float64 first. A test looks for .ftz in what NVRTC makes of them.
static __device__ __forceinline__ f64 widened(f32 value) {
#ifdef EMULATED
  return value;
#else
  f64 result;
  asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(value));
  return result;
#endif
}
static __device__ __forceinline__ f64 widened(f64 value) { return value; }
// Level of a pixel on a frame in 2^-16, as gpu_spots.model.Surface has it. surface: binary logarithm of the distance of knots, knots of a
// frame, knots of a row, row of the frame that is row 0 here, columns of the frame, and the knots of all frames.
static __device__ __forceinline__ i32 surface_level(const i32* surface, i64 frame, i32 x, i32 y) {
  const i32 bits = surface[0], distance = 1 << bits, half = distance >> 1, width = surface[2];
  x += surface[3];
  const i32* const knots = surface + 5 + frame * surface[1] + (x >> bits) * width + (y >> bits);
  const i32 u = x & (distance - 1), v = y & (distance - 1);
  const i32 left = (knots[0] * (distance - u) + knots[width] * u + half) >> bits;
  const i32 right = (knots[1] * (distance - u) + knots[width + 1] * u + half) >> bits;
  return (left * (distance - v) + right * v + half) >> bits;
}
static __device__ __forceinline__ f32 narrowed(f64 value) {
#ifdef EMULATED
  return (f32)value;
#else
  f32 result;
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(value));
  return result;
#endif
}
