// Trimmed statistics of frames of 8 or 16 bits: each value is read once, and kept in registers as bit planes.
//
// Bit f of plane b of a word is bit b of the value of frame f, for 32 frames a word. So a pixel of 180 frames of 16 bits is 96 registers,
// and one instruction works on 32 frames. The value at any place of the ascending order is found from the highest bit to the lowest:
// count the candidates whose bit is 0; the wanted place is among these, or among the others. Nothing is sorted.
//
// A slot is a place for a value. Slots without one (invalid values, frames beyond the last) hold 0 and are counted out of every place.
// Up to 32 * WORDS frames one thread has a pixel; beyond, SHARERS threads share it, each with its own part of the frames.
//
// BITS, BIAS: 8 or 16 bits; what makes a signed value an unsigned key of the same order by XOR (0x8000), or 0.
// WORDS, SHARERS, PIXELS: words a thread; threads a pixel; pixels a block, which has PIXELS x SHARERS threads.
// RESIDENT: blocks that a multiprocessor should hold at the same time, which limits the registers of a thread.
// CHECK: 1 where keys outside of low .. high are invalid.
#if BITS == 8
typedef u8 Bits;
#else
typedef u16 Bits;
#endif
#define SLOTS (32 * WORDS * SHARERS)
#define NEVER 0x7fffffff

// ---- the threads that share a pixel -----------------------------------------------------------------------------------------------

// Two buffers take turns, so that one barrier is enough: who writes into one has read the other.
struct Sharing {
  int *buffer;
  int turn;
};

__device__ __forceinline__ int *shared_by_pixel(Sharing &sharing, int mine) {
  int *buffer = sharing.buffer + sharing.turn * (SHARERS * PIXELS);
  sharing.turn ^= 1;
  buffer[threadIdx.y * PIXELS + threadIdx.x] = mine;
  __syncthreads();
  return buffer + threadIdx.x;
}

__device__ __forceinline__ int sum_of_pixel(Sharing &sharing, int mine) {
#if SHARERS > 1
  const int *all = shared_by_pixel(sharing, mine);
  mine = 0;
#pragma unroll
  for (int g = 0; g < SHARERS; g++) mine += all[g * PIXELS];
#endif
  return mine;
}

__device__ __forceinline__ int least_of_pixel(Sharing &sharing, int mine) {
#if SHARERS > 1
  const int *all = shared_by_pixel(sharing, mine);
#pragma unroll
  for (int g = 0; g < SHARERS; g++) mine = min(mine, all[g * PIXELS]);
#endif
  return mine;
}

// ---- bit planes -------------------------------------------------------------------------------------------------------------------

