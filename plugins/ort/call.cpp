// Reads ONNX Runtime's tensors, has their sizes checked, and asks for the output.
#include "call.h"

#include <cstdio>

#include "status.h"

namespace adapter {
namespace {

constexpr size_t kMaxRank = 6;

// An input tensor with the storage of its sizes.
struct Input {
  int64_t dims[kMaxRank];
  msda_tensor tensor;

  OrtStatus* read(const OrtApi& api, OrtKernelContext* context, size_t index) {
    const OrtValue* value = nullptr;
    ADAPTER_TRY(api.KernelContext_GetInput(context, index, &value));
    TypeAndShape info(api);
    ADAPTER_TRY(api.GetTensorTypeAndShape(value, info.out()));
    OrtElementType type;
    ADAPTER_TRY(api.GetTensorElementType(info.get(), &type));
    ADAPTER_TRY(api.GetDimensionsCount(info.get(), &tensor.rank));
    if (tensor.rank > kMaxRank) return api.CreateStatus(kOrtInvalidArgument, "an input has more than 6 dimensions");
    ADAPTER_TRY(api.GetDimensions(info.get(), dims, tensor.rank));
    void* data = nullptr;
    ADAPTER_TRY(api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    tensor.data = data;
    tensor.dims = dims;
    tensor.type = type == kOrtFloat      ? MSDA_FLOAT32
                  : type == kOrtFloat16  ? MSDA_FLOAT16
                  : type == kOrtBFloat16 ? MSDA_BFLOAT16
                  : type == kOrtInt64    ? MSDA_INT64
                                         : MSDA_OTHER;
    return nullptr;
  }
  const int64_t* integers() const { return static_cast<const int64_t*>(tensor.data); }
};

}  // namespace

OrtStatus* refuse(const OrtApi& api, const char* who, const char* message, OrtErrorCode code) {
  char text[MSDA_MESSAGE_SIZE + 64];
  std::snprintf(text, sizeof text, "%s: %s", who, message);
  return api.CreateStatus(code, text);
}

OrtStatus* prepare(const OrtApi& api, const MsdaOp& op, OrtKernelContext* context, msda_problem* problem) {
  Input in[5];
  const size_t count = op.GetInputTypeCount(&op);
  for (size_t i = 0; i < count; ++i) ADAPTER_TRY(in[i].read(api, context, i));

  char message[MSDA_MESSAGE_SIZE];
  const int unsound =
      op.fused ? msda_describe_fused(&in[0].tensor, &in[1].tensor, &in[2].tensor, &in[3].tensor, problem, message) ||
                     msda_set_levels(problem, in[1].integers(), nullptr, message)
               : msda_describe_standard(&in[0].tensor, &in[1].tensor, &in[2].tensor, &in[3].tensor, &in[4].tensor,
                                        problem, message) ||
                     msda_set_levels(problem, in[1].integers(), in[2].integers(), message);
  if (unsound) return refuse(api, op.GetName(&op), message);

  const int64_t dims[] = {problem->n, problem->q, problem->m * problem->d};
  OrtValue* output = nullptr;
  ADAPTER_TRY(api.KernelContext_GetOutput(context, 0, dims, 3, &output));
  return api.GetTensorMutableData(output, &problem->output);
}

}  // namespace adapter
