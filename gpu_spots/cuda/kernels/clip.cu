// Clip of the values of a pixel, or of its blocks of frames: docs/decisions/clip-background.md has the arithmetic. Every operation on f64 is
// one of IEEE 754's, rounded to nearest, in its order.
//
// Comes behind ranked.cu. STEPS, BLOCK_STEPS, WIDTH, MARGIN, BLOCK_MARGIN, MOST_OF_POISSON, CLIPPED_SD, CLIPPED_MEAN, SPARSE: as in
// gpu_spots/background/clip.py.
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
  found.mean = team_sum(team, average);
  deviation = team_sum(team, deviation);
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
  sum = team_sum(team, sum);
  low = team_sum(team, low);
  high = team_sum(team, high);
  const f64 scatter = scatter_of((u64)m, sum, low, high);
  found.mean = (f64)((i64)sum - (i64)m * bias) / (f64)m;
  found.population = scatter / ((f64)m * (f64)m);
  found.variance = scatter / ((f64)m * ((f64)m - 1.0));
#endif
  return found;
}

#if LEAVES_OUT
// Remove the values of frames whose level is 0; return how many are left.
static __device__ int leave_out(Team team, Entry *entries, int size, const i32 *levels) {
  for (int i = team.thread; i < size; i += TEAM)
    if (is_entry(entries[i]) && levels[frame_of(entries[i])] == 0) entries[i] = no_entry();
  team_sync();
  sort(team, entries, size);
  return count(team, entries, size);
}
#endif

#if SURFACE
#define LEVEL_OF(frame) surface_level(surface, frame, (i32)(pixel / surface[4]), (i32)(pixel % surface[4]))
#else
#define LEVELLINGS 1
#define LEVEL_OF(frame) levels[frame]
#endif

// The part of a background that follows the levels, counts: model.ConstantPart.
static __device__ f64 following(f64 background, f64 contrast, f64 centre) {
  if (!(background > 0)) return background;
  const f64 line = background + contrast * (background - centre), most = (contrast > 1 ? 1.0 + contrast : 2.0) * background;
  return line < 0 ? 0.0 : line > most ? most : line;
}

