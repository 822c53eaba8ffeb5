// Matched finder: from seeds to basins, spots and masks. The rule is docs/decisions/matched-finder.md.
//
// Seeds are numbered through all masks in raster order, as in components.cu; `position` of each is 32 * word + bit.
#define THREADS 256
#define ZERO 64  // significance of the background

struct Image {
  const i16* values;
  i32 n_rows, n_columns, row_words;

  __device__ __forceinline__ i64 mask_of(u32 position) const { return (position >> 5) / ((i64)n_rows * row_words); }
  __device__ __forceinline__ i32 x_of(u32 position) const { return (i32)((position >> 5) / row_words % n_rows); }
  __device__ __forceinline__ i32 y_of(u32 position) const { return (i32)((position >> 5) % row_words * 32 + (position & 31)); }

  // M1 without limits, times 256, less the background
  __device__ __forceinline__ i32 height(u32 position) const {
    const i32 weights[5] = {1, 4, 6, 4, 1}, x = x_of(position), y = y_of(position);
    const i16* const image = values + mask_of(position) * n_rows * n_columns;
    i32 sum = 0;
    for (i32 dx = -2; dx <= 2; dx++)
      for (i32 dy = -2; dy <= 2; dy++)
        if (x + dx >= 0 && x + dx < n_rows && y + dy >= 0 && y + dy < n_columns)
          sum += weights[dx + 2] * weights[dy + 2] * (image[(i64)(x + dx) * n_columns + y + dy] - ZERO);
    return sum;
  }
};

// The number of the seed beside another one; -1: there is none.
__device__ __forceinline__ i32 seed_beside(const Image& image, u32 position, i32 dx, i32 dy, const u32* words, const i32* first_seed) {
  const i32 x = image.x_of(position) + dx, y = image.y_of(position) + dy;
  if (x < 0 || x >= image.n_rows || y < 0 || y >= image.n_columns) return -1;
  const i64 word = (image.mask_of(position) * image.n_rows + x) * image.row_words + (y >> 5);
  const u32 bits = words[word];
  return bits >> (y & 31) & 1 ? first_seed[word] + __popc(bits & ((1u << (y & 31)) - 1)) : -1;
}

extern "C" __global__ void __launch_bounds__(THREADS)
find_heights(i32 n_seeds, const u32* __restrict__ position, const i16* __restrict__ values, i32 n_rows, i32 n_columns, i32 row_words,
             i32* __restrict__ height) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i < n_seeds) height[i] = Image{values, n_rows, n_columns, row_words}.height(position[i]);
}

// Where each seed climbs: to the highest of itself and its neighbours, of equals to the first.
extern "C" __global__ void __launch_bounds__(THREADS)
climb(i32 n_seeds, const u32* __restrict__ position, const u32* __restrict__ words, const i32* __restrict__ first_seed,
      const i32* __restrict__ height, i32 n_rows, i32 n_columns, i32 row_words, i32* __restrict__ to) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_seeds) return;
  const Image image{nullptr, n_rows, n_columns, row_words};
  i32 best = i;
  for (i32 dx = -1; dx <= 1; dx++)
    for (i32 dy = -1; dy <= 1; dy++) {
      const i32 other = seed_beside(image, position[i], dx, dy, words, first_seed);
      if (other >= 0 && (height[other] > height[best] || (height[other] == height[best] && other < best))) best = other;
    }
  to[i] = best;
}

// Where pointers end; `from` may be none.
extern "C" __global__ void __launch_bounds__(THREADS)
follow(i32 n, const i32* __restrict__ from, const i32* __restrict__ to, i32* __restrict__ end) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  i32 at = from ? from[i] : i;
  while (to[at] != at) at = to[at];
  end[i] = at;
}

// The highest saddle of each basin towards a higher one, in the upper half, and that one, inverted, in the lower: of equals the first.
extern "C" __global__ void __launch_bounds__(THREADS)
find_saddles(i32 n_seeds, const u32* __restrict__ position, const u32* __restrict__ words, const i32* __restrict__ first_seed,
             const i32* __restrict__ height, const i32* __restrict__ root, i32 n_rows, i32 n_columns, i32 row_words, u64* saddle) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_seeds) return;
  const Image image{nullptr, n_rows, n_columns, row_words};
  for (i32 d = 0; d < 4; d++) {  // right, below left, below, below right
    const i32 other = seed_beside(image, position[i], d > 0, d ? d - 2 : 1, words, first_seed);
    if (other < 0 || root[other] == root[i]) continue;
    const i32 a = root[i], b = root[other];
    const bool a_is_lower = height[a] < height[b] || (height[a] == height[b] && a > b);
    const i32 lower = a_is_lower ? a : b, higher = a_is_lower ? b : a, level = min(height[i], height[other]);
    atomicMax(&saddle[lower], (u64)((u32)level ^ 0x80000000u) << 32 | (0xffffffffu - (u32)higher));
  }
}

