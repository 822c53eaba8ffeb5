// Statistics of a pixel from its values in ascending order: samples of the Kruskal-Wallis test, and trimmed ones of frames of any type and
// number.
//
// A team of threads has a pixel at a time. TEAM = 32: a warp, with blockDim.y (1, 2, 4 or 8) of them a block, each with its own part of
// shared memory. TEAM = 256: the block, which works in global memory on what does not fit, one pixel after the other.
//
// An entry is a value's key, an unsigned integer in the order of the values, with the number of its frame. Invalid values are no entries.
//
// FRAME: u8, u16, u32 (then BIAS makes a signed value such a key, by XOR), f32 or f64. IS_FLOAT, ENTRY: 4, 8 or 16 bytes.
// LEVELS: 1 where samples are of levelled values, whose integer keys are higher by 2^30 (clip only).

#ifndef LEVELS
#define LEVELS 0
#endif
#define SAMPLE_BIAS ((i64)BIAS + ((i64)LEVELS << 30))

#if IS_FLOAT
typedef f64 Bound;
typedef f64 Number;
#else
typedef u32 Bound;
typedef u32 Number;
#endif

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#if ENTRY < 16
#if ENTRY == 4
typedef u32 Entry;
#else
typedef u64 Entry;
#endif
typedef u32 Key;
static __device__ __forceinline__ Entry entry_of(Key key, u32 frame) { return (Entry)key << 16 | frame; }
static __device__ __forceinline__ Entry no_entry() { return ~(Entry)0; }
static __device__ __forceinline__ bool is_entry(Entry entry) { return entry != ~(Entry)0; }
static __device__ __forceinline__ Key key_of(Entry entry) { return (Key)(entry >> 16); }
static __device__ __forceinline__ u32 frame_of(Entry entry) { return (u32)entry & 0xffffu; }
static __device__ __forceinline__ bool is_after(Entry a, Entry b) { return a > b; }
#else
typedef u64 Key;
struct Entry {
  u64 key, frame;
};
static __device__ __forceinline__ Entry entry_of(Key key, u32 frame) { return Entry{key, frame}; }
static __device__ __forceinline__ Entry no_entry() { return Entry{~0ull, ~0ull}; }
static __device__ __forceinline__ bool is_entry(Entry entry) { return entry.frame != ~0ull; }
static __device__ __forceinline__ Key key_of(Entry entry) { return entry.key; }
static __device__ __forceinline__ u32 frame_of(Entry entry) { return (u32)entry.frame; }
static __device__ __forceinline__ bool is_after(Entry a, Entry b) { return a.key > b.key; }
#endif

#if IS_FLOAT
#if ENTRY < 16
static __device__ __forceinline__ Key bits_of(f32 value) { return __float_as_uint(value); }
static __device__ __forceinline__ f32 of_bits(Key bits) { return __uint_as_float(bits); }
#else
static __device__ __forceinline__ Key bits_of(f64 value) { return (Key)__double_as_longlong(value); }
static __device__ __forceinline__ f64 of_bits(Key bits) { return __longlong_as_double((i64)bits); }
#endif
#define SIGN ((Key)1 << (8 * sizeof(Key) - 1))
// NaN is within no bounds, and the bounds are finite
static __device__ __forceinline__ bool is_valid(FRAME value, f64 low, f64 high) { return widened(value) >= low && widened(value) <= high; }
static __device__ __forceinline__ Key key_of_value(FRAME value) {
  const Key bits = bits_of(value);
  if (bits == SIGN) return SIGN;  // negative zero is zero
  return bits & SIGN ? ~bits : bits | SIGN;
}
static __device__ __forceinline__ FRAME value_of(Key key) { return of_bits(key & SIGN ? key ^ SIGN : ~key); }
static __device__ __forceinline__ f64 number_of(Entry entry) { return widened(value_of(key_of(entry))); }
#else
static __device__ __forceinline__ Key key_of_value(FRAME value) { return (u32)value ^ BIAS; }
static __device__ __forceinline__ bool is_valid(FRAME value, u32 low, u32 high) {
  const Key key = key_of_value(value);
  return key >= low && key <= high;
}
static __device__ __forceinline__ FRAME value_of(Key key) { return (FRAME)(key ^ BIAS); }
static __device__ __forceinline__ u32 number_of(Entry entry) { return key_of(entry); }
#endif

