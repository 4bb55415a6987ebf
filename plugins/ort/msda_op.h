// The two ops of the domain `adapter_infer` as ONNX Runtime custom ops, for any execution provider.
#pragma once

#include "ort_abi.h"

namespace adapter {

// One execution provider: where it wants the sizes of the levels, and how it computes.
struct Provider {
  const char* name;
  OrtMemoryType sizes;  // of spatial_shapes and level_start_index
  OrtStatus* (*create)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*compute)(void* kernel, OrtKernelContext* context);
  void (*destroy)(void* kernel);
};

extern const Provider kCpu;   // cpu_provider.cpp
extern const Provider kCuda;  // cuda_provider.cpp

// One op for one provider and one combination of element types. ONNX Runtime chooses among ops of one name by the
// provider and the types of a node.
struct MsdaOp : OrtCustomOp {
  // `value_type` is the type T; `samples_type` that of the offsets and logits, or of the sampling locations.
  MsdaOp(const Provider& provider, bool is_fused, OrtElementType value_type, OrtElementType samples_type);

  const Provider& provider;
  const bool fused;
  const OrtElementType value, samples;
};

}  // namespace adapter
