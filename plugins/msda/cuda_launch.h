// What the one host file of the CUDA kernels knows of the files that hold them: one launch function for each type.
#pragma once

#include "cuda_types.cuh"

namespace msda {

// Enqueues the fast kernel where there is one for (D, L) = (a.d, a.l) with `threads` threads a block, and says so.
using FastLaunch = bool (*)(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream);
// Enqueues the generic kernel; `vectors`: four channels at a time can be read and written.
using GenericLaunch = void (*)(const Arguments& a, bool vectors, cudaStream_t stream);

bool launch_fast_fp32(const Arguments&, bool, int, unsigned, cudaStream_t);
bool launch_fast_fp16(const Arguments&, bool, int, unsigned, cudaStream_t);
bool launch_fast_bf16(const Arguments&, bool, int, unsigned, cudaStream_t);
void launch_generic_fp32(const Arguments&, bool, cudaStream_t);
void launch_generic_fp16(const Arguments&, bool, cudaStream_t);
void launch_generic_bf16(const Arguments&, bool, cudaStream_t);

// Whether the current device can run what was built.
cudaError_t probe();

}  // namespace msda
