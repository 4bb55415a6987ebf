// A baseline for benchmarks: the op as it was first written for GPUs, one thread for each output channel.
//
// Our own plain version of that design: every thread of a (query, head) computes all positions and bilinear weights
// anew and reads one channel at a time. It takes finished locations and weights (the standard op), computes in fp32,
// and is part of no library that is shipped. Compile it with cuda_types.cuh's folder on the include path.
#include <cstdio>

#include "cuda_launch.cuh"
#include "msda_cuda.h"

namespace msda {
namespace {

constexpr int kNaiveThreads = 1024;

template <class T>
__device__ float bilinear(const T* value, const int64_t* dims, int64_t heads, int64_t channels, int64_t head,
                          int64_t channel, float x, float y) {
  const int64_t height = dims[0], width = dims[1];
  const int x0 = static_cast<int>(floorf(x)), y0 = static_cast<int>(floorf(y));
  const float fx = x - x0, fy = y - y0;
  float sum = 0.0f;
  for (int corner = 0; corner < 4; ++corner) {
    const int column = x0 + corner % 2, row = y0 + corner / 2;
    if (column < 0 || row < 0 || column >= width || row >= height) continue;
    const float share = (corner % 2 ? fx : 1.0f - fx) * (corner / 2 ? fy : 1.0f - fy);
    sum += share * static_cast<float>(value[((row * width + column) * heads + head) * channels + channel]);
  }
  return sum;
}

template <class T, class X>
__global__ void __launch_bounds__(kNaiveThreads)
    naive_kernel(const T* value, const int64_t* shapes, const int64_t* starts, const X* locations, const T* weights,
                 T* output, int64_t count, int64_t s, int64_t heads, int64_t channels, int64_t queries, int levels,
                 int points) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kNaiveThreads) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kNaiveThreads) {
    const int64_t channel = i % channels, row = i / channels, head = row % heads, entry = row / heads / queries;
    const X* at = locations + row * levels * points * 2;
    const T* weight = weights + row * levels * points;
    float sum = 0.0f;
    for (int l = 0; l < levels; ++l) {
      const int64_t* dims = shapes + 2 * l;
      const T* level = value + (entry * s + starts[l]) * heads * channels;
      for (int p = 0; p < points; ++p, at += 2, ++weight) {
        const float x = static_cast<float>(at[0]) * dims[1] - 0.5f, y = static_cast<float>(at[1]) * dims[0] - 0.5f;
        if (x > -1 && y > -1 && x < dims[1] && y < dims[0])
          sum += static_cast<float>(*weight) * bilinear(level, dims, heads, channels, head, channel, x, y);
      }
    }
    store1(sum, output + i);
  }
}

template <class T, class X>
void launch_naive(const msda_problem& p, const msda_device_levels& levels, cudaStream_t stream) {
  const int64_t count = p.n * p.q * p.m * p.d, blocks = (count + kNaiveThreads - 1) / kNaiveThreads;
  const unsigned grid = static_cast<unsigned>(blocks < (1 << 30) ? blocks : 1 << 30);
  MSDA_LAUNCH((naive_kernel<T, X>), grid, kNaiveThreads, 0, stream, static_cast<const T*>(p.value),
              static_cast<const int64_t*>(levels.spatial_shapes), static_cast<const int64_t*>(levels.level_start_index),
              static_cast<const X*>(p.positions), static_cast<const T*>(p.weights), static_cast<T*>(p.output), count,
              p.s, p.m, p.d, p.q, static_cast<int>(p.l), static_cast<int>(p.p));
}

template <class T>
void launch_naive(const msda_problem& p, const msda_device_levels& levels, cudaStream_t stream) {
  if (p.position_type == MSDA_FLOAT32)
    launch_naive<T, float>(p, levels, stream);
  else
    launch_naive<T, T>(p, levels, stream);
}

}  // namespace
}  // namespace msda

// The signature of msda_cuda_run. The standard op only, with int64 level sizes and starts on the device, as the design
// had it.
extern "C" __attribute__((visibility("default"))) int msda_cuda_run_naive(const msda_problem* problem,
                                                                          const msda_device_levels* levels,
                                                                          void* stream,
                                                                          char message[MSDA_MESSAGE_SIZE]) {
  if (problem->reference_points || !levels || levels->type != MSDA_INT64 || !levels->level_start_index) {
    std::snprintf(message, MSDA_MESSAGE_SIZE,
                  "the baseline takes the standard op with int64 level sizes and starts on the device; give those");
    return -1;
  }
  if (problem->n == 0 || problem->q == 0) return 0;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  (void)cudaGetLastError();
  if (problem->value_type == MSDA_FLOAT16)
    msda::launch_naive<__half>(*problem, *levels, on);
  else if (problem->value_type == MSDA_BFLOAT16)
    msda::launch_naive<__nv_bfloat16>(*problem, *levels, on);
  else
    msda::launch_naive<float>(*problem, *levels, on);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return 0;
  std::snprintf(message, MSDA_MESSAGE_SIZE, "launching the baseline failed: %s", cudaGetErrorString(error));
  return -1;
}
