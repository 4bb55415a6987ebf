// Lets a C++ compiler take the text of the CUDA kernels as it is, and runs it on a CPU: a thread is a fiber, and
// shuffles, votes and barriers are meeting points.
//
// Included before everything else (-include). The conversions of fp16 and bf16 are those of CUDA's own headers. What
// would hang or be undefined on a GPU ends the process with a sentence: lanes that meet in different operations or not
// at all, a lane outside the mask it names. Shared memory starts as NaN. What it does not show: races between warps,
// the last bits of ex2.approx and of fused operations, limits of a launch, speed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#undef __device__
#undef __forceinline__
#undef __global__
#undef __grid_constant__
#undef __launch_bounds__
#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

#define MSDA_ON_CPU
#define MSDA_SHARED(name) uint4* name = shim::shared_memory()
#define MSDA_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ((void)(stream), shim::launch(#kernel, dim3(grid), dim3(block), shared, [=] { (kernel)(__VA_ARGS__); }))

namespace shim {

enum class Meeting { kNone, kShuffle, kVote, kSyncWarp, kSyncThreads };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint3 thread;
  bool done;
  Meeting meeting;
  unsigned mask;
  unsigned met[2];  // meetings so far: of the warp, of the block
};

struct Lane {
  uint64_t value;
  Meeting meeting;
};

struct Warp {
  Lane lane[2][32];      // of the last two meetings
  unsigned arrived[32];  // meetings that each lane has come to
};

// Settings of a test, and what it may ask afterwards.
inline int order = 1;                            // 1: lanes in ascending order, -1: descending
inline int processors = 4;                       // of the pretended device
inline cudaError_t pending_error = cudaSuccess;  // what cudaGetLastError says
inline cudaError_t launch_error = cudaSuccess;   // of the next launch
inline std::vector<std::string> launched;
inline dim3 last_grid, last_block;

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<unsigned> block_arrived;
inline int current;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline uint3 block_index;
inline dim3 block_size, grid_size;
inline std::unique_ptr<uint4[]> shared;

[[noreturn]] inline void fail(const std::string& what) {
  fprintf(stderr, "CUDA shim: block (%u, %u, %u), thread %d: %s\n", block_index.x, block_index.y, block_index.z,
          current, what.c_str());
  exit(3);
}

inline uint4* shared_memory() { return shared.get(); }

inline bool ready(const Fiber& f, int index) {
  if (f.meeting == Meeting::kSyncThreads) {
    for (unsigned count : block_arrived)
      if (count < f.met[1]) return false;
    return true;
  }
  if (f.meeting == Meeting::kNone) return true;
  const Warp& warp = warps[index / 32];
  for (int lane = 0; lane < 32; ++lane)
    if (f.mask >> lane & 1 && warp.arrived[lane] < f.met[0]) return false;
  return true;
}

inline void wait() {
  Fiber& f = fibers[current];
  const int index = current;
  while (!ready(f, index)) swapcontext(&f.context, &scheduler);
  f.meeting = Meeting::kNone;
}

// Comes to a meeting of the lanes in `mask` and returns what they brought.
inline const Lane* meet(Meeting meeting, unsigned mask, uint64_t value) {
  const int index = current, lane = index % 32;
  Fiber& f = fibers[index];
  Warp& warp = warps[index / 32];
  if (!(mask >> lane & 1)) fail("a lane outside the mask that it names");
  Lane* lanes = warp.lane[f.met[0]++ % 2];
  lanes[lane] = {value, meeting};
  warp.arrived[lane] = f.met[0];
  f.meeting = meeting;
  f.mask = mask;
  wait();
  for (int other = 0; other < 32; ++other)
    if (mask >> other & 1 && lanes[other].meeting != meeting) fail("lanes of a warp meet in different operations");
  return lanes;
}

template <class T>
T shuffle(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = meet(Meeting::kShuffle, mask, bits)[from].value;
  if (!(mask >> from & 1)) fail("a shuffle from a lane outside the mask");
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline void run_fiber() {
  body();
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void run_block(int threads, size_t shared_bytes) {
  constexpr size_t kStack = 64 << 10;
  shared.reset(new uint4[(shared_bytes + 15) / 16]);
  memset(shared.get(), 0xff, (shared_bytes + 15) / 16 * 16);
  warps.assign((threads + 31) / 32, Warp{});
  block_arrived.assign(threads, 0);
  for (int i = 0; i < threads; ++i) {
    Fiber& f = fibers[i];
    if (!f.stack) f.stack.reset(new char[kStack]);
    f.done = false;
    f.meeting = Meeting::kNone;
    f.met[0] = f.met[1] = 0;
    f.thread = {static_cast<unsigned>(i), 0, 0};
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_fiber, 0);
  }
  for (int left = threads; left;) {
    bool moved = false;
    for (int i = 0; i < threads; ++i) {
      current = order > 0 ? i : threads - 1 - i;
      Fiber& f = fibers[current];
      if (f.done || !ready(f, current)) continue;
      moved = true;
      swapcontext(&scheduler, &f.context);
      left -= f.done;
    }
    if (!moved) fail(std::to_string(left) + " threads wait for others that never come");
  }
}

template <class Function>
void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, Function function) {
  last_grid = grid, last_block = block;
  if (launch_error != cudaSuccess) {
    pending_error = launch_error;
    launch_error = cudaSuccess;
    return;
  }
  launched.emplace_back(name);
  grid_size = grid, block_size = block;
  body = function;
  const int threads = static_cast<int>(block.x);
  if (block.y != 1 || block.z != 1 || threads > 1024 || threads % 32) fail("a block of an unexpected shape");
  if (shared_bytes > 48 << 10 || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z)
    fail("a launch beyond the limits");
  if (fibers.size() < static_cast<size_t>(threads)) fibers.resize(threads);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        run_block(threads, shared_bytes);
      }
}

}  // namespace shim

#define threadIdx (shim::fibers[shim::current].thread)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return shim::shuffle(mask, value, (shim::current % 32 & ~(width - 1)) | (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip) {
  return shim::shuffle(mask, value, shim::current % 32 ^ flip);
}
inline bool __all_sync(unsigned mask, bool vote) {
  const shim::Lane* lanes = shim::meet(shim::Meeting::kVote, mask, vote);
  bool all = true;
  for (int lane = 0; lane < 32; ++lane) all = all && (!(mask >> lane & 1) || lanes[lane].value);
  return all;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::meet(shim::Meeting::kSyncWarp, mask, 0); }
inline void __syncthreads() {
  shim::Fiber& f = shim::fibers[shim::current];
  shim::block_arrived[shim::current] = ++f.met[1];
  f.meeting = shim::Meeting::kSyncThreads;
  shim::wait();
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1.0f : 0.0f; }