// Each basin joins the one across its highest saddle, if that is hardly lower than its own peak. variance, own: of the mask's maps.
extern "C" __global__ void __launch_bounds__(THREADS)
join_basins(i32 n_seeds, const u32* __restrict__ position, const i32* __restrict__ height, const i32* __restrict__ root,
            const u64* __restrict__ saddle, const i32* __restrict__ variance, const i32* __restrict__ own, i32 n_rows, i32 n_columns,
            i32 row_words, i32* __restrict__ onto) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_seeds) return;
  onto[i] = i;
  if (root[i] != i || !saddle[i]) return;
  const Image image{nullptr, n_rows, n_columns, row_words};
  const i64 at = (i64)image.x_of(position[i]) * n_columns + image.y_of(position[i]), peak = height[i];
  const i64 level = (i32)((u32)(saddle[i] >> 32) ^ 0x80000000u), drop = peak - level;
  if (10 * level >= 9 * peak || 256 * drop * drop < 256ll * variance[at] + own[at] * (peak > 0 ? peak : 0))
    onto[i] = (i32)(0xffffffffu - (u32)saddle[i]);
}

// The masks before they grow: seeds of at least a tenth of the height of their spot. owner: the top of the spot, at each position.
extern "C" __global__ void __launch_bounds__(THREADS)
begin_masks(i32 n_words, const u32* __restrict__ words, const i32* __restrict__ first_seed, const i32* __restrict__ height,
            const i32* __restrict__ top, u32* __restrict__ grown, i32* __restrict__ owner) {
  const i32 word = blockIdx.x * THREADS + threadIdx.x;
  if (word >= n_words) return;
  u32 kept = 0;
  i32 seed = words[word] ? first_seed[word] : 0;
  for (u32 left = words[word]; left; left &= left - 1, seed++) {
    const i32 bit = __ffs(left) - 1;
    const i64 peak = height[top[seed]];
    if (peak <= 0 || 10ll * height[seed] < peak) continue;
    kept |= 1u << bit;
    owner[32ll * word + bit] = top[seed];
  }
  grown[word] = kept;
}

// One step of growth. A pixel goes to the first of the spots beside it that it is high enough for; without `variance`, any pixel is.
extern "C" __global__ void __launch_bounds__(THREADS)
grow(i32 n_words, const u32* __restrict__ grown, const i32* __restrict__ height, const i16* __restrict__ values, const u32* usable,
     const u32* invalid, const i32* __restrict__ variance, i32 n_rows, i32 n_columns, i32 row_words, u32* __restrict__ next, i32* owner) {
  const i32 word = blockIdx.x * THREADS + threadIdx.x;
  if (word >= n_words) return;
  const i32 w = word % row_words, of_mask = word % (n_rows * row_words), x = of_mask / row_words;
  u32 near = 0;
  for (i32 dx = -1; dx <= 1; dx++) {
    if (x + dx < 0 || x + dx >= n_rows) continue;
    const u32* const row = grown + word + dx * row_words;
    const u32 here = row[0], before = w > 0 ? row[-1] : 0, after = w + 1 < row_words ? row[1] : 0;
    near |= here | here << 1 | before >> 31 | here >> 1 | after << 31;
  }
  const u32 mine = grown[word];
  near &= ~mine;
  if (n_columns - 32 * w < 32) near &= (1u << (n_columns - 32 * w)) - 1;
  if (usable) near &= usable[of_mask];
  if (invalid) near &= ~invalid[word];
  const Image image{values, n_rows, n_columns, row_words};
  u32 joined = 0;
  for (u32 left = near; left; left &= left - 1) {
    const i32 bit = __ffs(left) - 1, y = 32 * w + bit;
    const u32 position = 32u * (u32)word + (u32)bit;
    const i64 level = variance ? image.height(position) : 0;
    if (variance && (level <= 0 || level * level < variance[(i64)x * n_columns + y])) continue;
    i32 best = -1;
    for (i32 dx = -1; dx <= 1; dx++)
      for (i32 dy = -1; dy <= 1; dy++) {
        if (x + dx < 0 || x + dx >= n_rows || y + dy < 0 || y + dy >= n_columns) continue;
        const i32 other = word + dx * row_words + ((y + dy) >> 5) - w;
        if (!(grown[other] >> ((y + dy) & 31) & 1)) continue;
        const i32 spot = owner[32ll * other + ((y + dy) & 31)];
        if ((!variance || 100 * level >= height[spot]) && (best < 0 || spot < best)) best = spot;
      }
    if (best < 0) continue;
    joined |= 1u << bit;
    owner[position] = best;
  }
  next[word] = mine | joined;
}

// The spot of each pixel of the final masks.
extern "C" __global__ void __launch_bounds__(THREADS)
gather_owners(i32 n_pixels, const u32* __restrict__ position, const i32* __restrict__ owner, i32* __restrict__ spot) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i < n_pixels) spot[i] = owner[position[i]];
}
