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
