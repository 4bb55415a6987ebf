// Ownership of what ONNX Runtime hands out, and its status codes as a type that cannot be dropped.
#pragma once

#include "ort_abi.h"

namespace adapter {

// Returns from the enclosing function where an ONNX Runtime call fails.
#define ADAPTER_TRY(call) \
  if (OrtStatus* failed = (call)) return failed

// A type-and-shape record, released at the end of its scope.
class TypeAndShape {
 public:
  explicit TypeAndShape(const OrtApi& api) : api_(api) {}
  ~TypeAndShape() {
    if (info_) api_.ReleaseTensorTypeAndShapeInfo(info_);
  }
  TypeAndShape(const TypeAndShape&) = delete;
  TypeAndShape& operator=(const TypeAndShape&) = delete;

  OrtTensorTypeAndShapeInfo** out() { return &info_; }
  OrtTensorTypeAndShapeInfo* get() const { return info_; }

 private:
  const OrtApi& api_;
  OrtTensorTypeAndShapeInfo* info_ = nullptr;
};

}  // namespace adapter
