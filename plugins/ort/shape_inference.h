// Tells ONNX Runtime's shape inference the shape and type of the output.
#pragma once

#include "ort_abi.h"

namespace adapter {

// `op` is an MsdaOp. The output is (N, Q, M*D); sizes that are only names (dynamic axes) keep their names.
OrtStatus* infer_output_shape(const OrtCustomOp* op, OrtShapeInferContext* context);

// The interface of the ONNX Runtime that loaded this library: shape inference gets no other way to it.
extern const OrtApi* ort_api;

}  // namespace adapter
