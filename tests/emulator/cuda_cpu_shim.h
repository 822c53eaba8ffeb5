// Lets g++ compile CUDA kernels, and runs them on the CPU, so that the very sources of the device are tested without one.
//
// Blocks run one after the other. The threads of a block run one after the other too, on one fiber, until a thread waits (at a
// barrier, or for its warp): the next thread then starts on another fiber. A kernel that never waits costs no switch at all.
// Blocks of odd index start their threads from the last to the first, so that data which only happens to be ready is missed.
// Shared memory is filled with 0xA5 before each block. What a device would leave undefined ends the launch with a message.
// It shows wrong values, not all races: compute-sanitizer is for those.
#pragma once
#define EMULATED 1
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <pthread.h>
#include <ucontext.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ const
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static __attribute__((section("emulated_shared")))
extern char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
#endif

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(16) float4 { float x, y, z, w; };

namespace emulator {
struct Index { unsigned x, y, z; };
struct Fiber {
#ifdef __SANITIZE_ADDRESS__
  ucontext_t context;
#endif
  void* jump[5];  // __builtin_setjmp, which is several times faster than setjmp
  char* stack = nullptr;
  bool started = false, idle = true;
  const unsigned* gate = nullptr;  // it waits until *gate is no longer `seen`
  unsigned seen = 0;
  Index thread;
  unsigned linear;
};
struct Warp { uint64_t values[2][32]; unsigned mask, arrived, turn; int site; };
constexpr size_t STACK = 256 << 10;
constexpr unsigned MOST = 1024;

struct State {
  Index block, block_size, grid_size, thread;
  Fiber fibers[MOST];
  Warp warps[MOST / 32];
  unsigned n_threads, next, finished, at_barrier, turn, n_fibers;
  int site;
  bool reversed;
  Fiber* running;
  void (*call)(void*);
  void* kernel;
  char* dynamic;
  size_t dynamic_size;
  char* error;
  void* scheduler[5];
  ucontext_t starter;  // of a new fiber, which needs it only once
#ifdef __SANITIZE_ADDRESS__
  ucontext_t scheduler_context;
  void* fake_stack;
  const void* bottom;
  size_t size;
#endif
};
static State S;
static pthread_mutex_t one_launch = PTHREAD_MUTEX_INITIALIZER;

// Must be a function of its own: g++ takes one with both builtins for one that never returns.
[[noreturn]] __attribute__((noipa)) static void go_to(void** place) { __builtin_longjmp(place, 1); }

__attribute__((noipa)) static void to_scheduler() {
  Fiber& f = *S.running;
#ifdef __SANITIZE_ADDRESS__
  void* fake;
  __sanitizer_start_switch_fiber(&fake, S.bottom, S.size);
  swapcontext(&f.context, &S.scheduler_context);
  // by another thread of the host, perhaps, with a stack of its own to go back to
  __sanitizer_finish_switch_fiber(fake, &S.bottom, &S.size);
#else
  if (!__builtin_setjmp(f.jump)) go_to(S.scheduler);
#endif
}

// The launch ends here: its fibers are left where they are.
[[noreturn]] static void fail(const char* what) {
  snprintf(S.error, 256, "%s (block %u,%u,%u, thread %u,%u,%u)", what, S.block.x, S.block.y, S.block.z, S.thread.x, S.thread.y, S.thread.z);
  for (;;) to_scheduler();
}

static void work() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &S.bottom, &S.size);
#endif
  for (;;) {
    while (S.next < S.n_threads) {
      Fiber& f = *S.running;
      unsigned i = S.next++;
      if (S.reversed) i = S.n_threads - 1 - i;
      f.linear = i;
      f.thread = S.thread = {i % S.block_size.x, i / S.block_size.x % S.block_size.y, i / (S.block_size.x * S.block_size.y)};
      S.call(S.kernel);
      S.finished++;
      if (S.at_barrier) fail("a thread has ended while others wait at a barrier");
    }
    S.running->idle = true;
    to_scheduler();
  }
}

