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
static __device__ __forceinline__ f32 narrowed(f64 value) {
#ifdef EMULATED
  return (f32)value;
#else
  f32 result;
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(value));
  return result;
#endif
}
