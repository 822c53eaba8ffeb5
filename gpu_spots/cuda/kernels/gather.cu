// Values of some pixels on all frames, one block row a frame. SIZE: bytes of a value.
#if SIZE == 1
typedef u8 Value;
#elif SIZE == 2
typedef u16 Value;
#elif SIZE == 4
typedef u32 Value;
#else
typedef u64 Value;
#endif

// frames: `stride` values from one to the next. columns: (n frames, n_listed), contiguous.
extern "C" __global__ void __launch_bounds__(256)
gather(const Value* __restrict__ frames, i64 stride, const i32* __restrict__ listed, i32 n_listed, Value* __restrict__ columns) {
  const i32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n_listed) columns[(i64)blockIdx.y * n_listed + i] = frames[blockIdx.y * stride + listed[i]];
}
