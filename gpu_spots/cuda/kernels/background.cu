// The step from exact moments to avg, std, iqr and the threshold, as gpu_spots/background.py takes it on the host, operation by operation.
// Every operation is one of IEEE 754's, rounded to nearest: so it gives the host's bits.

// total: modulo 2^32, of signed values if is_signed. lowest, beyond: the frames' smallest value, and one more than their largest.
extern "C" __global__ void __launch_bounds__(256)
background(const u16 *__restrict__ kept, const u32 *__restrict__ total, const u64 *__restrict__ scatter, const i32 *__restrict__ iqr4,
           i32 n_pixels, i32 is_signed, f64 cutoff, f64 lowest, f64 beyond, f32 *__restrict__ avg, f32 *__restrict__ std,
           f32 *__restrict__ iqr, i32 *__restrict__ threshold) {
  const i64 pixel = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= n_pixels) return;
  const f64 m = kept[pixel] ? kept[pixel] : 1;
  const f64 average = (is_signed ? (f64)(i32)total[pixel] : (f64)total[pixel]) / m;
  const f64 deviation = sqrt((f64)scatter[pixel]) / m;
  f64 least = ceil(average + cutoff * deviation);
  // not only as much as the average, but above it
  const f64 above = floor(average) + 1;
  if (least < above) least = above;
  if (least < lowest) least = lowest;
  if (least > beyond || !kept[pixel]) least = beyond;
  avg[pixel] = narrowed(average);
  std[pixel] = narrowed(deviation);
  iqr[pixel] = narrowed(iqr4[pixel] * 0.25);
  threshold[pixel] = (i32)least;
}
