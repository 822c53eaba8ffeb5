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

static __device__ __forceinline__ void meet() {
#if TEAM == 32
  __syncwarp();
#else
  __syncthreads();
#endif
}

// What each warp has found, seen by all of the team.
static __device__ __forceinline__ void hand_in(Team team, u64 mine) {
  __syncthreads();
  if ((team.thread & 31) == 0) team.parts[team.thread >> 5] = mine;
  __syncthreads();
}

static __device__ u64 sum_of_team(Team team, u64 value) {
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(EVERY_LANE, value, step);
#if TEAM > 32
  hand_in(team, value);
  value = 0;
  for (int i = 0; i < TEAM / 32; i++) value += team.parts[i];
#endif
  return value;
}

static __device__ f64 sum_of_team(Team team, f64 value) {
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(EVERY_LANE, value, step);
#if TEAM > 32
  hand_in(team, (u64)__double_as_longlong(value));
  value = 0;
  for (int i = 0; i < TEAM / 32; i++) value += __longlong_as_double((i64)team.parts[i]);
#endif
  return value;
}

static __device__ f64 largest_of_team(Team team, f64 value) {
  for (int step = 16; step; step >>= 1) {
    const f64 other = __shfl_xor_sync(EVERY_LANE, value, step);
    if (other > value) value = other;
  }
#if TEAM > 32
  hand_in(team, (u64)__double_as_longlong(value));
  for (int i = 0; i < TEAM / 32; i++) {
    const f64 other = __longlong_as_double((i64)team.parts[i]);
    if (other > value) value = other;
  }
#endif
  return value;
}

static __device__ u32 least_of_team(Team team, u32 value) {
  for (int step = 16; step; step >>= 1) value = min(value, __shfl_xor_sync(EVERY_LANE, value, step));
#if TEAM > 32
  hand_in(team, value);
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
      meet();
    }
}

