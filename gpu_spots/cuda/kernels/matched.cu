// Matched finder: significance, smoothed maps and seeds; basins.cu has the rest. The rule is docs/decisions/matched-finder.md.
//
// FRAME: the frames' type. IS_FLOAT. BOUND: what bounds of validity are given in. STREAKS: maps of four lines too.
// SURFACE: the level of a frame is a surface.
#ifndef FRAME
#define FRAME u16
#define IS_FLOAT 0
#define BOUND i64
#endif
#ifndef STREAKS
#define STREAKS 0
#endif
#ifndef SURFACE
#define SURFACE 0
#endif

#define THREADS 256
#define ZERO 64          // significance of the background
#define FURTHEST 16000   // of a value, from there
#define LARGEST_SHIFT 5843  // of a value, by its level
#define CLIP 511         // before it is smoothed for seeds
#define TILE_X 32        // rows of a block
#define TILE_Y 64        // columns of a block: two words
#if STREAKS
#define REACH 7
#define N_MAPS 7
#else
#define REACH 6
#define N_MAPS 3
#endif
#define WIDTH (TILE_Y + 2 * REACH)
#define SIZE ((TILE_X + 2 * REACH) * WIDTH)

// 1/32, 3/32 ... 31/32 in 2^-16, each once in any 4 x 4 pixels.
__device__ __forceinline__ i32 rounding(i32 x, i32 y) {
  const u64 order[4] = {0xA280ull, 0x6E4Cull, 0x91B3ull, 0x5D7Full};  // hexadecimal digits from the last to the first
  return (2 * (i32)(order[x & 3] >> 4 * (y & 3) & 15) + 1) << 11;
}

#if IS_FLOAT
typedef f64 Constant;
__device__ __forceinline__ bool is_valid(FRAME value, f64 low, f64 high) { return widened(value) >= low && widened(value) <= high; }
#else
typedef i32 Constant;
__device__ __forceinline__ bool is_valid(FRAME value, i64 low, i64 high) { return value >= low && value <= high; }
#endif

// What turns the values of frames into significance: as gpu_spots.masks.matched.SignificanceMaps.
struct Maps {
  const Constant *gain, *offset;
  const FRAME *low, *high;
  const i32* level;
};

// `shift`: factor, bits to shift left, and limit of the background, of the frame's level. Floats: the level itself. surface: null, or it
// replaces both.
__device__ __forceinline__ i32 significance_of(FRAME value, const Maps& maps, i64 at, i32 x, i32 y, const i32* shift, f64 level,
                                               const i32* surface, i32 frame) {
#if IS_FLOAT
#if SURFACE
  level = surface_level(surface, frame, x, y) * (1.0 / 65536);
#endif
  f64 found = widened(value) - maps.offset[at] * level;
  found = found * maps.gain[at] + (ZERO + (f64)rounding(x, y) * (1.0 / 65536));
  found = floor(found);
  if (!(found == found)) return ZERO;
  return (i32)(found < -FURTHEST ? -FURTHEST : found > FURTHEST ? FURTHEST : found);
#else
  if (value > maps.high[at]) value = maps.high[at];
  if (maps.low && value < maps.low[at]) value = maps.low[at];
  // modulo 2^32: the result fits
  u32 found = (u32)value * (u32)maps.gain[at] - (u32)maps.offset[at];
#if SURFACE
  {
    const i64 moved = ((i64)maps.level[at] * (surface_level(surface, frame, x, y) - 65536)) >> 4, most = (i64)LARGEST_SHIFT << 16;
    found -= (u32)(i32)max(-most, min(most, moved));
  }
#else
  if (shift && shift[0]) {
    const i32 largest = shift[2], background = max(-largest, min(largest, maps.level[at]));
    const i32 product = background * shift[0];
    found -= (u32)(shift[1] >= 0 ? (i32)((u32)product << shift[1]) : product >> -shift[1]);
  }
#endif
  return (i32)found >> 16;
#endif
}

