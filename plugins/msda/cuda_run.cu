// The C interface to the CUDA kernels: which kernel a call gets, how many blocks, and what can be refused before.
#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "cuda_launch.h"
#include "msda_cuda.h"
#include "refuse.h"

namespace msda {
namespace {

#ifndef MSDA_MAX_ENTRIES  // the tests lower it
#define MSDA_MAX_ENTRIES 65535
#endif
constexpr int64_t kMaxEntries = MSDA_MAX_ENTRIES, kMaxHeads = 65535;  // of a launch: grid dimensions z and y

int refuse_cuda(char* message, const char* doing, cudaError_t error) {
  return refuse(message, "%s failed: %s (%s)", doing, cudaGetErrorString(error), cudaGetErrorName(error));
}

size_t size_of(int32_t type) { return type == MSDA_FLOAT32 ? 4 : 2; }

bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

Arguments arguments_of(const msda_problem& p, const msda_device_levels* levels) {
  Arguments a{};
  a.value = p.value, a.output = p.output;
  a.reference = p.reference_points;
  a.positions = p.positions, a.weights = p.weights;
  a.n = p.n, a.s = p.s, a.m = p.m, a.d = p.d, a.q = p.q;
  a.l = static_cast<int32_t>(p.l), a.p = static_cast<int32_t>(p.p);
  a.position_stride = p.position_stride, a.weight_stride = p.weight_stride;
  a.position_type = p.position_type, a.weight_type = p.weight_type;
  a.reference_entry = p.reference_n == 1 ? 0 : p.q * p.reference_l * 2;
  a.reference_step = static_cast<int32_t>(2 * p.reference_l);
  a.reference_level = p.reference_l == 1 ? 0 : 2;
  if (levels) {
    a.device_shapes = levels->spatial_shapes;
    a.device_starts = levels->level_start_index;
    a.wide_sizes = levels->type == MSDA_INT64;
  } else {
    for (int l = 0; l < a.l; ++l) a.level[l] = p.level[l];
  }
  return a;
}

// Whether the fast kernel may take the call, (D, L) aside.
bool fast(const msda_problem& p) {
  const bool fused = p.reference_points != nullptr;
  const int64_t samples = p.l * p.p;
  const size_t pair = 2 * size_of(p.position_type);
  return p.p == 4 && p.weight_type == p.value_type && p.position_type == (fused ? p.value_type : MSDA_FLOAT32) &&
         p.position_stride == (fused ? 3 : 2) * samples && p.weight_stride == (fused ? 3 : 1) * samples &&
         p.s * p.m * p.d <= INT32_MAX && p.q * p.m <= INT32_MAX / std::max(p.d, 3 * samples) && p.m <= kMaxHeads &&
         p.n <= INT32_MAX && aligned(p.value, 16) && aligned(p.output, 16) && aligned(p.positions, pair) &&
         aligned(p.weights, size_of(p.weight_type)) && (!fused || aligned(p.reference_points, 8));
}

// Threads of a block. Large blocks cover square tiles of queries, whose samples meet in L1; small problems need many
// blocks to reach every processor.
int threads_for(const Arguments& a, int processors) {
  const int64_t warps = (a.n * a.q * a.m + 7) / 8;
  for (int threads = 512; threads > 64; threads /= 2)
    if (warps * 32 / threads >= 2 * static_cast<int64_t>(processors)) return threads;
  return 64;
}

// Processors of the current device; a guess where the driver does not say, for it only shapes the blocks.
int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess || count < 1)
    return 100;
  return count;
}

int run(const msda_problem& p, const msda_device_levels* levels, cudaStream_t stream, char* message) {
  if (levels && levels->type != MSDA_INT32 && levels->type != MSDA_INT64)
    return refuse(message, "the level sizes on the device are neither int32 nor int64; cast them");
  if (levels && !levels->spatial_shapes)
    return refuse(message, "spatial_shapes on the device is NULL; give its address, or levels = NULL");
  if (p.n == 0 || p.q == 0) return 0;
  const int type = p.value_type;
  const FastLaunch launch_fast = type == MSDA_FLOAT16    ? launch_fast_fp16
                                 : type == MSDA_BFLOAT16 ? launch_fast_bf16
                                                         : launch_fast_fp32;
  const GenericLaunch launch_generic = type == MSDA_FLOAT16    ? launch_generic_fp16
                                       : type == MSDA_BFLOAT16 ? launch_generic_bf16
                                                               : launch_generic_fp32;
  Arguments a = arguments_of(p, levels);
  (void)cudaGetLastError();  // an error of somebody else's must not be taken for ours
  bool done = false;
  if (fast(p)) {
    a.head_bits = p.m % 2 == 0;
    const int threads = threads_for(a, processors());
    for (int64_t first = 0; first < p.n; first += kMaxEntries) {
      const int64_t left = p.n - first;
      a.first_entry = static_cast<int32_t>(first);
      done = launch_fast(a, p.reference_points != nullptr, threads,
                         static_cast<unsigned>(left < kMaxEntries ? left : kMaxEntries), stream);
      if (!done) break;
    }
  }
  if (!done) {
    const size_t vector = 4 * size_of(type);
    launch_generic(a, p.d % 4 == 0 && aligned(p.value, vector), stream);
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? 0 : refuse_cuda(message, "launching multi-scale deformable attention", error);
}

}  // namespace
}  // namespace msda

extern "C" int msda_cuda_run(const msda_problem* problem, const msda_device_levels* levels, void* stream,
                             char message[MSDA_MESSAGE_SIZE]) {
  return msda::run(*problem, levels, static_cast<cudaStream_t>(stream), message);
}

extern "C" const char* msda_cuda_architectures(void) { return MSDA_CUDA_ARCHITECTURES; }

extern "C" int msda_cuda_usable(char message[MSDA_MESSAGE_SIZE]) {
  using msda::refuse;
  using msda::refuse_cuda;
  int count = 0, device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return refuse_cuda(message, "finding a CUDA device", error);
  }
  if (count == 0) return refuse(message, "no CUDA device is visible; see CUDA_VISIBLE_DEVICES");
  error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return refuse_cuda(message, "asking the CUDA device what it is", error);
  }
  if (msda::probe() != cudaSuccess) {
    (void)cudaGetLastError();
    return refuse(message, "device %d has compute capability %d.%d; the kernels were built for %s", device, major,
                  minor, MSDA_CUDA_ARCHITECTURES);
  }
  return 0;
}
