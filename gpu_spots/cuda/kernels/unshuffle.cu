// HDF5's shuffle filter undone: a chunk holds the first bytes of all its values, then the second ones, and so on.
//
// SIZE: bytes of a value: 1, 2, 4 or 8.

#if SIZE == 1
typedef u8 Bits;
#elif SIZE == 2
typedef u16 Bits;
#elif SIZE == 4
typedef u32 Bits;
#else
typedef u64 Bits;
#endif

// Chunks (grid.y) of n_values; `stride` values from one result to the next. Neighbouring threads read neighbouring bytes, of each kind.
extern "C" __global__ void __launch_bounds__(256)
unshuffle(const u8 *__restrict__ chunks, i64 n_values, i64 stride, Bits *__restrict__ result) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n_values) return;
  const u8 *from = chunks + blockIdx.y * n_values * SIZE + i;
  Bits value = 0;
#pragma unroll
  for (int b = 0; b < SIZE; b++) value |= (Bits)((Bits)from[b * n_values] << (8 * b));
  result[blockIdx.y * stride + i] = value;
}
