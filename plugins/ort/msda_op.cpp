// What ONNX Runtime asks about an op: its name, its inputs and outputs, where they lie, who computes it.
#include "msda_op.h"

#include "shape_inference.h"

namespace adapter {
namespace {

const MsdaOp& msda(const OrtCustomOp* self) { return *static_cast<const MsdaOp*>(self); }

OrtElementType input_type(const OrtCustomOp* self, size_t index) {
  const MsdaOp& op = msda(self);
  const OrtElementType fused[] = {op.value, kOrtInt64, kOrtFloat, op.samples};
  const OrtElementType standard[] = {op.value, kOrtInt64, kOrtInt64, op.samples, op.value};
  return op.fused ? fused[index] : standard[index];
}

// The sizes of the levels are the integers: input 1, and 2 in the standard op.
OrtMemoryType input_memory(const OrtCustomOp* self, size_t index) {
  return input_type(self, index) == kOrtInt64 ? msda(self).provider.sizes : kOrtMemoryDefault;
}

const char* name(const OrtCustomOp* self) {
  return msda(self).fused ? "MSDeformAttn" : "MultiScaleDeformableAttention";
}

}  // namespace

MsdaOp::MsdaOp(const Provider& its_provider, bool is_fused, OrtElementType value_type, OrtElementType samples_type)
    : OrtCustomOp{}, provider(its_provider), fused(is_fused), value(value_type), samples(samples_type) {
  version = kOrtApiVersion;
  GetName = name;
  GetExecutionProviderType = [](const OrtCustomOp* self) { return msda(self).provider.name; };
  GetInputType = input_type;
  GetInputTypeCount = [](const OrtCustomOp* self) -> size_t { return msda(self).fused ? 4 : 5; };
  GetOutputType = [](const OrtCustomOp* self, size_t) { return msda(self).value; };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  GetInputMemoryType = input_memory;
  CreateKernelV2 = provider.create;
  KernelComputeV2 = provider.compute;
  KernelDestroy = provider.destroy;
  InferOutputShape = infer_output_shape;
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

}  // namespace adapter