// Values less what their background is above the run's, in ascending order. levels: of each frame over the run's, in 2^-16; with SURFACE,
// the surfaces have them instead. background: the part that follows them; before: the one that they were levelled by, if it is not the
// first time.
static __device__ void level(Team team, Entry *entries, int n_valid, int size, const i32 *levels, const i32 *surface, i64 pixel,
                             f64 background, bool is_first, f64 before) {
#if IS_FLOAT
  for (int i = team.thread; i < n_valid; i += TEAM) {
    const u32 frame = frame_of(entries[i]);
    const f64 above = (f64)(LEVEL_OF(frame) - 65536) * (1.0 / 65536), part = above * background;
    const f64 left = is_first ? number_of(entries[i]) - part : number_of(entries[i]) + (above * before - part);
    entries[i] = entry_of(key_of_value(rounded_to_frame(left)), frame);
  }
#else
  const i64 sixteenths = (i64)floor(16.0 * background), sixteenths_before = (i64)floor(16.0 * before);
  for (int i = team.thread; i < n_valid; i += TEAM) {
    const u32 frame = frame_of(entries[i]);
    const i64 above = LEVEL_OF(frame) - 65536;
    i64 key = (i64)key_of(entries[i]) - ((above * sixteenths + (1 << 19)) >> 20);
    key += is_first ? 1ll << 30 : (above * sixteenths_before + (1 << 19)) >> 20;
    if (key < 0) key = 0;
    if (key > 0xffffffffll) key = 0xffffffffll;
    entries[i] = entry_of((Key)key, frame);
  }
#endif
  team_sync();
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
     const f64 *__restrict__ start_width, const i32 *__restrict__ levels, const i32 *__restrict__ surface, f64 contrast, f64 centre,
     u8 *scratch, int team_bytes, MAP_PARAMETERS) {
  FOR_PIXELS_OF_TEAM() {
    const i64 pixel = read_and_sort(team, frames, begin + threadIdx.y, n_pixels, nullptr, pixel_of_team, memory, team_bytes, entries);
    if (pixel < 0) continue;
    int n_valid = count(team, entries, size);
    note_gaps(team, frames, n_valid, gaps);
#if LEAVES_OUT
    n_valid = leave_out(team, entries, size, levels);
#endif
    int m = start_kept[n_valid];
    if (m < 2) {
      write_masked(team, maps, pixel);
      continue;
    }
    write_maximum(team, entries, n_valid, maps, pixel);
    f64 mean, variance;
    start_of(team, entries, n_valid, m, (i64)BIAS, start_shift, start_width, mean, variance);
#if LEVELS
    f64 before = 0;
    for (int time = 0; time < LEVELLINGS; time++) {
      const f64 part = following(mean, contrast, centre);
      level(team, entries, n_valid, size, levels, surface, pixel, part, time == 0, before);
      before = part;
      start_of(team, entries, n_valid, m, SAMPLE_BIAS, start_shift, start_width, mean, variance);
    }
#endif
    for (int step = 0; step < STEPS; step++) {
      const f64 most = clip_limit(mean, variance, 1.0, MARGIN);
      u64 within = 0;
      for (int i = team.thread; i < n_valid; i += TEAM) within += counts_of(entries[i]) <= most;
      m = (int)team_sum(team, within);
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
  team_sync();
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
  first = team_min(team, first);
  team_sync();
  mean = 0;
  for (int b = 0; b < n_blocks; b++)
    if (blocks.left[b]) mean += blocks.mean[b];
  mean /= half > 1 ? half : 1;
  variance = pooled(blocks, n_blocks);
  mean = mean + shifts[there] * sqrt(n_values ? variance * (f64)there / (f64)n_values : 0.0);
  team_sync();
}

#if LEVELS && !SURFACE
// The mean of the blocks that are left, brought to the level of the run. block_levels: mean level of the frames of each block, in 2^-16.
static __device__ f64 at_run_level(const Blocks &blocks, int n_blocks, const i32 *block_levels, f64 contrast, f64 centre) {
  i64 level = 0, half = 0;
  f64 mean = 0;
  for (int b = 0; b < n_blocks; b++)
    if (blocks.left[b]) mean += blocks.mean[b], level += block_levels[b], half++;
  mean /= (f64)(half > 1 ? half : 1);
  const f64 above = (f64)(level - half * 65536) / (65536.0 * (f64)(half > 1 ? half : 1));
  if (!(mean > 0)) return mean;
  const f64 of_line = 1.0 + above * (1.0 + contrast), most = contrast > 1 ? 1.0 + contrast : 2.0, of_most = 1.0 + above * most;
  const f64 found = of_line > LEAST_LEVEL ? (mean + above * (contrast * centre)) / of_line : mean;
  const f64 line = found + contrast * (found - centre);
  if (line < 0) return mean;
  if (line > most * found) return of_most > LEAST_LEVEL ? mean / of_most : mean;
  return found;
}
#endif

// Says of each block whether it is left.
static __device__ void clip_of_blocks(Team team, int n_blocks, const Blocks &blocks, f64 mean, f64 variance, u32 first) {
  for (int step = 0; step < BLOCK_STEPS; step++) {
    team_sync();
    u64 any = 0;
    for (int b = team.thread; b < n_blocks; b += TEAM) {
      const bool left = blocks.size[b] && blocks.mean[b] <= clip_limit(mean, variance, (f64)blocks.size[b], BLOCK_MARGIN);
      blocks.left[b] = left;
      any += left;
    }
    any = team_sum(team, any);
    if (!any && team.thread == 0 && first != ~0u) blocks.left[first] = 1;
    team_sync();
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

// shifts: (n_blocks + 1), by number of blocks with valid values. block_levels: null with SURFACE.
extern "C" __global__ void __launch_bounds__(256)
clip_blocks(FRAME_PARAMETERS, const i32 *__restrict__ block_of_frame, int n_blocks, const f64 *__restrict__ shifts,
            const i32 *__restrict__ levels, const i32 *__restrict__ surface, f64 contrast, f64 centre,
            const i32 *__restrict__ block_levels, u8 *scratch, int team_bytes, MAP_PARAMETERS) {
  FOR_PIXELS_OF_TEAM() {
    const i64 pixel = read_and_sort(team, frames, begin + threadIdx.y, n_pixels, nullptr, pixel_of_team, memory, team_bytes, entries);
    if (pixel < 0) continue;
    int n_valid = count(team, entries, size);
    note_gaps(team, frames, n_valid, gaps);
#if LEAVES_OUT
    n_valid = leave_out(team, entries, size, levels);
#endif
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
#if !SURFACE
    mean = at_run_level(blocks, n_blocks, block_levels, contrast, centre);
#endif
    f64 before = 0;
    for (int time = 0; time < LEVELLINGS; time++) {
      const f64 part = following(mean, contrast, centre);
      level(team, entries, n_valid, size, levels, surface, pixel, part, time == 0, before);
      before = part;
      sum_blocks(team, entries, n_valid, SAMPLE_BIAS, block_of_frame, n_blocks, blocks);
      start_of_blocks(team, n_blocks, shifts, blocks, mean, variance, first);
    }
#endif
    clip_of_blocks(team, n_blocks, blocks, mean, variance, first);
    u64 m = 0;
    if (team.thread < 32) m = (u64)keep_left(entries, n_valid, block_of_frame, blocks.left);
    // every lane of the first warp has it
    m = team_sum(team, team.thread == 0 ? m : 0);
    team_sync();
    if (m < 2)
      write_masked(team, maps, pixel);
    else
      write_sample(team, entries, (int)m, maps, pixel);
  }
}
