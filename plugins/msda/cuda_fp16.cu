// The CUDA kernels for values of type fp16.
#include "cuda_launch.cuh"

namespace msda {

bool launch_fast_fp16(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  return launch_fast<__half>(a, fused, threads, entries, stream);
}

void launch_generic_fp16(const Arguments& a, bool vectors, cudaStream_t stream) {
  launch_generic<__half>(a, vectors, stream);
}

}  // namespace msda
