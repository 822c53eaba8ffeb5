// The step from exact moments to avg, std, iqr and the threshold, as gpu_spots/background.py takes it on the host, operation by operation.
// Every operation is one of IEEE 754's on float64, rounded to nearest: so it gives the host's bits. -ftz=true cannot touch the results
// either: they are quotients of integers and of their roots by at most 65535, so none but 0 is as small as 1e-5.

// total: modulo 2^32, of signed values if is_signed. beyond: one more than the largest value of a FRAME.
// below, sums: what the second pass needs, threshold - 1 and total; null pointers where it will be uploaded.
extern "C" __global__ void __launch_bounds__(256)
background(const u16 *__restrict__ kept, const u32 *__restrict__ total, const u64 *__restrict__ scatter, const i32 *__restrict__ iqr4,
           i32 n_pixels, i32 is_signed, f64 cutoff, f64 beyond, f32 *__restrict__ avg, f32 *__restrict__ std, f32 *__restrict__ iqr,
           i32 *__restrict__ threshold, FRAME *__restrict__ below, u32 *__restrict__ sums) {
  const i64 pixel = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= n_pixels) return;
  const u32 sum = total[pixel];
  const f64 m = kept[pixel] ? kept[pixel] : 1;
  const f64 average = (is_signed ? (f64)(i32)sum : (f64)sum) / m;
  const f64 deviation = sqrt((f64)scatter[pixel]) / m;
  f64 least = ceil(average + cutoff * deviation);
  // not only as much as the average, but above it: so it is above the smallest value of a FRAME, too
  const f64 above = floor(average) + 1;
  if (least < above) least = above;
  // infinity as well, which is no integer
  if (least > beyond || !kept[pixel]) least = beyond;
  avg[pixel] = narrowed(average);
  std[pixel] = narrowed(deviation);
  iqr[pixel] = narrowed(iqr4[pixel] * 0.25);
  threshold[pixel] = (i32)least;
  if (below) below[pixel] = (FRAME)((i32)least - 1);
  if (sums) sums[pixel] = sum;
}
