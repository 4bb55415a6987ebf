// The CUDA kernels for values of type fp32.
#include "cuda_launch.cuh"

namespace msda {

bool launch_fast_fp32(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  return launch_fast<float>(a, fused, threads, entries, stream);
}

void launch_generic_fp32(const Arguments& a, bool vectors, cudaStream_t stream) {
  launch_generic<float>(a, vectors, stream);
}

cudaError_t probe() {
  cudaFuncAttributes attributes;
  void (*const kernel)(Arguments, int) = generic_kernel<float, 1>;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
}

}  // namespace msda