// ---- a team -----------------------------------------------------------------------------------------------------------------------

struct Team {
  int thread;
  u64 *parts;  // one for each warp of a team of several
};

static __device__ __forceinline__ void team_sync() {
#if TEAM == 32
  __syncwarp();
#else
  __syncthreads();
#endif
}

// What each warp has found, seen by all of the team.
static __device__ __forceinline__ void store_warp_partial(Team team, u64 mine) {
  __syncthreads();
  if ((team.thread & 31) == 0) team.parts[team.thread >> 5] = mine;
  __syncthreads();
}

static __device__ u64 team_sum(Team team, u64 value) {
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(EVERY_LANE, value, step);
#if TEAM > 32
  store_warp_partial(team, value);
  value = 0;
  for (int i = 0; i < TEAM / 32; i++) value += team.parts[i];
#endif
  return value;
}

static __device__ f64 team_sum(Team team, f64 value) {
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(EVERY_LANE, value, step);
#if TEAM > 32
  store_warp_partial(team, (u64)__double_as_longlong(value));
  value = 0;
  for (int i = 0; i < TEAM / 32; i++) value += __longlong_as_double((i64)team.parts[i]);
#endif
  return value;
}

static __device__ f64 team_max(Team team, f64 value) {
  for (int step = 16; step; step >>= 1) {
    const f64 other = __shfl_xor_sync(EVERY_LANE, value, step);
    if (other > value) value = other;
  }
#if TEAM > 32
  store_warp_partial(team, (u64)__double_as_longlong(value));
  for (int i = 0; i < TEAM / 32; i++) {
    const f64 other = __longlong_as_double((i64)team.parts[i]);
    if (other > value) value = other;
  }
#endif
  return value;
}

static __device__ u32 team_min(Team team, u32 value) {
  for (int step = 16; step; step >>= 1) value = min(value, __shfl_xor_sync(EVERY_LANE, value, step));
#if TEAM > 32
  store_warp_partial(team, value);
  for (int i = 0; i < TEAM / 32; i++) value = min(value, (u32)team.parts[i]);
#endif
  return value;
}

// ---- reading and sorting ----------------------------------------------------------------------------------------------------------

struct Frames {
  const FRAME *values;  // n frames of n_pixels, `stride` values from one to the next
  i64 stride;
  int n, size;       // size: the power of two that is not below n
  const u8 *pixels;  // 0: the pixel is masked; null: none is
  Bound low, high;
};

// Entries of the block's pixels, as they come; neighbouring threads read neighbouring pixels.
static __device__ void read(const Frames &frames, const i64 *pixel_of_team, u8 *memory, int team_bytes) {
  const int n_threads = blockDim.x * blockDim.y, first = threadIdx.y * blockDim.x + threadIdx.x;
  const int which = blockDim.y - 1, shift = __popc(which);
  const int team = first & which;
  const i64 pixel = pixel_of_team[team];
  const bool wanted = pixel >= 0 && !(frames.pixels && !frames.pixels[pixel]);
  Entry *entries = (Entry *)(memory + (i64)team * team_bytes);
  for (int f = first >> shift; f < frames.size; f += n_threads >> shift) {
    Entry entry = no_entry();
    if (wanted && f < frames.n) {
      const FRAME value = frames.values[pixel + f * frames.stride];
      if (is_valid(value, frames.low, frames.high)) entry = entry_of(key_of_value(value), (u32)f);
    }
    entries[f] = entry;
  }
}

// Bitonic: what is no entry comes last.
static __device__ void sort(Team team, Entry *entries, int size) {
  for (int run = 2; run <= size; run <<= 1)
    for (int step = run >> 1; step; step >>= 1) {
      for (int i = team.thread; i < size / 2; i += TEAM) {
        const int a = 2 * (i & ~(step - 1)) + (i & (step - 1)), b = a + step;
        const Entry x = entries[a], y = entries[b];
        if (is_after(x, y) == !(a & run)) entries[a] = y, entries[b] = x;
      }
      team_sync();
    }
}