// Significance of each value, less its zingers. Grid: tiles of columns, tiles of rows, frames.
// shifts: three numbers a frame, None: all frames are at the run's level. levels: the same for floats. surface: null, or replaces both. invalid: a bit a pixel, or none.
extern "C" __global__ void __launch_bounds__(THREADS)
significance(const FRAME* __restrict__ frames, i64 stride, i32 n_rows, i32 n_columns, const Constant* gain, const Constant* offset,
             const FRAME* low_map, const FRAME* high_map, const i32* level_map, const i32* shifts, const f64* levels,
             const i32* surface, i32 checked,
             BOUND low, BOUND high, i16* __restrict__ values, u32* invalid) {
  __shared__ i16 plain[(TILE_X + 2) * (TILE_Y + 2)];
  __shared__ u32 bad[TILE_X * TILE_Y / 32];
  const Maps maps{gain, offset, low_map, high_map, level_map};
  const i32 row = blockIdx.y * TILE_X, column = blockIdx.x * TILE_Y, frame = blockIdx.z;
  if (threadIdx.x < TILE_X * TILE_Y / 32) bad[threadIdx.x] = 0;
  __syncthreads();
  for (i32 i = threadIdx.x; i < (TILE_X + 2) * (TILE_Y + 2); i += THREADS) {
    const i32 tx = i / (TILE_Y + 2) - 1, ty = i % (TILE_Y + 2) - 1, x = row + tx, y = column + ty;
    i32 found = ZERO;
    if (x >= 0 && x < n_rows && y >= 0 && y < n_columns) {
      const i64 at = (i64)x * n_columns + y;
      const FRAME value = frames[frame * stride + at];
      if (!checked || is_valid(value, low, high))
        found = significance_of(value, maps, at, x, y, shifts ? shifts + 3 * frame : nullptr, levels ? levels[frame] : 1.0, surface, frame);
      else if (tx >= 0 && tx < TILE_X && ty >= 0 && ty < TILE_Y)
        atomicOr(&bad[(tx * TILE_Y + ty) >> 5], 1u << (ty & 31));
    }
    plain[i] = (i16)found;
  }
  __syncthreads();
  for (i32 i = threadIdx.x; i < TILE_X * TILE_Y; i += THREADS) {
    const i32 tx = i / TILE_Y, ty = i % TILE_Y, x = row + tx, y = column + ty;
    if (x >= n_rows || y >= n_columns) continue;
    const i16* const here = plain + (tx + 1) * (TILE_Y + 2) + ty + 1;
    i32 most = max((i32)here[-1], (i32)here[1]);
#pragma unroll
    for (i32 d = -1; d <= 1; d++) most = max(most, max((i32)here[d - (TILE_Y + 2)], (i32)here[d + (TILE_Y + 2)]));
    values[((i64)frame * n_rows + x) * n_columns + y] = (i16)min((i32)here[0], most + (most >> 1));
  }
  if (!checked) return;
  const i32 row_words = (n_columns + 31) / 32;
  for (i32 i = threadIdx.x; i < TILE_X * TILE_Y / 32; i += THREADS) {
    const i32 x = row + i / (TILE_Y / 32), word = column / 32 + i % (TILE_Y / 32);
    if (x < n_rows && word < row_words) invalid[((i64)frame * n_rows + x) * row_words + word] = bad[i];
  }
}

// Add the significance of a frame to the sum of its group. Grid: pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
add_significance(const i16* __restrict__ values, i32 n_pixels, i32* sums) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i < n_pixels) sums[i] += values[i] - ZERO;
}

// Significance of a group, from its sum. Grid: pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
of_sum(const i32* __restrict__ sums, i32 n_pixels, i32 n_columns, i32 limit, i32 factor, i16* __restrict__ values) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_pixels) return;
  const i32 sum = max(-limit, min(limit, sums[i]));
  values[i] = (i16)(ZERO + ((sum * factor + rounding(i / n_columns, i % n_columns)) >> 16));
}