__attribute__((noipa)) static void resume(Fiber& f) {
  S.running = &f;
  S.thread = f.thread;
  f.gate = nullptr;
  f.idle = false;
#ifdef __SANITIZE_ADDRESS__
  void* fake;
  __sanitizer_start_switch_fiber(&fake, f.stack, STACK);
#else
  if (__builtin_setjmp(S.scheduler)) return;
  if (f.started) go_to(f.jump);
#endif
  if (!f.started) {
    if (!f.stack) f.stack = (char*)malloc(STACK);
    f.started = true;
#ifdef __SANITIZE_ADDRESS__
    ucontext_t& start = f.context;
#else
    ucontext_t& start = S.starter;
#endif
    getcontext(&start);
    start.uc_stack.ss_sp = f.stack;
    // stacks that all end at the same place of a page would share a few lines of the cache
    start.uc_stack.ss_size = STACK - (&f - S.fibers) % 64 * 448;
    start.uc_link = nullptr;
    makecontext(&start, work, 0);
  }
#ifdef __SANITIZE_ADDRESS__
  swapcontext(&S.scheduler_context, &f.context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  setcontext(&S.starter);
#endif
}

static void wait(const unsigned& gate) {
  S.running->gate = &gate;
  S.running->seen = gate;
  to_scheduler();
}

static void barrier(int site) {
  if (S.finished) fail("a barrier after some threads have ended");
  if (!S.at_barrier) S.site = site;
  if (S.site != site) fail("threads wait at different barriers");
  if (++S.at_barrier == S.n_threads) {
    S.at_barrier = 0;
    S.turn++;
  } else {
    wait(S.turn);
  }
}

static unsigned lane() { return S.running->linear & 31; }

// Every lane of `mask` hands in a value and sees those of all.
static const uint64_t* exchange(unsigned mask, uint64_t value, int site) {
  unsigned at = S.running->linear, first = at & ~31u, l = at & 31;
  Warp& w = S.warps[at >> 5];
  if (!(mask >> l & 1)) fail("a lane calls a warp function whose mask leaves it out");
  if (S.n_threads - first < 32) mask &= (1u << (S.n_threads - first)) - 1;
  if (!w.arrived) w.mask = mask, w.site = site;
  if (w.mask != mask || w.site != site) fail("lanes of a warp wait at different places");
  unsigned turn = w.turn & 1;
  w.values[turn][l] = value;
  w.arrived |= 1u << l;
  if (w.arrived == mask) {
    w.arrived = 0;
    w.turn++;
  } else {
    wait(w.turn);
  }
  return w.values[turn];
}

static void run_block() {
  S.next = S.finished = S.at_barrier = 0;
  memset(S.warps, 0, sizeof S.warps);
#ifndef __SANITIZE_ADDRESS__
  if (__start_emulated_shared) memset(__start_emulated_shared, 0xA5, __stop_emulated_shared - __start_emulated_shared);
#endif
  memset(S.dynamic, 0xA5, S.dynamic_size);
  while (S.finished < S.n_threads) {
    bool progress = false;
    for (unsigned i = 0; i < S.n_fibers && !*S.error; i++) {
      Fiber& f = S.fibers[i];
      if (!f.idle && f.gate && *f.gate != f.seen) progress = true, resume(f);
    }
    // none before the last one is idle again while there are threads to start
    for (unsigned i = 0; S.next < S.n_threads && !*S.error;) {
      while (i < S.n_fibers && !S.fibers[i].idle) i++;
      if (i == S.n_fibers) S.n_fibers++;
      progress = true;
      resume(S.fibers[i]);
    }
    if (*S.error) return;
    if (!progress) {
      snprintf(S.error, 256, "threads wait for ever: a barrier or a warp function that not all reach (block %u,%u,%u)", S.block.x, S.block.y, S.block.z);
      return;
    }
  }
}

template <class... A, size_t... I>
static void launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t shared, void** args, char* error, std::index_sequence<I...>) {
  pthread_mutex_lock(&one_launch);
  auto body = [&] { kernel(*(std::remove_reference_t<A>*)args[I]...); };
  S.call = [](void* p) { (*(decltype(body)*)p)(); };
  S.kernel = &body;
  S.grid_size = {grid[0], grid[1], grid[2]};
  S.block_size = {block[0], block[1], block[2]};
  S.n_threads = block[0] * block[1] * block[2];
  S.error = error;
  S.dynamic = (char*)malloc(shared ? shared : 1);
  S.dynamic_size = shared;
  S.n_fibers = 0;
  for (unsigned z = 0; z < grid[2] && !*error; z++)
    for (unsigned y = 0; y < grid[1] && !*error; y++)
      for (unsigned x = 0; x < grid[0] && !*error; x++) {
        S.block = {x, y, z};
        S.reversed = (x + y + z) & 1;
        run_block();
      }
  free(S.dynamic);
  if (*error)  // fibers stopped in the middle cannot go on
    for (Fiber& f : S.fibers) f.started = false, f.idle = true;
  pthread_mutex_unlock(&one_launch);
}