static __device__ int count(Team team, const Entry *entries, int size) {
  u64 n = 0;
  for (int i = team.thread; i < size; i += TEAM) n += is_entry(entries[i]);
  return (int)team_sum(team, n);
}

// ---- statistics -------------------------------------------------------------------------------------------------------------------

struct Maps {
  i32 *kept, *arg, *gaps;
  FRAME *maximum;
#if IS_FLOAT
  f64 *average, *deviation, *iqr;
#else
  i64 *total, *iqr4;
  u64 *scatter_low, *scatter_high;
#endif
};

static __device__ void write_masked(Team team, const Maps &maps, i64 pixel) {
  if (team.thread) return;
  maps.kept[pixel] = 0, maps.arg[pixel] = 0, maps.maximum[pixel] = 0;
#if IS_FLOAT
  maps.average[pixel] = 0, maps.deviation[pixel] = 0, maps.iqr[pixel] = 0;
#else
  maps.total[pixel] = 0, maps.scatter_low[pixel] = 0, maps.scatter_high[pixel] = 0, maps.iqr4[pixel] = 0;
#endif
}

// Of all n_valid ascending entries.
static __device__ void write_maximum(Team team, const Entry *entries, int n_valid, const Maps &maps, i64 pixel) {
  const Key top = key_of(entries[n_valid - 1]);
  u32 first = ~0u;
  for (int i = team.thread; i < n_valid; i += TEAM)
    if (key_of(entries[i]) == top) first = min(first, frame_of(entries[i]));
  first = team_min(team, first);
  if (team.thread) return;
  maps.maximum[pixel] = value_of(top);
  maps.arg[pixel] = (i32)first;
}

#if IS_FLOAT
// The value at position quarters / 4, as numpy.quantile rounds it.
static __device__ f64 interpolated(const Entry *entries, int quarters) {
  const int index = quarters >> 2, rest = quarters & 3;
  const f64 below = number_of(entries[index]);
  if (!rest) return below;
  const f64 step = number_of(entries[index + 1]) - below, weight = rest * 0.25;
  return rest >= 2 ? number_of(entries[index + 1]) - step * (1 - weight) : below + step * weight;
}
#endif

// Of the first m entries, ascending.
static __device__ void write_sample(Team team, const Entry *entries, int m, const Maps &maps, i64 pixel) {
#if IS_FLOAT
  // one after the other, from the smallest up: the order is part of the result
  if (team.thread) return;
  f64 average = 0, deviation = 0;
  for (int i = 0; i < m; i++) average += number_of(entries[i]);
  average /= m;
  if (number_of(entries[0]) == number_of(entries[m - 1])) average = number_of(entries[0]);
  for (int i = 0; i < m; i++) {
    const f64 difference = number_of(entries[i]) - average;
    deviation += difference * difference;
  }
  maps.average[pixel] = average;
  maps.deviation[pixel] = deviation;
  maps.iqr[pixel] = interpolated(entries, 3 * (m - 1)) - interpolated(entries, m - 1);
#else
  // squares in two halves, so that no sum overflows
  u64 sum = 0, low = 0, high = 0;
  for (int i = team.thread; i < m; i += TEAM) {
    const u64 key = number_of(entries[i]), square = key * key;
    sum += key;
    low += square & 0xffffffffu;
    high += square >> 32;
  }
  sum = team_sum(team, sum);
  low = team_sum(team, low);
  high = team_sum(team, high);
  if (team.thread) return;
  high += low >> 32;
  const u64 squares_low = high << 32 | (low & 0xffffffffu), squares_high = high >> 32;
  const u64 product_low = m * squares_low, product_high = m * squares_high + __umul64hi(m, squares_low);
  const u64 squared_low = sum * sum, squared_high = __umul64hi(sum, sum);
  maps.total[pixel] = (i64)sum - (i64)m * SAMPLE_BIAS;
  maps.scatter_low[pixel] = product_low - squared_low;
  maps.scatter_high[pixel] = product_high - squared_high - (product_low < squared_low);
  i64 quartiles = 0;
  for (int quarter = 1; quarter <= 3; quarter += 2) {
    const int place = quarter * (m - 1) >> 2, rest = quarter * (m - 1) & 3;
    i64 four = (i64)(4 - rest) * number_of(entries[place]);
    if (rest) four += (i64)rest * number_of(entries[place + 1]);
    quartiles += quarter == 1 ? -four : four;
  }
  maps.iqr4[pixel] = quartiles;
#endif
  maps.kept[pixel] = m;
}

