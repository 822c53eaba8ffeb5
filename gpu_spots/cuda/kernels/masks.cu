// Masks, 32 pixels a word: bit j of word w of a row is the column 32 w + j; bits beyond the last column are 0.
//
// FRAME is the type of a value, LIMIT that of the map it is compared with, BOUND what bounds of validity are given in.
#ifndef FRAME
#define FRAME u16
#define LIMIT u16
#define BOUND i64
#endif

#define THREADS 256
#define TILE_WORDS 32  // 1024 columns
#define TILE_ROWS 64
#define ROW (TILE_WORDS + 2)  // a word on either side: enough for 32 steps

// For integers the map holds the greatest value that does not stand out, for floats the smallest that does.
template <class V, class L> __device__ __forceinline__ bool stands_out(V value, L limit) { return value > limit; }
__device__ __forceinline__ bool stands_out(f32 value, f64 limit) { return widened(value) >= limit; }
__device__ __forceinline__ bool stands_out(f64 value, f64 limit) { return value >= limit; }

// Neither comparison holds for NaN.
template <class V> __device__ __forceinline__ bool is_valid(V value, i64 low, i64 high) { return value >= low && value <= high; }
__device__ __forceinline__ bool is_valid(f32 value, f64 low, f64 high) { return widened(value) >= low && widened(value) <= high; }
__device__ __forceinline__ bool is_valid(f64 value, f64 low, f64 high) { return value >= low && value <= high; }

// 8 values at once; `wide`: they are aligned for loads of 16 bytes (of 8 for bytes) and all there.
template <class T> __device__ __forceinline__ void load8(const T* from, bool wide, i32 n, T (&values)[8]) {
  if (!wide) {
#pragma unroll
    for (i32 i = 0; i < 8; i++) values[i] = i < n ? from[i] : T();
  } else if (sizeof(T) == 1) {
    *reinterpret_cast<uint2*>(values) = *reinterpret_cast<const uint2*>(from);
  } else {
#pragma unroll
    for (i32 i = 0; i < (i32)sizeof(T) / 2; i++) reinterpret_cast<uint4*>(values)[i] = reinterpret_cast<const uint4*>(from)[i];
  }
}

// Where a block's tile lies in the frame; it has `halo` rows above and below.
struct Tile {
  i32 row, word, halo, n_rows;                // first row and word without the halo; rows with it
  i32 frame_rows, frame_columns, frame_words;

  __device__ __forceinline__ Tile(i32 halo, i32 frame_rows, i32 frame_columns)
      : row(blockIdx.y * TILE_ROWS), word(blockIdx.x * TILE_WORDS), halo(halo), n_rows(TILE_ROWS + 2 * halo), frame_rows(frame_rows),
        frame_columns(frame_columns), frame_words((frame_columns + 31) / 32) {}
  __device__ __forceinline__ i32 size() const { return n_rows * ROW; }
  __device__ __forceinline__ i32 row_at(i32 i) const { return row - halo + i / ROW; }
  __device__ __forceinline__ i32 word_at(i32 i) const { return word - 1 + i % ROW; }
  __device__ __forceinline__ bool in_frame(i32 x, i32 w) const { return x >= 0 && x < frame_rows && w >= 0 && w < frame_words; }
};

// A word and its neighbours in the row, ANDed or ORed bit by bit.
__device__ __forceinline__ u32 along_row(const u32* words, bool erode) {
  const u32 word = words[0], before = word << 1 | words[-1] >> 31, after = word >> 1 | words[1] << 31;
  return erode ? word & before & after : word | before | after;
}

// So many erosions and dilations of a tile in shared memory; returns the array that holds the result, the other is overwritten.
// Each step spoils one more row of the halo, and one more bit of the words beside the tile. Outside of the frame everything is 0.
__device__ __forceinline__ u32* cleaned(const Tile& tile, u32* words, u32* other, i32 erosions, i32 dilations, bool square) {
  for (i32 step = 0; step < erosions + dilations; step++) {
    const bool erode = step < erosions;
    for (i32 i = threadIdx.x; i < tile.size(); i += THREADS) {
      const i32 x = tile.row_at(i), w = tile.word_at(i);
      u32 word = 0;
      if (i >= ROW && i < tile.size() - ROW && tile.in_frame(x, w)) {
        const u32* here = words + i;
        const u32 above = square ? along_row(here - ROW, erode) : here[-ROW], below = square ? along_row(here + ROW, erode) : here[ROW];
        word = along_row(here, erode);
        word = erode ? word & above & below : word | above | below;
        const i32 left = tile.frame_columns - 32 * w;
        if (left < 32) word &= (1u << left) - 1;
      }
      other[i] = word;
    }
    __syncthreads();
    u32* const result = other;
    other = words;
    words = result;
  }
  return words;
}