static __device__ int count(Team team, const Entry *entries, int size) {
  u64 n = 0;
  for (int i = team.thread; i < size; i += TEAM) n += is_entry(entries[i]);
  return (int)sum_of_team(team, n);
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
  first = least_of_team(team, first);
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
  sum = sum_of_team(team, sum);
  low = sum_of_team(team, low);
  high = sum_of_team(team, high);
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
  meet();
  for (int i = team.thread; i < n_valid; i += TEAM) atomicAdd(&ranks.sizes[block_of_frame[frame_of(entries[i])]], 1);
  int groups = 0;
  if (team.thread < 32) groups = number_groups(entries, n_valid, ranks.group);
  meet();
  u64 there = 0;
  for (int b = team.thread; b < n_blocks; b += TEAM) there += ranks.sizes[b] > 0;
  int n_left = n_valid, blocks_left = (int)sum_of_team(team, there);

  for (int dropped = 0;; dropped++) {
    if (fixed >= 0 ? dropped == fixed : blocks_left < 3) return dropped;
    if (team.thread < 32) count_before(entries, n_valid, groups, block_of_frame, ranks);
    for (int b = team.thread; b < n_blocks; b += TEAM) ranks.sums[b] = 0;
    meet();
    u64 squares = 0;
    for (int i = team.thread; i < n_valid; i += TEAM) {
      const int block = block_of_frame[frame_of(entries[i])];
      if (!ranks.sizes[block]) continue;
      const int s = ranks.before[ranks.group[i]] + ranks.before[ranks.group[i] + 1] - n_left;
      atomicAdd(&ranks.sums[block], s);
      squares += (u64)((i64)s * s);
    }
    squares = sum_of_team(team, squares);
    meet();

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
    const f64 largest = largest_of_team(team, best);
    const int block = (int)least_of_team(team, best == largest ? first : ~0u);
    if (fixed < 0) {
      const f64 limit = critical[blocks_left], bound = limit * (f64)squares;
      const f64 statistic = (f64)(n_left - 1) * sum_of_team(team, between);
      // all values equal, or no limit
      if (!squares || !(bound < 1e300)) return dropped;
      doubtful = fabs(statistic - bound) <= certain * bound;
      if (doubtful || statistic < bound) return dropped;
    }
    n_left -= ranks.sizes[block];
    blocks_left--;
    meet();
    if (team.thread == 0) ranks.sizes[block] = 0;
    meet();
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
    m = sum_of_team(team, team.thread == 0 ? m : 0);
    meet();
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

// ---- clip -------------------------------------------------------------------------------------------------------------------------

// docs/decisions/clip-background.md has the arithmetic. Every operation on f64 is one of IEEE 754's, rounded to nearest, in its order.
//
// CLIP: 1 for these kernels. STEPS, BLOCK_STEPS, WIDTH, MARGIN, BLOCK_MARGIN, MOST_OF_POISSON, CLIPPED_SD, CLIPPED_MEAN, SPARSE: as in
// gpu_spots/background/clip.py.
#ifdef CLIP
#if IS_FLOAT
static __device__ __forceinline__ FRAME rounded_to_frame(f64 value) { return sizeof(FRAME) == 4 ? (FRAME)narrowed(value) : (FRAME)value; }
#endif
#define QUANTUM (IS_FLOAT ? 0.0 : 1.0)

static __device__ f64 clip_limit(f64 mean, f64 variance, f64 number, f64 margin) {
  f64 least = mean > 0 ? mean : 0.0;
  if (least > MOST_OF_POISSON) least = MOST_OF_POISSON;
  least *= QUANTUM;
  if (variance > least || variance != variance) least = variance;
  return (mean + WIDTH * sqrt(least / number)) + margin * QUANTUM / number;
}

static __device__ void correct(f64 &mean, f64 &variance) {
  const f64 sd = sqrt(variance) / CLIPPED_SD;
  variance = sd * sd;
  const f64 part = sd > 0 ? variance / (variance + SPARSE * QUANTUM) : 0.0;
  mean = mean + (CLIPPED_MEAN * sd) * part;
}

#if IS_FLOAT
static __device__ __forceinline__ f64 counts_of(Entry entry) { return number_of(entry); }
#else
static __device__ __forceinline__ f64 counts_of(Entry entry) { return (f64)((i64)number_of(entry) - SAMPLE_BIAS); }

// high * 2^64 + low, rounded to nearest once; high is below 2^63.
static __device__ f64 rounded_once(u64 high, u64 low) {
  if (!high) return (f64)low;
  const int shift = 64 - __clzll((i64)high);
  u64 leading = high << (64 - shift) | low >> shift;
  leading |= (low & (((u64)1 << shift) - 1)) != 0;
  f64 scale = 1;
  for (int i = 0; i < shift; i++) scale *= 2;
  return (f64)leading * scale;
}

// m * Q - S * S, from S and Q = high * 2^32 + low.
static __device__ f64 scatter_of(u64 m, u64 sum, u64 low, u64 high) {
  high += low >> 32;
  const u64 squares_low = high << 32 | (low & 0xffffffffu), squares_high = high >> 32;
  const u64 product_low = m * squares_low, product_high = m * squares_high + __umul64hi(m, squares_low);
  const u64 squared_low = sum * sum, squared_high = __umul64hi(sum, sum);
  return rounded_once(product_high - squared_high - (product_low < squared_low), product_low - squared_low);
}
#endif

struct Statistics {
  f64 mean, population, variance;
};

// Of the first m entries, ascending; every thread has them. bias: what keys of integers are above their counts.
static __device__ Statistics statistics_of(Team team, const Entry *entries, int m, i64 bias) {
  Statistics found;
#if IS_FLOAT
  f64 average = 0, deviation = 0;
  if (team.thread == 0) {
    for (int i = 0; i < m; i++) average += number_of(entries[i]);
    average /= m;
    if (number_of(entries[0]) == number_of(entries[m - 1])) average = number_of(entries[0]);
    for (int i = 0; i < m; i++) {
      const f64 difference = number_of(entries[i]) - average;
      deviation += difference * difference;
    }
  }
  found.mean = sum_of_team(team, average);
  deviation = sum_of_team(team, deviation);
  found.population = deviation / (f64)m;
  found.variance = deviation / ((f64)m - 1.0);
#else
  u64 sum = 0, low = 0, high = 0;
  for (int i = team.thread; i < m; i += TEAM) {
    const u64 key = number_of(entries[i]), square = key * key;
    sum += key;
    low += square & 0xffffffffu;
    high += square >> 32;
  }
  sum = sum_of_team(team, sum);
  low = sum_of_team(team, low);
  high = sum_of_team(team, high);
  const f64 scatter = scatter_of((u64)m, sum, low, high);
  found.mean = (f64)((i64)sum - (i64)m * bias) / (f64)m;
  found.population = scatter / ((f64)m * (f64)m);
  found.variance = scatter / ((f64)m * ((f64)m - 1.0));
#endif
  return found;
}

// Values less what their background is above the run's, in ascending order. levels: of each frame over the run's, in 2^-16.
static __device__ void level(Team team, Entry *entries, int n_valid, int size, const i32 *levels, f64 background) {
#if IS_FLOAT
  for (int i = team.thread; i < n_valid; i += TEAM) {
    const u32 frame = frame_of(entries[i]);
    const f64 left = number_of(entries[i]) - (f64)(levels[frame] - 65536) * (1.0 / 65536) * background;
    entries[i] = entry_of(key_of_value(rounded_to_frame(left)), frame);
  }
#else
  const i64 sixteenths = (i64)floor(16.0 * background);
  for (int i = team.thread; i < n_valid; i += TEAM) {
    const u32 frame = frame_of(entries[i]);
    i64 key = (i64)key_of(entries[i]) - (((i64)(levels[frame] - 65536) * sixteenths + (1 << 19)) >> 20) + (1ll << 30);
    if (key < 0) key = 0;
    if (key > 0xffffffffll) key = 0xffffffffll;
    entries[i] = entry_of((Key)key, frame);
  }
#endif
  meet();
  sort(team, entries, size);
}

// The background that the clip begins with, and its variance, of the first m of n_valid entries.
static __device__ void start_of(Team team, const Entry *entries, int n_valid, int m, i64 bias, const f64 *start_shift,
                                const f64 *start_width, f64 &mean, f64 &variance) {
  const Statistics found = statistics_of(team, entries, m, bias);
  const f64 sd = sqrt(found.population) / start_width[n_valid];
  mean = found.mean + start_shift[n_valid] * sd, variance = sd * sd;
}

// kept, shift, width: by number of valid values, as gpu_spots.background.clip.StartTable has them. levels: null without LEVELS.
extern "C" __global__ void __launch_bounds__(256)
clip(FRAME_PARAMETERS, const i32 *__restrict__ start_kept, const f64 *__restrict__ start_shift,
     const f64 *__restrict__ start_width, const i32 *__restrict__ levels, u8 *scratch, int team_bytes, MAP_PARAMETERS) {
  FOR_PIXELS_OF_TEAM() {
    const i64 pixel = read_and_sort(team, frames, begin + threadIdx.y, n_pixels, nullptr, pixel_of_team, memory, team_bytes, entries);
    if (pixel < 0) continue;
    const int n_valid = count(team, entries, size);
    int m = start_kept[n_valid];
    note_gaps(team, frames, n_valid, gaps);
    if (m < 2) {
      write_masked(team, maps, pixel);
      continue;
    }
    write_maximum(team, entries, n_valid, maps, pixel);
    f64 mean, variance;
    start_of(team, entries, n_valid, m, (i64)BIAS, start_shift, start_width, mean, variance);
#if LEVELS
    level(team, entries, n_valid, size, levels, mean);
    start_of(team, entries, n_valid, m, SAMPLE_BIAS, start_shift, start_width, mean, variance);
#endif
    for (int step = 0; step < STEPS; step++) {
      const f64 most = clip_limit(mean, variance, 1.0, MARGIN);
      u64 within = 0;
      for (int i = team.thread; i < n_valid; i += TEAM) within += counts_of(entries[i]) <= most;
      m = (int)sum_of_team(team, within);
      if (m < 2) m = 2;
      const Statistics found = statistics_of(team, entries, m, SAMPLE_BIAS);
      mean = found.mean, variance = found.variance;
      correct(mean, variance);
    }
    write_sample(team, entries, m, maps, pixel);
  }
}

// What is known of the blocks of a pixel, (n_blocks) each.
struct Blocks {
  f64 *mean, *scatter;
#if IS_FLOAT
  f64 *total;
#else
  i64 *total;
#endif
  i32 *size, *left;
};

// Mean, sum and scatter of each block, from its entries, ascending.
static __device__ void sum_blocks(Team team, const Entry *entries, int n_valid, i64 bias, const i32 *block_of_frame, int n_blocks,
                                  const Blocks &blocks) {
  for (int b = team.thread; b < n_blocks; b += TEAM) {
    int size = 0;
#if IS_FLOAT
    f64 total = 0, first = 0, last = 0, deviation = 0;
    for (int i = 0; i < n_valid; i++)
      if (block_of_frame[frame_of(entries[i])] == b) {
        last = number_of(entries[i]);
        if (!size++) first = last;
        total += last;
      }
    const f64 mean = first == last ? first : total / size;
    for (int i = 0; i < n_valid; i++)
      if (block_of_frame[frame_of(entries[i])] == b) {
        const f64 difference = number_of(entries[i]) - mean;
        deviation += difference * difference;
      }
    blocks.total[b] = total;
    blocks.scatter[b] = deviation;
#else
    u64 sum = 0, low = 0, high = 0;
    for (int i = 0; i < n_valid; i++)
      if (block_of_frame[frame_of(entries[i])] == b) {
        const u64 key = number_of(entries[i]), square = key * key;
        size++;
        sum += key;
        low += square & 0xffffffffu;
        high += square >> 32;
      }
    blocks.total[b] = (i64)sum - (i64)size * bias;
    blocks.scatter[b] = size ? scatter_of((u64)size, sum, low, high) / (f64)size : 0.0;
#endif
    blocks.size[b] = size;
    blocks.mean[b] = size ? (f64)blocks.total[b] / (f64)size : 0.0;
  }
  meet();
}

// Variance of a value inside the blocks that are left.
static __device__ f64 pooled(const Blocks &blocks, int n_blocks) {
  f64 scatter = 0;
  i64 freedom = 0;
  for (int b = 0; b < n_blocks; b++)
    if (blocks.left[b]) scatter += blocks.scatter[b], freedom += blocks.size[b] - 1;
  return freedom > 0 ? scatter / (f64)freedom : 0.0;
}

// The background that the clip begins with, its variance, and the block of lowest mean.
static __device__ void start_of_blocks(Team team, int n_blocks, const f64 *shifts, const Blocks &blocks, f64 &mean, f64 &variance,
                                       u32 &first) {
  int there = 0;
  i64 n_values = 0;
  for (int b = 0; b < n_blocks; b++)
    if (blocks.size[b]) there++, n_values += blocks.size[b];
  const int half = min(there, max(2, (there + 1) / 2));
  first = ~0u;
  for (int b = team.thread; b < n_blocks; b += TEAM) {
    int rank = 0;
    for (int other = 0; other < n_blocks; other++)
      if (blocks.size[other] &&
          (blocks.mean[other] < blocks.mean[b] || (blocks.mean[other] == blocks.mean[b] && other < b)))
        rank++;
    blocks.left[b] = blocks.size[b] && rank < half;
    if (blocks.size[b] && !rank) first = (u32)b;
  }
  first = least_of_team(team, first);
  meet();
  mean = 0;
  for (int b = 0; b < n_blocks; b++)
    if (blocks.left[b]) mean += blocks.mean[b];
  mean /= half > 1 ? half : 1;
  variance = pooled(blocks, n_blocks);
  mean = mean + shifts[there] * sqrt(n_values ? variance * (f64)there / (f64)n_values : 0.0);
  meet();
}

// Says of each block whether it is left.
static __device__ void clip_of_blocks(Team team, int n_blocks, const Blocks &blocks, f64 mean, f64 variance, u32 first) {
  for (int step = 0; step < BLOCK_STEPS; step++) {
    meet();
    u64 any = 0;
    for (int b = team.thread; b < n_blocks; b += TEAM) {
      const bool left = blocks.size[b] && blocks.mean[b] <= clip_limit(mean, variance, (f64)blocks.size[b], BLOCK_MARGIN);
      blocks.left[b] = left;
      any += left;
    }
    any = sum_of_team(team, any);
    if (!any && team.thread == 0 && first != ~0u) blocks.left[first] = 1;
    meet();
#if IS_FLOAT
    f64 total = 0;
#else
    i64 total = 0;
#endif
    i64 kept = 0;
    for (int b = 0; b < n_blocks; b++)
      if (blocks.left[b]) total += blocks.total[b], kept += blocks.size[b];
    mean = (f64)total / (f64)(kept > 1 ? kept : 1);
    variance = pooled(blocks, n_blocks);
  }
}

// shifts: (n_blocks + 1), by number of blocks with valid values.
extern "C" __global__ void __launch_bounds__(256)
clip_blocks(FRAME_PARAMETERS, const i32 *__restrict__ block_of_frame, int n_blocks, const f64 *__restrict__ shifts,
            const i32 *__restrict__ levels, u8 *scratch, int team_bytes, MAP_PARAMETERS) {
  FOR_PIXELS_OF_TEAM() {
    const i64 pixel = read_and_sort(team, frames, begin + threadIdx.y, n_pixels, nullptr, pixel_of_team, memory, team_bytes, entries);
    if (pixel < 0) continue;
    const int n_valid = count(team, entries, size);
    note_gaps(team, frames, n_valid, gaps);
    Blocks blocks;
    blocks.mean = (f64 *)(entries + size);
    blocks.scatter = blocks.mean + n_blocks;
#if IS_FLOAT
    blocks.total = blocks.scatter + n_blocks;
#else
    blocks.total = (i64 *)(blocks.scatter + n_blocks);
#endif
    blocks.size = (i32 *)(blocks.total + n_blocks);
    blocks.left = blocks.size + n_blocks;
    if (n_valid) write_maximum(team, entries, n_valid, maps, pixel);
    f64 mean, variance;
    u32 first;
    sum_blocks(team, entries, n_valid, (i64)BIAS, block_of_frame, n_blocks, blocks);
    start_of_blocks(team, n_blocks, shifts, blocks, mean, variance, first);
#if LEVELS
    level(team, entries, n_valid, size, levels, mean);
    sum_blocks(team, entries, n_valid, SAMPLE_BIAS, block_of_frame, n_blocks, blocks);
    start_of_blocks(team, n_blocks, shifts, blocks, mean, variance, first);
#endif
    clip_of_blocks(team, n_blocks, blocks, mean, variance, first);
    u64 m = 0;
    if (team.thread < 32) m = (u64)keep_left(entries, n_valid, block_of_frame, blocks.left);
    // every lane of the first warp has it
    m = sum_of_team(team, team.thread == 0 ? m : 0);
    meet();
    if (m < 2)
      write_masked(team, maps, pixel);
    else
      write_sample(team, entries, (int)m, maps, pixel);
  }
}
#endif