// Any function of three words, bit by bit, is one instruction: its value for bits a, b, c is bit 4 * a + 2 * b + c of TABLE. Of some
// that are written with operators the compiler makes two.
template <u32 TABLE>
__device__ __forceinline__ u32 logic(u32 a, u32 b, u32 c) {
#ifdef EMULATED
  u32 result = 0;
  for (int i = 0; i < 8; i++)
    if (TABLE >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
#else
  u32 result;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
  return result;
#endif
}
__device__ __forceinline__ u32 bits_of_two(u32 a, u32 b, u32 mask) { return logic<0xe4>(a, b, mask); }  // (a & mask) | (b & ~mask)
__device__ __forceinline__ u32 and_either(u32 a, u32 b, u32 c) { return logic<0xe0>(a, b, c); }           // a & (b | c)

// Bits i to i + STEP - 1 of the byte of one word change places with bits of the word STEP further, in each column of bytes.
template <int STEP>
__device__ __forceinline__ void exchange(u32 (&a)[8]) {
  const u32 stays = STEP == 4 ? 0x0f0f0f0fu : STEP == 2 ? 0x33333333u : 0x55555555u;
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (!(i & STEP)) {
      const u32 x = a[i], y = a[i + STEP];
      a[i] = bits_of_two(x, y << STEP, stays);
      a[i + STEP] = bits_of_two(x >> STEP, y, stays);
    }
}

// In each of the four columns of bytes: bit b of word i and bit i of word b change places. Its own inverse.
__device__ __forceinline__ void transpose(u32 (&a)[8]) {
  exchange<4>(a);
  exchange<2>(a);
  exchange<1>(a);
}

// 32 values become BITS planes. Value 8 * k + i goes to byte k of word i first.
__device__ __forceinline__ void to_planes(const u32 (&v)[32], u32 (&plane)[BITS]) {
  u32 low[8];
#if BITS == 8
#pragma unroll
  for (int i = 0; i < 8; i++)
    low[i] = __byte_perm(__byte_perm(v[i], v[i + 8], 0x0040), __byte_perm(v[i + 16], v[i + 24], 0x0040), 0x5410);
#else
  u32 high[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const u32 x = __byte_perm(v[i], v[i + 8], 0x5140), y = __byte_perm(v[i + 16], v[i + 24], 0x5140);
    low[i] = __byte_perm(x, y, 0x5410);
    high[i] = __byte_perm(x, y, 0x7632);
  }
  transpose(high);
#pragma unroll
  for (int b = 0; b < 8; b++) plane[8 + b] = high[b];
#endif
  transpose(low);
#pragma unroll
  for (int b = 0; b < 8; b++) plane[b] = low[b];
}

// The largest value, and in `hit` the slots that have it.
__device__ __forceinline__ u32 largest(const u32 (&plane)[WORDS][BITS], u32 (&hit)[WORDS], Sharing &sharing) {
  u32 value = 0;
#pragma unroll
  for (int w = 0; w < WORDS; w++) hit[w] = ~0u;
#pragma unroll
  for (int b = BITS - 1; b >= 0; b--) {
    u32 any = 0;
#pragma unroll
    for (int w = 0; w < WORDS; w++) any |= hit[w] & plane[w][b];
    const u32 one = sum_of_pixel(sharing, any != 0) ? ~0u : 0u;
    value |= one & (1u << b);
#pragma unroll
    for (int w = 0; w < WORDS; w++) hit[w] = and_either(hit[w], plane[w][b], ~one);
  }
  return value;
}

// The value at `place` of all slots, ascending from 0; `below`: how many slots have less. No value is above `limit`.
__device__ __forceinline__ u32 value_at(const u32 (&plane)[WORDS][BITS], int place, u32 limit, int &below, Sharing &sharing) {
  u32 candidate[WORDS], value = 0;
  int left = place;
#pragma unroll
  for (int w = 0; w < WORDS; w++) candidate[w] = ~0u;
#pragma unroll
  for (int b = BITS - 1; b >= 0; b--) {
    // with barriers, threads must stay together
    if (SHARERS > 1 || limit >> b) {
      int zeros = 0;
#pragma unroll
      for (int w = 0; w < WORDS; w++) zeros += __popc(candidate[w] & ~plane[w][b]);
      zeros = sum_of_pixel(sharing, zeros);
      const u32 one = left >= zeros ? ~0u : 0u;
      left -= zeros & (int)one;
      value |= one & (1u << b);
#pragma unroll
      for (int w = 0; w < WORDS; w++) candidate[w] &= ~(plane[w][b] ^ one);
    }
  }
  below = place - left;
  return value;
}

// Slots that do not hold less than `cut` become 0. The lower bits decide where the higher ones are equal.
__device__ __forceinline__ void keep_less(u32 (&plane)[WORDS][BITS], u32 cut) {
  u32 less[WORDS];
#pragma unroll
  for (int w = 0; w < WORDS; w++) less[w] = 0;
#pragma unroll
  for (int b = 0; b < BITS; b++) {
    const u32 bit = cut >> b & 1u ? ~0u : 0u;
#pragma unroll
    for (int w = 0; w < WORDS; w++) less[w] = (~plane[w][b] & bit) | (~(plane[w][b] ^ bit) & less[w]);
  }
#pragma unroll
  for (int b = 0; b < BITS; b++)
#pragma unroll
    for (int w = 0; w < WORDS; w++) plane[w][b] &= less[w];
}

// Sum and sum of squares of all slots, by bytes: value = 256 * h + l. No partial sum is above 2^32: at most 4096 slots.
__device__ __forceinline__ void sums(const u32 (&plane)[WORDS][BITS], u32 limit, u32 &sum, u64 &squares, Sharing &sharing) {
  u32 l = 0, ll = 0;
#if BITS == 16
  u32 h = 0, hl = 0, hh = 0;
#endif
#pragma unroll
  for (int w = 0; w < WORDS; w++) {
    u32 low[8];
#pragma unroll
    for (int i = 0; i < 8; i++) low[i] = plane[w][i];
    transpose(low);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      l = __dp4a(low[i], 0x01010101u, l);
      ll = __dp4a(low[i], low[i], ll);
    }
#if BITS == 16
    if (limit >> 8) {
      u32 high[8];
#pragma unroll
      for (int i = 0; i < 8; i++) high[i] = plane[w][8 + i];
      transpose(high);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        h = __dp4a(high[i], 0x01010101u, h);
        hl = __dp4a(high[i], low[i], hl);
        hh = __dp4a(high[i], high[i], hh);
      }
    }
#endif
  }
  sum = (u32)sum_of_pixel(sharing, (int)l);
  squares = (u32)sum_of_pixel(sharing, (int)ll);
#if BITS == 16
  sum += (u32)sum_of_pixel(sharing, (int)h) << 8;
  squares += ((u64)(u32)sum_of_pixel(sharing, (int)hl) << 9) + ((u64)(u32)sum_of_pixel(sharing, (int)hh) << 16);
#endif
}

// ---- the statistics ---------------------------------------------------------------------------------------------------------------

