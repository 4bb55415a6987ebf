// The two ops of the domain `adapter_infer` as ONNX Runtime custom ops of the CPU execution provider.
#pragma once

#include "ort_abi.h"

namespace adapter {

// One op for one combination of element types. ONNX Runtime chooses among ops of one name by the types of a node.
struct MsdaOp : OrtCustomOp {
  // `value` is the type T; `samples` that of the offsets and logits, or of the sampling locations.
  MsdaOp(bool fused, OrtElementType value, OrtElementType samples);

  const bool fused;
  const OrtElementType value, samples;
};

}  // namespace adapter