// The tile's own words go to `masks`, less those of masked pixels and of values that are invalid on the frame, where these are given.
__device__ __forceinline__ void store(const Tile& tile, const u32* words, u32* masks, const u32* valid, const u32* invalid) {
  for (i32 i = threadIdx.x; i < TILE_ROWS * TILE_WORDS; i += THREADS) {
    const i32 x = tile.row + i / TILE_WORDS, w = tile.word + i % TILE_WORDS;
    if (!tile.in_frame(x, w)) continue;
    u32 word = words[(i / TILE_WORDS + tile.halo) * ROW + i % TILE_WORDS + 1];
    const i32 at = x * tile.frame_words + w;
    if (valid) word &= valid[at];
    if (invalid) word &= ~invalid[at];
    masks[at] = word;
  }
}

// Raw masks, then the first erosions and dilations. `checked`: values outside of low and high are invalid, and marked in `invalid`.
// `finish`: nothing follows, so validity is applied. Grid: tiles of words, tiles of rows, frames.
// Shared memory: 2 * ((TILE_ROWS + 2 * (erosions + dilations)) * ROW + 2) words.
extern "C" __global__ void __launch_bounds__(THREADS)
find_masks(const FRAME* __restrict__ frames, i64 stride, const LIMIT* __restrict__ limits, i32 n_rows, i32 n_columns, i32 wide,
           i32 checked, BOUND low, BOUND high, const u32* __restrict__ valid, i32 erosions, i32 dilations, i32 square, i32 finish,
           u32* __restrict__ raw, u32* __restrict__ filtered, u32* invalid) {
  DYNAMIC_SHARED(u32, shared);
  const Tile tile(erosions + dilations, n_rows, n_columns);
  u32* const words = shared + 1;  // a word before and after each array may be read
  u32* const marks = words + tile.size() + 2;
  const FRAME* const frame = frames + blockIdx.z * stride;
  const i64 mask = (i64)blockIdx.z * n_rows * tile.frame_words;

  for (i32 i = threadIdx.x; i < 4 * tile.size(); i += THREADS) {
    const i32 x = tile.row_at(i / 4), y = 32 * tile.word_at(i / 4) + 8 * (i % 4);
    u32 bits = 0, bad = 0;
    if (x >= 0 && x < n_rows && y >= 0 && y < n_columns) {
      const i64 at = (i64)x * n_columns + y;
      const i32 n = n_columns - y < 8 ? n_columns - y : 8;
      __align__(16) FRAME values[8];
      __align__(16) LIMIT bounds[8];
      load8(frame + at, wide, n, values);
      load8(limits + at, wide, n, bounds);
#pragma unroll
      for (i32 j = 0; j < 8; j++) bits |= (u32)stands_out(values[j], bounds[j]) << j;
      if (checked) {
#pragma unroll
        for (i32 j = 0; j < 8; j++) bad |= (u32)!is_valid(values[j], low, high) << j;
      }
      const u32 there = (1u << n) - 1;
      bad &= there;
      bits &= there & ~bad;
    }
    reinterpret_cast<u8*>(words)[i] = (u8)bits;
    if (checked) reinterpret_cast<u8*>(marks)[i] = (u8)bad;
  }
  __syncthreads();
  store(tile, words, raw + mask, nullptr, nullptr);
  if (checked) store(tile, marks, invalid + mask, nullptr, nullptr);
  __syncthreads();
  const u32* const result = cleaned(tile, words, marks, erosions, dilations, square);
  store(tile, result, filtered + mask, finish ? valid : nullptr, finish && checked ? invalid + mask : nullptr);
}

// Further erosions and dilations of masks that are packed already; the same grid and shared memory.
extern "C" __global__ void __launch_bounds__(THREADS)
clean_masks(const u32* __restrict__ masks, i32 n_rows, i32 n_columns, const u32* __restrict__ valid, const u32* __restrict__ invalid,
            i32 erosions, i32 dilations, i32 square, i32 finish, u32* __restrict__ filtered) {
  DYNAMIC_SHARED(u32, shared);
  const Tile tile(erosions + dilations, n_rows, n_columns);
  u32* const words = shared + 1;
  const i64 mask = (i64)blockIdx.z * n_rows * tile.frame_words;
  for (i32 i = threadIdx.x; i < tile.size(); i += THREADS) {
    const i32 x = tile.row_at(i), w = tile.word_at(i);
    words[i] = tile.in_frame(x, w) ? masks[mask + (i64)x * tile.frame_words + w] : 0;
  }
  __syncthreads();
  const u32* const result = cleaned(tile, words, words + tile.size() + 2, erosions, dilations, square);
  store(tile, result, filtered + mask, finish ? valid : nullptr, finish && invalid ? invalid + mask : nullptr);
}
