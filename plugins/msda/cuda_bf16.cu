// The CUDA kernels for values of type bf16.
#include "cuda_launch.cuh"

namespace msda {

bool launch_fast_bf16(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  return launch_fast<__nv_bfloat16>(a, fused, threads, entries, stream);
}

void launch_generic_bf16(const Arguments& a, bool vectors, cudaStream_t stream) {
  launch_generic<__nv_bfloat16>(a, vectors, stream);
}

}  // namespace msda
