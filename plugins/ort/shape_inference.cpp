// Output shape (N, Q, M*D) from the shapes of `value` and of the samples or sampling locations.
#include "shape_inference.h"

#include "msda_op.h"
#include "status.h"

namespace adapter {

const OrtApi* ort_api = nullptr;

namespace {

constexpr size_t kMaxRank = 6;

// One size of a tensor: a number, or below 1 with a name, or neither.
struct Size {
  int64_t number = -1;
  const char* name = "";
  bool known() const { return number >= 0; }
  bool usable() const { return known() || *name; }
};

// The first `count` sizes of input `index`; unusable ones where its rank is not `rank`.
OrtStatus* sizes(const OrtShapeInferContext* context, size_t index, size_t rank, size_t count, Size* out) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's own, with the names in it
  ADAPTER_TRY(ort_api->ShapeInferContext_GetInputTypeShape(context, index, &info));
  size_t found = 0;
  ADAPTER_TRY(ort_api->GetDimensionsCount(info, &found));
  if (found != rank) return nullptr;
  int64_t numbers[kMaxRank];
  const char* names[kMaxRank] = {};
  ADAPTER_TRY(ort_api->GetDimensions(info, numbers, rank));
  ADAPTER_TRY(ort_api->GetSymbolicDimensions(info, names, rank));
  for (size_t i = 0; i < count; ++i) {
    const bool named = names[i] && *names[i];
    out[i] = {named ? -1 : numbers[i], named ? names[i] : ""};
  }
  return nullptr;
}

}  // namespace

OrtStatus* infer_output_shape(const OrtCustomOp* self, OrtShapeInferContext* context) {
  const MsdaOp& op = *static_cast<const MsdaOp*>(self);
  Size value[4], rows[2];
  ADAPTER_TRY(sizes(context, 0, 4, 4, value));
  ADAPTER_TRY(sizes(context, 3, op.fused ? 4 : 6, 2, rows));
  const Size& batch = value[0].known() ? value[0] : rows[0].known() ? rows[0] : value[0].usable() ? value[0] : rows[0];
  const Size& queries = rows[1];
  const Size &heads = value[2], &channels = value[3];
  // A size without number and name cannot be said, and no shape at all is better than a wrong one.
  if (!batch.usable() || !queries.usable() || !heads.known() || !channels.known()) return nullptr;
  int64_t width;
  if (__builtin_mul_overflow(heads.number, channels.number, &width)) return nullptr;

  const int64_t numbers[] = {batch.number, queries.number, width};
  const char* names[] = {batch.name, queries.name, ""};
  TypeAndShape output(*ort_api);
  ADAPTER_TRY(ort_api->CreateTensorTypeAndShapeInfo(output.out()));
  // The type of value, not op.value: ONNX Runtime asks one op for all of its name.
  OrtTensorTypeAndShapeInfo* value_info = nullptr;
  OrtElementType type;
  ADAPTER_TRY(ort_api->ShapeInferContext_GetInputTypeShape(context, 0, &value_info));
  ADAPTER_TRY(ort_api->GetTensorElementType(value_info, &type));
  ADAPTER_TRY(ort_api->SetTensorElementType(output.get(), type));
  ADAPTER_TRY(ort_api->SetDimensions(output.get(), numbers, 3));
  ADAPTER_TRY(ort_api->SetSymbolicDimensions(output.get(), names, 3));
  return ort_api->ShapeInferContext_SetOutputTypeShape(context, 0, output.get());
}

}  // namespace adapter