// frames: n frames of n_pixels values, frame_bytes from one to the next. pixels: 0 where a pixel is masked; null: none is.
// total: modulo 2^32, of values as they are. gaps: becomes 1 where a pixel has valid and invalid values.
extern "C" __global__ void __launch_bounds__(PIXELS* SHARERS, RESIDENT)
trimmed(const Bits *__restrict__ frames, u32 frame_bytes, int n, int n_pixels, int percent, const u8 *__restrict__ pixels, u32 low,
        u32 high, u16 *__restrict__ kept, u32 *__restrict__ total, u64 *__restrict__ scatter, int *__restrict__ iqr4,
        Bits *__restrict__ maximum, u16 *__restrict__ arg, int *__restrict__ gaps) {
  Sharing sharing = {0, 0};
#if SHARERS > 1
  __shared__ int buffer[2 * SHARERS * PIXELS];
  sharing.buffer = buffer;
#endif
  const i64 pixel = (i64)blockIdx.x * PIXELS + threadIdx.x;
  const bool inside = pixel < n_pixels;
#if SHARERS == 1
  if (!inside) return;
#endif
  const bool wanted = inside && !(pixels && !pixels[pixel]);
  const int share = (n + SHARERS - 1) / SHARERS, begin = SHARERS > 1 ? threadIdx.y * share : 0;
  const int mine = min(max(n - begin, 0), share);

  u32 plane[WORDS][BITS];
  int valid = 0, first = NEVER;
#pragma unroll
  for (int w = 0; w < WORDS; w++) {
    // a frame is shorter than 2^32 bytes: one instruction, a product of 32 bits, makes an address
    const u8 *const from = (const u8 *)(frames + (inside ? pixel : 0)) + (i64)(begin + 32 * w) * frame_bytes;
    u32 v[32];
#if CHECK
    u32 absent = 0;
#endif
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const bool there = (SHARERS == 1 && w < WORDS - 1) || 32 * w + i < mine;
      u32 key = 0;
      if (there) key = *(const Bits *)(from + (u64)frame_bytes * (u32)i) ^ BIAS;
#if CHECK
      // the sign bit of a difference that is negative, without a branch; the first value's arrives in bit 0
      const i32 outside = there ? (i32)(key - low) | (i32)(high - key) : -1;
      absent = (absent >> 1) | ((u32)outside & 0x80000000u);
      key &= ~(u32)(outside >> 31);
#endif
      v[i] = key;
    }
#if CHECK
    if (first == NEVER && ~absent) first = begin + 32 * w + __ffs((int)~absent) - 1;
    valid += __popc(~absent);
#endif
    to_planes(v, plane[w]);
  }
#if CHECK
  valid = sum_of_pixel(sharing, valid);
  first = least_of_pixel(sharing, first);
#else
  valid = n;
  first = 0;
#endif

  const int m = valid - (int)((u32)valid * (u32)percent / 100u);
  const bool masked = !wanted || m < 2;
#if CHECK
  if (wanted && valid > 0 && valid < n) *gaps = 1;
#endif
#if SHARERS == 1
  if (masked) {
    kept[pixel] = 0, total[pixel] = 0, scatter[pixel] = 0, iqr4[pixel] = 0, maximum[pixel] = 0, arg[pixel] = 0;
    return;
  }
#endif

  u32 hit[WORDS];
  const u32 top = largest(plane, hit, sharing);
  // 0 is also what slots without a value hold
  if (top) {
    first = NEVER;
#pragma unroll
    for (int w = WORDS - 1; w >= 0; w--)
      if (hit[w]) first = begin + 32 * w + __ffs((int)hit[w]) - 1;
  }
  first = least_of_pixel(sharing, first);

  // kept: all that is less than the cut, and as many equal to it as m needs
  int below;
  const u32 cut = value_at(plane, max(SLOTS - valid + m - 1, 0), top, below, sharing);
  below = cut ? below - (SLOTS - valid) : 0;
  keep_less(plane, cut);

  int quartiles = 0;
#pragma unroll 1
  for (int j = 0; j < 4; j++) {
    const int quarters = (j < 2 ? 1 : 3) * (m - 1), rest = quarters & 3;
    const int weight = j & 1 ? rest : 4 - rest, place = (quarters >> 2) + (j & 1);
    int value = (int)cut, ignored;
    const bool less = weight && place < below;
    if (SHARERS > 1 || less) {
      // all but the `below` kept ones are 0 by now
      const int found = (int)value_at(plane, less ? SLOTS - below + place : 0, cut, ignored, sharing);
      if (less) value = found;
    }
    quartiles += (j < 2 ? -weight : weight) * value;
  }

  u32 sum;
  u64 squares;
  sums(plane, cut, sum, squares, sharing);
  const u32 equal = (u32)(m - below);
  sum += equal * cut;
  squares += (u64)equal * (cut * cut);
#if SHARERS > 1
  if (threadIdx.y || !inside) return;
  if (masked) {
    kept[pixel] = 0, total[pixel] = 0, scatter[pixel] = 0, iqr4[pixel] = 0, maximum[pixel] = 0, arg[pixel] = 0;
    return;
  }
#endif
  kept[pixel] = (u16)m;
  total[pixel] = sum - (u32)m * BIAS;
  scatter[pixel] = (u64)(u32)m * squares - (u64)sum * sum;
  iqr4[pixel] = quartiles;
  maximum[pixel] = (Bits)(top ^ BIAS);
  arg[pixel] = (u16)first;
}
