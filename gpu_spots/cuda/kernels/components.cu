// Connected components of packed masks: union-find over the set pixels only, about one in a hundred.
//
// Set pixels are numbered through all masks in raster order. A component's root is the smallest of its numbers, so components that are
// numbered in the order of their roots are numbered as SciPy does. Up to 2^25 words at a time: a pixel's number and its position, 32 * word + bit,
// fit 31 bits with room for a last block.
#define THREADS 256
#define WORDS 4  // a thread
#define BLOCK_WORDS (THREADS * WORDS)

// The sum over the block's threads before this one, and in `total` that over all.
__device__ __forceinline__ i32 sum_before(i32 value, i32* of_warp, i32& total) {
  const i32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  i32 sum = value;
#pragma unroll
  for (i32 step = 1; step < 32; step <<= 1) {
    const i32 before = __shfl_up_sync(EVERY_LANE, sum, step);
    if (lane >= step) sum += before;
  }
  if (lane == 31) of_warp[warp] = sum;
  __syncthreads();
  i32 earlier = 0;
  total = 0;
#pragma unroll
  for (i32 i = 0; i < THREADS / 32; i++) {
    if (i < warp) earlier += of_warp[i];
    total += of_warp[i];
  }
  return earlier + sum - value;
}

// How many pixels are set in each block's words.
extern "C" __global__ void __launch_bounds__(THREADS)
count_pixels(const u32* __restrict__ words, i32 n_words, i32* __restrict__ count_of_block) {
  __shared__ i32 of_warp[THREADS / 32];
  const i32 first = blockIdx.x * BLOCK_WORDS;
  i32 count = 0, total;
#pragma unroll
  for (i32 i = 0; i < WORDS; i++) {
    const i32 word = first + i * THREADS + threadIdx.x;
    if (word < n_words) count += __popc(words[word]);
  }
  sum_before(count, of_warp, total);
  if (threadIdx.x == 0) count_of_block[blockIdx.x] = total;
}

// begins[i]: the sum of all values before the i-th, for i up to n. For one block, which goes through all of them.
extern "C" __global__ void __launch_bounds__(THREADS)
scan(const i32* __restrict__ values, i32 n, i64* __restrict__ begins) {
  __shared__ i32 of_warp[THREADS / 32];
  i64 before = 0;
  for (i32 first = threadIdx.x * WORDS, left = n; left > 0; first += BLOCK_WORDS, left -= BLOCK_WORDS) {
    i32 mine[WORDS], sum = 0, total;
#pragma unroll
    for (i32 i = 0; i < WORDS; i++) {
      mine[i] = first + i < n ? values[first + i] : 0;
      sum += mine[i];
    }
    i64 begin = before + sum_before(sum, of_warp, total);
#pragma unroll
    for (i32 i = 0; i < WORDS; i++) {
      if (first + i < n) begins[first + i] = begin;
      begin += mine[i];
    }
    before += total;
    __syncthreads();  // before of_warp is written again
  }
  if (threadIdx.x == 0) begins[n] = before;
}

// The number of each word's first set pixel, and each set pixel's position and parent: the first of its run in the word.
// begin_of_block: from scan, of count_of_block.
extern "C" __global__ void __launch_bounds__(THREADS)
list_pixels(const u32* __restrict__ words, i32 n_words, const i64* __restrict__ begin_of_block,
            i32* __restrict__ first_pixel, i32* __restrict__ parent, u32* __restrict__ position) {
  __shared__ i32 of_warp[THREADS / 32];
  const i32 first = (blockIdx.x * THREADS + threadIdx.x) * WORDS;
  u32 mine[WORDS];
  i32 count = 0, total;
#pragma unroll
  for (i32 i = 0; i < WORDS; i++) {
    mine[i] = first + i < n_words ? words[first + i] : 0;
    count += __popc(mine[i]);
  }
  i32 pixel = (i32)begin_of_block[blockIdx.x] + sum_before(count, of_warp, total);
#pragma unroll
  for (i32 i = 0; i < WORDS; i++) {
    if (first + i >= n_words) continue;
    first_pixel[first + i] = pixel;
    i32 run = pixel;
    for (u32 left = mine[i]; left; left &= left - 1) {
      const i32 bit = __ffs(left) - 1;
      if (bit == 0 || !(mine[i] >> (bit - 1) & 1)) run = pixel;
      parent[pixel] = run;
      position[pixel] = 32u * (first + i) + bit;
      pixel++;
    }
  }
}

__device__ __forceinline__ i32 root_of(const volatile i32* parent, i32 pixel) {
  for (i32 up = parent[pixel]; up != pixel; up = parent[pixel]) pixel = up;
  return pixel;
}

// Hang the larger root below the smaller; another thread may move it meanwhile, then go on from where it is.
__device__ __forceinline__ void join(i32* parent, i32 a, i32 b) {
  for (;;) {
    a = root_of(parent, a);
    b = root_of(parent, b);
    if (a == b) return;
    const i32 large = max(a, b), small = min(a, b), found = atomicMin(&parent[large], small);
    if (found == large) return;
    a = small;
    b = found;
  }
}

__device__ __forceinline__ i32 rank_of(u32 word, i32 bit) { return __popc(word & ((1u << bit) - 1)); }

