// Chunks of HDF5 filter 32008, bitshuffle with LZ4, decoded.
//
// A chunk is a header of 12 bytes (8: bytes when decoded; 4: bytes of a block), then blocks that
// are independent of each other, each behind the 4 bytes of its compressed length, then fewer than
// 8 values as they are. All these numbers are big-endian. The last block may be shorter, but holds
// a multiple of 8 values. A block is decompressed by LZ4 to bit planes: first bit 0 of all its
// values, 8 values a byte and the first one in the lowest bit, then bit 1, and so on.
//
// Nothing is read outside of a chunk or written outside of its values, whatever the chunk holds.
//
// SIZE: bytes of a value: 1, 2, 4 or 8.

#if SIZE == 1
typedef u8 Bits;
#elif SIZE == 2
typedef u16 Bits;
#elif SIZE == 4
typedef u32 Bits;
#else
typedef u64 Bits;
#endif

#define HEADER 12
#define PREFIX 4
#define MAX_LENGTH (1 << 30)

// What is wrong with a chunk; gpu_spots/cuda/bitshuffle.py has the words.
enum Damage { NONE, ENDS_EARLY, OTHER_SIZE, OTHER_BLOCKS, BAD_LITERALS, BAD_MATCH, WRONG_LENGTH };

static __device__ __forceinline__ u32 big_endian_32(const u8 *at) {
  return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
}

static __device__ __forceinline__ u64 big_endian_64(const u8 *at) {
  return (u64)big_endian_32(at) << 32 | big_endian_32(at + 4);
}

// Each thread walks along the blocks of a chunk. begins[chunk * n_blocks + block] is where a
// block's length is, -1 if it was not reached. Chunk k is what lies between offsets[k] and
// offsets[k + 1]; `stride` values lie between the results of neighbouring chunks.
extern "C" __global__ void __launch_bounds__(32)
find_blocks(const u8 *__restrict__ stored, const i64 *__restrict__ offsets, i64 n_chunks,
            i64 n_values, i32 block_values, i64 n_blocks, i64 stride, i64 *__restrict__ begins,
            i32 *__restrict__ damage, Bits *__restrict__ result) {
  const i64 chunk = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (chunk >= n_chunks) return;
  i64 at = offsets[chunk];
  const i64 end = offsets[chunk + 1];
  i32 wrong = NONE;
  if (end - at < HEADER) {
    wrong = ENDS_EARLY;
  } else if (big_endian_64(stored + at) != (u64)n_values * SIZE) {
    wrong = OTHER_SIZE;
  } else if (big_endian_32(stored + at + 8) != (u32)block_values * SIZE) {
    wrong = OTHER_BLOCKS;
  }
  at += HEADER;
  for (i64 block = 0; block < n_blocks; block++) {
    i64 length = 0;
    if (!wrong) {
      if (end - at >= PREFIX) length = big_endian_32(stored + at);
      if (end - at < PREFIX + length) wrong = ENDS_EARLY;
    }
    begins[chunk * n_blocks + block] = wrong ? -1 : at;
    at += PREFIX + length;
  }
  const i64 rest = n_values % 8 * SIZE;
  if (!wrong && end - at < rest) wrong = ENDS_EARLY;
  if (!wrong) {
    u8 *last = reinterpret_cast<u8 *>(result + chunk * stride + n_values - n_values % 8);
    for (i64 i = 0; i < rest; i++) last[i] = stored[at + i];
  }
  damage[chunk] = wrong;
}

// A length that goes on in bytes: each is added, up to and with the first that is not 255. Beyond
// `limit` it is not followed.
static __device__ __forceinline__ void extend(const u8 *input, i32 input_size, i32 limit, i32 &read,
                                              i32 &length) {
  const i32 lane = threadIdx.x;
  for (;;) {
    // behind the end of the input lies a 0, and `read` ends up there
    const u32 byte = lane < input_size - read ? input[read + lane] : 0;
    const u32 ends = __ballot_sync(EVERY_LANE, byte != 255);
    const i32 n_full = ends ? __ffs(ends) - 1 : 32;
    length += 255 * n_full;
    read += n_full;
    if (ends) {
      length += __shfl_sync(EVERY_LANE, byte, n_full);
      read++;
      return;
    }
    if (length > limit) return;
  }
}

