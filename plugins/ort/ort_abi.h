// The part of ONNX Runtime's C interface that this library uses, declared from its documented binary layout.
//
// No package registry carries ONNX Runtime's headers, and the interface is a table of function pointers that only ever
// grows at its end. Every entry used here has been there since release 1.17 (interface version 17); the static
// assertions pin the places, and tests/plugins loads the library into the installed ONNX Runtime.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtValue;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;
struct OrtCustomOp;

enum : uint32_t { kOrtApiVersion = 17 };
enum OrtErrorCode : int { kOrtFail = 1, kOrtInvalidArgument = 2 };
enum OrtElementType : int { kOrtFloat = 1, kOrtInt64 = 7, kOrtFloat16 = 10, kOrtBFloat16 = 16 };
enum OrtCharacteristic : int { kOrtRequired = 0 };
enum OrtMemoryType : int { kOrtMemoryCpuInput = -2, kOrtMemoryDefault = 0 };

struct OrtApi {
  template <int N>
  using Unused = void* [N];
  using Info = OrtTensorTypeAndShapeInfo;

  OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);
  Unused<25> unused_1;
  OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  Unused<22> unused_29;
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  Unused<5> unused_52;
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(Info** out);
  OrtStatus* (*SetTensorElementType)(Info* info, OrtElementType type);
  OrtStatus* (*SetDimensions)(Info* info, const int64_t* dims, size_t count);
  OrtStatus* (*GetTensorElementType)(const Info* info, OrtElementType* out);
  OrtStatus* (*GetDimensionsCount)(const Info* info, size_t* out);
  OrtStatus* (*GetDimensions)(const Info* info, int64_t* dims, size_t count);
  OrtStatus* (*GetSymbolicDimensions)(const Info* info, const char** names, size_t count);
  Unused<1> unused_64;
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, Info** out);
  Unused<24> unused_66;
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* dims, size_t count,
                                        OrtValue** out);
  Unused<1> unused_92;
  void (*ReleaseStatus)(OrtStatus* status);
  Unused<5> unused_94;
  void (*ReleaseTensorTypeAndShapeInfo)(Info* info);
  Unused<1> unused_100;
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  Unused<91> unused_102;
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context, void** out);
  Unused<74> unused_194;
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext* context, size_t index, Info** out);
  Unused<1> unused_269;
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                     const Info* info);
  OrtStatus* (*SetSymbolicDimensions)(Info* info, const char** names, size_t count);
  Unused<2> unused_272;
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*body)(void*, size_t), size_t total,
                                          size_t batches, void* data);
};

#define ORT_SLOT(name, index) static_assert(offsetof(OrtApi, name) == (index) * sizeof(void*), #name " has moved")
ORT_SLOT(CreateStatus, 0);
ORT_SLOT(CreateCustomOpDomain, 26);
ORT_SLOT(AddCustomOpDomain, 28);
ORT_SLOT(GetTensorMutableData, 51);
ORT_SLOT(CreateTensorTypeAndShapeInfo, 57);
ORT_SLOT(GetSymbolicDimensions, 63);
ORT_SLOT(GetTensorTypeAndShape, 65);
ORT_SLOT(KernelContext_GetInput, 90);
ORT_SLOT(ReleaseStatus, 93);
ORT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
ORT_SLOT(ReleaseCustomOpDomain, 101);
ORT_SLOT(KernelContext_GetGPUComputeStream, 193);
ORT_SLOT(ShapeInferContext_GetInputTypeShape, 268);
ORT_SLOT(ShapeInferContext_SetOutputTypeShape, 270);
ORT_SLOT(KernelContext_ParallelFor, 274);
#undef ORT_SLOT

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// What ONNX Runtime asks about one custom op. It looks at the entries that `version` says are there.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  OrtElementType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  OrtElementType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  OrtCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtMemoryType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShape)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