// ---- Kruskal-Wallis ---------------------------------------------------------------------------------------------------------------

struct Ranks {
  i32 *sums;    // of each block: D, the sum of the centred ranks of its values
  i32 *sizes;   // of each block: its values, 0 once it is dropped
  u16 *before;  // of each group of equal values: how many values that are left are smaller; one more: how many are left
  u16 *group;   // of each entry: its group, ascending
};

// One warp: number the groups of equal values; how many there are.
static __device__ int number_groups(const Entry *entries, int n_valid, u16 *group) {
  const int lane = threadIdx.x;
  int groups = 0;
  for (int begin = 0; begin < n_valid; begin += 32) {
    const int i = begin + lane;
    const bool opens = i < n_valid && (i == 0 || key_of(entries[i]) != key_of(entries[i - 1]));
    const u32 opened = __ballot_sync(EVERY_LANE, opens);
    if (i < n_valid) group[i] = (u16)(groups + __popc(opened & (~0u >> (31 - lane))) - 1);
    groups += __popc(opened);
  }
  return groups;
}

// One warp: count the values left that are smaller than those of each group.
static __device__ void count_before(const Entry *entries, int n_valid, int groups, const i32 *block_of_frame, const Ranks &ranks) {
  const int lane = threadIdx.x;
  int counted = 0;
  for (int begin = 0; begin < n_valid; begin += 32) {
    const int i = begin + lane;
    const bool left = i < n_valid && ranks.sizes[block_of_frame[frame_of(entries[i])]];
    const u32 all = __ballot_sync(EVERY_LANE, left);
    if (i < n_valid && (i == 0 || ranks.group[i] != ranks.group[i - 1]))
      ranks.before[ranks.group[i]] = (u16)(counted + __popc(all & ((1u << lane) - 1)));
    counted += __popc(all);
  }
  if (lane == 0) ranks.before[groups] = (u16)counted;
}

// One warp: the entries that are left move to the front, in their order; how many there are.
static __device__ int keep_left(Entry *entries, int n_valid, const i32 *block_of_frame, const i32 *sizes) {
  const int lane = threadIdx.x;
  int kept = 0;
  for (int begin = 0; begin < n_valid; begin += 32) {
    const int i = begin + lane;
    const Entry entry = i < n_valid ? entries[i] : no_entry();
    const bool left = i < n_valid && sizes[block_of_frame[frame_of(entry)]];
    const u32 all = __ballot_sync(EVERY_LANE, left);
    __syncwarp();
    if (left) entries[kept + __popc(all & ((1u << lane) - 1))] = entry;
    kept += __popc(all);
  }
  return kept;
}