// Join each word's runs to those before it in the row and above it. A row's first word has no word before it, a mask's first row none above.
extern "C" __global__ void __launch_bounds__(THREADS)
join_pixels(const u32* __restrict__ words, const i32* __restrict__ first_pixel, i32 n_words, i32 row_words, i32 n_rows, i32 square, i32* parent) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_words) return;
  const u32 word = words[i];
  if (!word) return;
  const i32 column = i % row_words, pixel = first_pixel[i];
  if (column > 0 && word & 1 && words[i - 1] >> 31) join(parent, pixel, first_pixel[i] - 1);
  if (i / row_words % n_rows == 0) return;
  const i32 up = i - row_words;
  const u32 above = words[up];
  const i32 pixel_above = first_pixel[up];
  u32 touching = word & above;
  touching &= ~(touching << 1);  // one join for each stretch that touches
  for (u32 left = touching; left; left &= left - 1) {
    const i32 bit = __ffs(left) - 1;
    join(parent, pixel + rank_of(word, bit), pixel_above + rank_of(above, bit));
  }
  if (!square) return;
  const u32 above_left = column > 0 ? words[up - 1] : 0, above_right = column + 1 < row_words ? words[up + 1] : 0;
  for (u32 left = word & ~above & (above << 1 | above_left >> 31); left; left &= left - 1) {
    const i32 bit = __ffs(left) - 1;
    join(parent, pixel + rank_of(word, bit), bit ? pixel_above + rank_of(above, bit - 1) : pixel_above - 1);
  }
  for (u32 left = word & ~above & (above >> 1 | above_right << 31); left; left &= left - 1) {
    const i32 bit = __ffs(left) - 1;
    join(parent, pixel + rank_of(word, bit), bit < 31 ? pixel_above + rank_of(above, bit + 1) : first_pixel[up + 1]);
  }
}

// Point every pixel at its root, and count the roots of each block.
extern "C" __global__ void __launch_bounds__(THREADS)
find_roots(i32 n_pixels, i32* parent, i32* __restrict__ roots_of_block) {
  __shared__ i32 of_warp[THREADS / 32];
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  bool is_root = false;
  i32 total;
  if (i < n_pixels) {
    const i32 root = root_of(parent, i);
    is_root = root == i;
    parent[i] = root;
  }
  sum_before(is_root, of_warp, total);
  if (threadIdx.x == 0) roots_of_block[blockIdx.x] = total;
}

// Number the roots. begin_of_block: from scan, of roots_of_block.
extern "C" __global__ void __launch_bounds__(THREADS)
number_roots(i32 n_pixels, const i32* __restrict__ parent, const i64* __restrict__ begin_of_block, i32* __restrict__ component) {
  __shared__ i32 of_warp[THREADS / 32];
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  const bool is_root = i < n_pixels && parent[i] == i;
  i32 total;
  const i32 before = sum_before(is_root, of_warp, total);
  if (is_root) component[i] = (i32)begin_of_block[blockIdx.x] + before;
}

// Each pixel's component, from its root's, and the pixels of each component.
extern "C" __global__ void __launch_bounds__(THREADS)
number_components(i32 n_pixels, const i32* __restrict__ parent, i32* component, i32* size) {
  const i32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= n_pixels) return;
  const i32 found = component[parent[i]];
  if (parent[i] != i) component[i] = found;
  atomicAdd(&size[found], 1);
}

// One warp a component: its mask, its box, and its pixels, which come in `order`.
extern "C" __global__ void __launch_bounds__(THREADS)
describe_components(i32 n_components, const i64* __restrict__ begin, const i64* __restrict__ order, const u32* __restrict__ position,
                    i32 row_words, i32 n_rows, i32 n_columns, i32* __restrict__ pixels, i32* __restrict__ box, i32* __restrict__ mask) {
  const i32 component = (i32)(((i64)blockIdx.x * THREADS + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (component >= n_components) return;  // the whole warp
  i32 x_begin = n_rows, x_last = -1, y_begin = n_columns, y_last = -1, found = 0;
  for (i64 i = begin[component] + lane; i < begin[component + 1]; i += 32) {
    const u32 at = position[order[i]];
    const i32 word = at >> 5, row = word / row_words, y = (word - row * row_words) * 32 + (at & 31);
    found = row / n_rows;
    const i32 x = row - found * n_rows;
    pixels[i] = x * n_columns + y;
    x_begin = min(x_begin, x);
    x_last = max(x_last, x);
    y_begin = min(y_begin, y);
    y_last = max(y_last, y);
  }
#pragma unroll
  for (i32 step = 16; step; step >>= 1) {
    x_begin = min(x_begin, __shfl_xor_sync(EVERY_LANE, x_begin, step));
    x_last = max(x_last, __shfl_xor_sync(EVERY_LANE, x_last, step));
    y_begin = min(y_begin, __shfl_xor_sync(EVERY_LANE, y_begin, step));
    y_last = max(y_last, __shfl_xor_sync(EVERY_LANE, y_last, step));
  }
  if (lane == 0) {  // which has the first pixel
    mask[component] = found;
    i32* const sides = box + 4ll * component;
    sides[0] = x_begin;
    sides[1] = x_last + 1;
    sides[2] = y_begin;
    sides[3] = y_last + 1;
  }
}