// (x[-step] + 2 x[0] + x[step]) >> shift of a tile in shared memory, but for places whose neighbours are outside of it.
__device__ __forceinline__ void smooth(const i16* from, i16* to, i32 step, i32 shift) {
  for (i32 i = threadIdx.x; i < SIZE; i += THREADS) {
    i32 sum = 0;
    if (i >= step && i + step < SIZE) sum = (from[i - step] + 2 * from[i] + from[i + step]) >> shift;
    to[i] = (i16)sum;
  }
  __syncthreads();
}

// Smoothed maps of each frame or group: either compared with the seed levels (raw: packed seeds), or written (maps).
// levels: N_MAPS maps of n_rows x n_columns, out of reach where a pixel is not usable. invalid: packed, or none. Grid: tiles of columns, tiles of rows, frames.
extern "C" __global__ void __launch_bounds__(THREADS)
smoothed(const i16* __restrict__ values, i32 n_rows, i32 n_columns, const i16* __restrict__ levels, const u32* invalid, u32* raw, i16* maps) {
  __shared__ i16 clipped[SIZE], fine[SIZE], middle[SIZE], a[SIZE], b[SIZE];
  __shared__ u32 seeds[TILE_X * TILE_Y / 32];
  const i32 row = blockIdx.y * TILE_X, column = blockIdx.x * TILE_Y;
  const i64 n_pixels = (i64)n_rows * n_columns, frame = blockIdx.z;
  if (threadIdx.x < TILE_X * TILE_Y / 32) seeds[threadIdx.x] = 0;
  for (i32 i = threadIdx.x; i < SIZE; i += THREADS) {
    const i32 x = row + i / WIDTH - REACH, y = column + i % WIDTH - REACH;
    const bool inside = x >= 0 && x < n_rows && y >= 0 && y < n_columns;
    const i32 value = inside ? values[frame * n_pixels + (i64)x * n_columns + y] : ZERO;
    clipped[i] = (i16)max(-CLIP, min(CLIP, value));
  }
  __syncthreads();

  auto take = [&](const i16* map, i32 k) {
    for (i32 i = threadIdx.x; i < TILE_X * TILE_Y; i += THREADS) {
      const i32 tx = i / TILE_Y, ty = i % TILE_Y, x = row + tx, y = column + ty;
      if (x >= n_rows || y >= n_columns) continue;
      const i64 at = (i64)x * n_columns + y;
      const i16 value = map[(tx + REACH) * WIDTH + ty + REACH];
      if (maps) maps[(frame * N_MAPS + k) * n_pixels + at] = value;
      else if (value >= levels[k * n_pixels + at]) atomicOr(&seeds[i >> 5], 1u << (ty & 31));
    }
    __syncthreads();  // before the map is overwritten
  };
  smooth(clipped, a, WIDTH, 0);
  smooth(a, fine, 1, 0);
  take(fine, 0);
  smooth(fine, a, WIDTH, 2);
  smooth(a, middle, 1, 2);
  take(middle, 1);
  smooth(middle, a, 2 * WIDTH, 2);
  smooth(a, b, 2 * WIDTH, 2);
  smooth(b, a, 2, 2);
  smooth(a, b, 2, 2);
  take(b, 2);
#if STREAKS
  const i32 steps[4] = {1, WIDTH + 1, WIDTH, WIDTH - 1};
  for (i32 line = 0; line < 4; line++) {
    smooth(fine, a, steps[line], 2);
    smooth(a, b, steps[line], 2);
    smooth(b, a, 2 * steps[line], 2);
    smooth(a, b, 2 * steps[line], 2);
    take(b, 3 + line);
  }
#endif
  if (!raw) return;
  const i32 row_words = (n_columns + 31) / 32;
  for (i32 i = threadIdx.x; i < TILE_X * TILE_Y / 32; i += THREADS) {
    const i32 x = row + i / (TILE_Y / 32), w = column / 32 + i % (TILE_Y / 32);
    if (x >= n_rows || w >= row_words) continue;
    const i64 at = (i64)x * row_words + w, of_frame = frame * n_rows * row_words + at;
    u32 word = seeds[i];
    if (invalid) word &= ~invalid[of_frame];
    raw[of_frame] = word;
  }
}