// Drop blocks while the test rejects; `fixed` >= 0: that many, untested. Returns how many; `doubtful`: float64 cannot decide.
//
// The centred rank s of a value is the number of values left that are smaller less the number that are larger. H > critical is
// (n - 1) * sum(D^2 / k) > critical * sum(s^2), see docs/decisions/kruskal-comparison.md: the left side is off by less than 2^-36 of
// itself.
static __device__ int drop_blocks(Team team, const Entry *entries, int n_valid, const i32 *block_of_frame, int n_blocks,
                                  const f64 *critical, int fixed, const Ranks &ranks, bool &doubtful) {
  const f64 certain = 1.0 / (1ull << 36);
  doubtful = false;
  for (int b = team.thread; b < n_blocks; b += TEAM) ranks.sizes[b] = 0;
  team_sync();
  for (int i = team.thread; i < n_valid; i += TEAM) atomicAdd(&ranks.sizes[block_of_frame[frame_of(entries[i])]], 1);
  int groups = 0;
  if (team.thread < 32) groups = number_groups(entries, n_valid, ranks.group);
  team_sync();
  u64 there = 0;
  for (int b = team.thread; b < n_blocks; b += TEAM) there += ranks.sizes[b] > 0;
  int n_left = n_valid, blocks_left = (int)team_sum(team, there);

  for (int dropped = 0;; dropped++) {
    if (fixed >= 0 ? dropped == fixed : blocks_left < 3) return dropped;
    if (team.thread < 32) count_before(entries, n_valid, groups, block_of_frame, ranks);
    for (int b = team.thread; b < n_blocks; b += TEAM) ranks.sums[b] = 0;
    team_sync();
    u64 squares = 0;
    for (int i = team.thread; i < n_valid; i += TEAM) {
      const int block = block_of_frame[frame_of(entries[i])];
      if (!ranks.sizes[block]) continue;
      const int s = ranks.before[ranks.group[i]] + ranks.before[ranks.group[i] + 1] - n_left;
      atomicAdd(&ranks.sums[block], s);
      squares += (u64)((i64)s * s);
    }
    squares = team_sum(team, squares);
    team_sync();

    f64 between = 0, best = -1e300;
    u32 first = ~0u;
    for (int b = team.thread; b < n_blocks; b += TEAM) {
      const int size = ranks.sizes[b];
      if (!size) continue;
      // quotients of integers as small as these are equal only if the fractions are
      const f64 mean = (f64)ranks.sums[b] / (f64)size;
      between += (f64)ranks.sums[b] * mean;
      if (mean > best) best = mean, first = (u32)b;
    }
    const f64 largest = team_max(team, best);
    const int block = (int)team_min(team, best == largest ? first : ~0u);
    if (fixed < 0) {
      const f64 limit = critical[blocks_left], bound = limit * (f64)squares;
      const f64 statistic = (f64)(n_left - 1) * team_sum(team, between);
      // all values equal, or no limit
      if (!squares || !(bound < 1e300)) return dropped;
      doubtful = fabs(statistic - bound) <= certain * bound;
      if (doubtful || statistic < bound) return dropped;
    }
    n_left -= ranks.sizes[block];
    blocks_left--;
    team_sync();
    if (team.thread == 0) ranks.sizes[block] = 0;
    team_sync();
  }
}

// ---- kernels ----------------------------------------------------------------------------------------------------------------------

#if IS_FLOAT
#define MAP_PARAMETERS \
  i32 *kept, FRAME *maximum, i32 *arg, i32 *gaps, f64 *average, f64 *deviation, f64 *iqr
#define MAPS \
  { kept, arg, gaps, maximum, average, deviation, iqr }
#else
#define MAP_PARAMETERS \
  i32 *kept, FRAME *maximum, i32 *arg, i32 *gaps, i64 *total, i64 *iqr4, u64 *scatter_low, u64 *scatter_high
#define MAPS \
  { kept, arg, gaps, maximum, total, iqr4, scatter_low, scatter_high }
#endif
#define FRAME_PARAMETERS \
  const FRAME *__restrict__ values, i64 stride, int n, int size, int n_pixels, const u8 *__restrict__ pixels, Bound low, Bound high

// The memory of the block's teams: shared, or its part of `scratch`.
#if TEAM == 32
#define TEAM_MEMORY DYNAMIC_SHARED(u8, memory)
#else
#define TEAM_MEMORY u8 *const memory = scratch + (i64)blockIdx.x * team_bytes
#endif

// `listed`: the pixels to compute, null: all; n_pixels: how many.
#define FOR_PIXELS_OF_TEAM(listed)                                                                                       \
  __shared__ i64 pixel_of_team[8];                                                                                       \
  __shared__ u64 parts[TEAM / 32];                                                                                       \
  const Team team = {(int)threadIdx.x, parts};                                                                           \
  const Frames frames = {values, stride, n, size, pixels, low, high};                                                    \
  const Maps maps = MAPS;                                                                                                \
  TEAM_MEMORY;                                                                                                           \
  Entry *const entries = (Entry *)(memory + (i64)threadIdx.y * team_bytes);                                          \
  for (i64 begin = (i64)blockIdx.x * blockDim.y; begin < n_pixels; begin += (i64)gridDim.x * blockDim.y)

