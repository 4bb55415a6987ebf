// Measures what this GPU can move at most: device copy, reads from L2, reads from L1, and the gap between two kernels
// of a graph. Prints one line of JSON. Rates in bytes per second, the best of several runs.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "probe: %s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

constexpr int kThreads = 512;

__global__ void fill(uint4* data, size_t count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    const unsigned word = static_cast<unsigned>(i) * 2654435761u;
    data[i] = make_uint4(word, word ^ 0x9e3779b9u, word * 3u, ~word);
  }
}

__global__ void copy(uint4* __restrict__ to, const uint4* __restrict__ from, size_t count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    to[i] = from[i];
  }
}

// Every block reads the whole buffer, each from another place on; .cg keeps the data out of L1.
__global__ void read_l2(const uint4* __restrict__ data, unsigned count, unsigned* sink) {
  unsigned sum = 0;
  const unsigned first = static_cast<unsigned>((size_t{blockIdx.x} * count / gridDim.x) & ~size_t{31});
#pragma unroll 8
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    unsigned at = first + i;
    if (at >= count) at -= count;
    const uint4 v = __ldcg(data + at);
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

// Every block reads its own 16 KiB over and over; the address depends on the pass, so no load can be left out.
constexpr unsigned kResident = 1024;  // uint4
__global__ void read_l1(const uint4* __restrict__ data, unsigned passes, unsigned* sink, long long* ticks) {
  const uint4* own = data + size_t{blockIdx.x} * kResident;
  unsigned sum = 0;
  for (unsigned i = threadIdx.x; i < kResident; i += kThreads) sum += __ldca(own + i).x;
  __syncthreads();
  unsigned long long begin_ns, end_ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin_ns));
  const long long begin = clock64();
#pragma unroll 8
  for (unsigned pass = 0; pass < passes; ++pass) {
    const uint4 v = __ldca(own + ((threadIdx.x + pass * 32u) & (kResident - 1)));
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  const long long end = clock64();
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(end_ns));
  if (sum == 0x12345678u) *sink = sum;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    ticks[0] = end - begin;
    ticks[1] = static_cast<long long>(end_ns - begin_ns);
  }
}

__global__ void nothing() {}

// Seconds of the fastest of `runs` calls of `launch`, after two that are not counted.
template <class Launch>
double fastest(int runs, cudaStream_t stream, Launch launch) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  float best = 1e30f;
  for (int run = -2; run < runs; ++run) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    launch();
    check(cudaGetLastError(), "launch");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (run >= 0) best = std::min(best, ms);
  }
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  return 1e-3 * static_cast<double>(best);
}

}  // namespace

int main() {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");

  // Far larger than any L2, and never most of the memory.
  const size_t bytes = std::min<size_t>(size_t{1} << 30, free_bytes / 4) & ~size_t{4095};
  const size_t count = bytes / sizeof(uint4);
  uint4 *from = nullptr, *to = nullptr;
  unsigned* sink = nullptr;
  long long* ticks = nullptr;
  check(cudaMalloc(&from, bytes), "cudaMalloc");
  check(cudaMalloc(&to, bytes), "cudaMalloc");
  check(cudaMalloc(&sink, sizeof(unsigned)), "cudaMalloc");
  check(cudaMalloc(&ticks, 2 * sizeof(long long)), "cudaMalloc");
  const int wide = device.multiProcessorCount * (device.maxThreadsPerMultiProcessor / kThreads);
  fill<<<wide, kThreads, 0, stream>>>(from, count);
  check(cudaGetLastError(), "fill");

  const double by_engine = fastest(10, stream, [&] {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  });
  const double by_kernel = fastest(10, stream, [&] { copy<<<4 * wide, kThreads, 0, stream>>>(to, from, count); });
  const double copy_rate = 2.0 * static_cast<double>(bytes) / std::min(by_engine, by_kernel);

  // The values of the op lie between 1 and 34 MB: an eighth of the L2 is of their kind, and surely resident.
  const unsigned resident = static_cast<unsigned>((size_t(device.l2CacheSize) / 8 / sizeof(uint4)) & ~size_t{31});
  const double l2_time = fastest(10, stream, [&] { read_l2<<<wide, kThreads, 0, stream>>>(from, resident, sink); });
  const double l2_rate = static_cast<double>(resident) * sizeof(uint4) * wide / l2_time;

  const unsigned passes = 8192;
  const double l1_time =
      fastest(10, stream, [&] { read_l1<<<wide, kThreads, 0, stream>>>(from, passes, sink, ticks); });
  const double l1_rate = static_cast<double>(passes) * sizeof(uint4) * kThreads * wide / l1_time;
  long long host_ticks[2] = {0, 0};
  check(cudaMemcpy(host_ticks, ticks, sizeof(host_ticks), cudaMemcpyDeviceToHost), "cudaMemcpy");
  const double clock = host_ticks[1] > 0 ? 1e9 * static_cast<double>(host_ticks[0]) / host_ticks[1] : 0;

  const int links = 200;
  cudaGraph_t graph;
  cudaGraphExec_t chain;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < links; ++i) nothing<<<1, 32, 0, stream>>>();
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&chain, graph, 0), "cudaGraphInstantiate");
  const double chain_time = fastest(20, stream, [&] { check(cudaGraphLaunch(chain, stream), "cudaGraphLaunch"); });
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");

  std::printf(
      "{\"name\": \"%s\", \"compute_capability\": \"%d.%d\", \"multiprocessors\": %d, \"l2_bytes\": %d, "
      "\"memory_bytes\": %zu, \"copy_bytes_per_s\": %.4e, \"l2_bytes_per_s\": %.4e, \"l2_buffer_bytes\": %zu, "
      "\"l1_bytes_per_s\": %.4e, \"l1_peak_bytes_per_s\": %.4e, \"sm_clock_hz\": %.4e, \"graph_node_us\": %.4f}\n",
      device.name, device.major, device.minor, device.multiProcessorCount, device.l2CacheSize, total_bytes, copy_rate,
      l2_rate, size_t{resident} * sizeof(uint4), l1_rate, 128.0 * device.multiProcessorCount * clock, clock,
      1e6 * chain_time / links);
  return 0;
}