template <class T> constexpr char code() {
  if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? 'f' : 'd';
  else if constexpr (std::is_integral_v<T>) {
    constexpr const char* codes = std::is_signed_v<T> ? "bhiq" : "BHIQ";
    return codes[sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3];
  } else return '*';
}
template <class T> struct Signature { static constexpr char kind = 'V', type = code<T>(); };
template <class T> struct Signature<T*> { static constexpr char kind = 'P', type = code<std::remove_cv_t<T>>(); };
template <class... A> static const char* signature(void (*)(A...)) {
  static const char text[] = {(char)Signature<A>::kind..., (char)Signature<A>::type..., 0};
  return text;
}
template <class... A> static void start(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t shared, void** args, char* error) {
  launch(kernel, grid, block, shared, args, error, std::index_sequence_for<A...>{});
}
}  // namespace emulator

#define EMULATOR_EXPORT(kernel)                                                                                               \
  extern "C" const char* signature_of_##kernel() { return emulator::signature(kernel); }                                      \
  extern "C" void launch_##kernel(const unsigned* grid, const unsigned* block, size_t shared, void** args, char* error) {    \
    emulator::start(kernel, grid, block, shared, args, error);                                                                \
  }

#define threadIdx (emulator::S.thread)
#define blockIdx (emulator::S.block)
#define blockDim (emulator::S.block_size)
#define gridDim (emulator::S.grid_size)
#define warpSize 32
#define __syncthreads() emulator::barrier(__LINE__)
#define __syncwarp(...) ((void)emulator::exchange(emulator_mask(__VA_ARGS__), 0, __LINE__))
static inline unsigned emulator_mask(unsigned mask = 0xffffffffu) { return mask; }
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)

static inline unsigned emulator_ballot(unsigned mask, bool set, int site) {
  auto values = emulator::exchange(mask, set, site);
  unsigned result = 0;
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) result |= (unsigned)(values[i] & 1) << i;
  return result;
}
#define __ballot_sync(mask, predicate) emulator_ballot(mask, (predicate) != 0, __LINE__)
#define __any_sync(mask, predicate) (emulator_ballot(mask, (predicate) != 0, __LINE__) != 0)
#define __all_sync(mask, predicate) (emulator_ballot(mask, !(predicate), __LINE__) == 0)
template <class T> static T emulator_shuffle(unsigned mask, T value, unsigned source, int site) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  auto values = emulator::exchange(mask, bits, site);
  T result;
  memcpy(&result, &values[source & 31], sizeof(T));
  return result;
}
static inline unsigned emulator_down(unsigned by) { unsigned l = emulator::lane(); return l + by > 31 ? l : l + by; }
static inline unsigned emulator_up(unsigned by) { unsigned l = emulator::lane(); return l < by ? l : l - by; }
#define __shfl_sync(mask, value, source) emulator_shuffle(mask, value, source, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulator_shuffle(mask, value, emulator::lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, by) emulator_shuffle(mask, value, emulator_down(by), __LINE__)
#define __shfl_up_sync(mask, value, by) emulator_shuffle(mask, value, emulator_up(by), __LINE__)

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t both = (uint64_t)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= (unsigned)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 255) * (b >> i & 255);
  return sum;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) { return (((uint64_t)high << 32 | low) << (by & 31)) >> 32; }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) { return ((uint64_t)high << 32 | low) >> (by & 31); }
template <class T> static T __ldg(const T* p) { return *p; }
template <class T> static T __ldcs(const T* p) { return *p; }
template <class To, class From> static To emulator_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}
static inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return emulator_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
static inline float __int_as_float(int x) { return emulator_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return std::sqrt(a); }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }

// launches of one module never overlap, so these need not be atomic here
template <class T> struct emulator_same { using type = T; };
template <class T> using emulator_as = typename emulator_same<T>::type;
template <class T> static T atomicAdd(T* p, emulator_as<T> v) { T old = *p; *p = old + v; return old; }
template <class T> static T atomicSub(T* p, emulator_as<T> v) { T old = *p; *p = old - v; return old; }
template <class T> static T atomicMin(T* p, emulator_as<T> v) { T old = *p; *p = v < old ? v : old; return old; }
template <class T> static T atomicMax(T* p, emulator_as<T> v) { T old = *p; *p = old < v ? v : old; return old; }
template <class T> static T atomicOr(T* p, emulator_as<T> v) { T old = *p; *p = old | v; return old; }
template <class T> static T atomicAnd(T* p, emulator_as<T> v) { T old = *p; *p = old & v; return old; }
template <class T> static T atomicExch(T* p, emulator_as<T> v) { T old = *p; *p = v; return old; }
template <class T> static T atomicCAS(T* p, emulator_as<T> expected, emulator_as<T> v) { T old = *p; if (old == expected) *p = v; return old; }