static __device__ i64 read_and_sort(Team team, const Frames &frames, i64 place, int n_pixels, const i32 *listed, i64 *pixel_of_team,
                                    u8 *memory, int team_bytes, Entry *entries) {
  const i64 pixel = place >= n_pixels ? -1 : listed ? listed[place] : place;
  __syncthreads();  // all have done with the pixels before
  if (team.thread == 0) pixel_of_team[threadIdx.y] = pixel;
  __syncthreads();
  read(frames, pixel_of_team, memory, team_bytes);
  __syncthreads();
  if (pixel >= 0) sort(team, entries, frames.size);
  return pixel;
}

static __device__ void note_gaps(Team team, const Frames &frames, int n_valid, i32 *gaps) {
  if (team.thread == 0 && n_valid > 0 && n_valid < frames.n) *gaps = 1;
}

extern "C" __global__ void __launch_bounds__(256)
trimmed(FRAME_PARAMETERS, int percent, u8 *scratch, int team_bytes, MAP_PARAMETERS) {
  FOR_PIXELS_OF_TEAM() {
    const i64 pixel = read_and_sort(team, frames, begin + threadIdx.y, n_pixels, nullptr, pixel_of_team, memory, team_bytes, entries);
    if (pixel < 0) continue;
    const int n_valid = count(team, entries, size), m = n_valid - (int)((u32)n_valid * (u32)percent / 100u);
    note_gaps(team, frames, n_valid, gaps);
    if (m < 2) {
      write_masked(team, maps, pixel);
      continue;
    }
    write_maximum(team, entries, n_valid, maps, pixel);
    write_sample(team, entries, m, maps, pixel);
  }
}

// critical: (n_blocks + 1). fixed: how many blocks of each listed pixel leave; null: as many as the test says. doubtful: becomes 1 where
// float64 cannot decide; the rest of that pixel's maps is then of no use.
extern "C" __global__ void __launch_bounds__(256)
kruskal(FRAME_PARAMETERS, const i32 *__restrict__ block_of_frame, int n_blocks, const f64 *__restrict__ critical,
        const i32 *__restrict__ listed, const i32 *__restrict__ fixed, u8 *scratch, int team_bytes, MAP_PARAMETERS,
        i32 *n_dropped, u8 *doubtful) {
  FOR_PIXELS_OF_TEAM() {
    const i64 place = begin + threadIdx.y;
    const i64 pixel = read_and_sort(team, frames, place, n_pixels, listed, pixel_of_team, memory, team_bytes, entries);
    if (pixel < 0) continue;
    const int n_valid = count(team, entries, size);
    note_gaps(team, frames, n_valid, gaps);
    Ranks ranks;
    ranks.sums = (i32 *)(entries + size);
    ranks.sizes = ranks.sums + n_blocks;
    ranks.before = (u16 *)(ranks.sizes + n_blocks);
    ranks.group = ranks.before + (n + 1);
    bool doubt;
    const int dropped =
        drop_blocks(team, entries, n_valid, block_of_frame, n_blocks, critical, fixed ? fixed[place] : -1, ranks, doubt);
    if (n_valid) write_maximum(team, entries, n_valid, maps, pixel);
    u64 m = 0;
    if (team.thread < 32) m = (u64)keep_left(entries, n_valid, block_of_frame, ranks.sizes);
    // every lane of the first warp has it
    m = team_sum(team, team.thread == 0 ? m : 0);
    team_sync();
    if (m < 2)
      write_masked(team, maps, pixel);
    else
      write_sample(team, entries, (int)m, maps, pixel);
    if (team.thread == 0) {
      n_dropped[pixel] = m < 2 ? 0 : dropped;
      doubtful[pixel] = doubt;
    }
  }
}