// A warp decompresses one LZ4 block into `output`, in shared memory. Every lane follows the
// sequences; together they copy.
static __device__ i32 decompress(const u8 *__restrict__ input, i32 input_size, u8 *output,
                                 i32 output_size) {
  const i32 lane = threadIdx.x;
  i32 read = 0, written = 0;
  while (read < input_size) {
    const u32 token = input[read++];
    i32 literals = token >> 4;
    if (literals == 15) extend(input, input_size, output_size, read, literals);
    if (literals > input_size - read || literals > output_size - written) return BAD_LITERALS;
    for (i32 i = lane; i < literals; i += 32) output[written + i] = input[read + i];
    read += literals;
    written += literals;
    // the last sequence has no match
    if (read == input_size) return written == output_size ? NONE : WRONG_LENGTH;
    if (input_size - read < 2) return BAD_MATCH;
    const i32 distance = input[read] | input[read + 1] << 8;
    read += 2;
    i32 match = token & 15;
    if (match == 15) extend(input, input_size, output_size, read, match);
    match += 4;
    if (read > input_size || distance == 0 || distance > written) return BAD_MATCH;
    if (match > output_size - written) return BAD_MATCH;
    __syncwarp();
    // where it overlaps itself, it repeats the bytes that are there already
    const u8 *from = output + written - distance;
    if (match <= distance) {
      for (i32 i = lane; i < match; i += 32) output[written + i] = from[i];
    } else {
      for (i32 i = lane; i < match; i += 32) output[written + i] = from[i % distance];
    }
    written += match;
    __syncwarp();
  }
  return WRONG_LENGTH;
}

// Bit i of byte k becomes bit k of byte i.
static __device__ __forceinline__ u64 transposed(u64 bits) {
  u64 swap = (bits ^ bits >> 7) & 0x00aa00aa00aa00aaull;
  bits ^= swap ^ swap << 7;
  swap = (bits ^ bits >> 14) & 0x0000cccc0000ccccull;
  bits ^= swap ^ swap << 14;
  swap = (bits ^ bits >> 28) & 0x00000000f0f0f0f0ull;
  return bits ^ swap ^ swap << 28;
}

// A warp, which is a thread block, decodes a block of a chunk: LZ4 into shared memory, then 8
// values a lane out of the bit planes.
extern "C" __global__ void __launch_bounds__(32)
decode_blocks(const u8 *__restrict__ stored, const i64 *__restrict__ begins, i64 n_values,
              i32 block_values, i64 n_blocks, i64 stride, i32 *__restrict__ damage,
              Bits *__restrict__ result) {
  DYNAMIC_SHARED(u8, planes);
  const i64 begin = begins[blockIdx.x];
  if (begin < 0) return;
  const i64 chunk = blockIdx.x / n_blocks, first = blockIdx.x % n_blocks * block_values;
  const i32 values = (i32)min((i64)block_values, n_values - first) / 8 * 8, lane = threadIdx.x;
  const u32 length = big_endian_32(stored + begin);
  i32 wrong = WRONG_LENGTH;
  if (length <= MAX_LENGTH) {
    wrong = decompress(stored + begin + PREFIX, (i32)length, planes, values * SIZE);
  }
  if (wrong) {
    if (lane == 0) atomicMax(damage + chunk, wrong);
    return;
  }
  __syncwarp();
  Bits *const to = result + chunk * stride + first;
  const bool aligned = (reinterpret_cast<u64>(to) & 7) == 0;
  const i32 columns = values / 8;
  for (i32 column = lane; column < columns; column += 32) {
    Bits eight[8] = {};
#pragma unroll
    for (i32 byte = 0; byte < SIZE; byte++) {
      u64 bits = 0;
#pragma unroll
      for (i32 bit = 0; bit < 8; bit++) {
        bits |= (u64)planes[(8 * byte + bit) * columns + column] << (8 * bit);
      }
      bits = transposed(bits);
#pragma unroll
      for (i32 i = 0; i < 8; i++) eight[i] |= (Bits)((Bits)(bits >> (8 * i) & 255) << (8 * byte));
    }
    if (aligned) {
      u64 *words = reinterpret_cast<u64 *>(to + 8 * column);
#pragma unroll
      for (i32 word = 0; word < SIZE; word++) {
        u64 packed = 0;
#pragma unroll
        for (i32 i = 0; i < 8 / SIZE; i++) {
          packed |= (u64)eight[word * (8 / SIZE) + i] << (8 * SIZE * i & 63);
        }
        words[word] = packed;
      }
    } else {
#pragma unroll
      for (i32 i = 0; i < 8; i++) to[8 * column + i] = eight[i];
    }
  }
}
