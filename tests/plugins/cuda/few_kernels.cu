// A few instantiations of the kernels, for tests that compile them many times: fp16, D = 32 and 64, and the generic
// ones.
#include <cstdlib>

#include "cuda_launch.cuh"

namespace msda {

bool launch_fast_fp16(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  if (a.d == 32 && a.l == 1) return launch_layout<__half, 32, 1>(a, fused, threads, entries, stream);
  if (a.d == 32 && a.l == 3) return launch_layout<__half, 32, 3>(a, fused, threads, entries, stream);
  if (a.d == 64 && a.l == 3) return launch_layout<__half, 64, 3>(a, fused, threads, entries, stream);
  return false;
}
void launch_generic_fp16(const Arguments& a, bool vectors, cudaStream_t stream) {
  launch_generic<__half>(a, vectors, stream);
}

bool launch_fast_fp32(const Arguments&, bool, int, unsigned, cudaStream_t) { std::abort(); }
bool launch_fast_bf16(const Arguments&, bool, int, unsigned, cudaStream_t) { std::abort(); }
void launch_generic_fp32(const Arguments&, bool, cudaStream_t) { std::abort(); }
void launch_generic_bf16(const Arguments&, bool, cudaStream_t) { std::abort(); }
cudaError_t probe() { return cudaSuccess; }

}  // namespace msda
