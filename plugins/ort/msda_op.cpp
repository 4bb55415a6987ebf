// From ONNX Runtime's tensors to the kernel's problem and back; ranges of queries go to ONNX Runtime's threads.
#include "msda_op.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "../msda/msda.h"
#include "shape_inference.h"
#include "status.h"

namespace adapter {
namespace {

constexpr size_t kMaxRank = 6;
constexpr int64_t kQueriesPerTask = 32;

struct Kernel {
  const OrtApi& api;
  const MsdaOp& op;
  const msda_cpu& cpu;
};

OrtStatus* refuse(const OrtApi& api, const char* op, const char* message) {
  char text[MSDA_MESSAGE_SIZE + 64];
  std::snprintf(text, sizeof text, "%s: %s", op, message);
  return api.CreateStatus(kOrtInvalidArgument, text);
}

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

struct Job {
  const msda_problem& problem;
  msda_cpu_kernel run;

  static void task(void* data, size_t index) {
    const Job& job = *static_cast<const Job*>(data);
    const int64_t first = static_cast<int64_t>(index) * kQueriesPerTask;
    job.run(&job.problem, first, std::min(first + kQueriesPerTask, job.problem.n * job.problem.q));
  }
};

OrtStatus* compute(const Kernel& kernel, OrtKernelContext* context) {
  const OrtApi& api = kernel.api;
  const char* name = kernel.op.GetName(&kernel.op);
  Input in[5];
  const size_t count = kernel.op.GetInputTypeCount(&kernel.op);
  for (size_t i = 0; i < count; ++i) ADAPTER_TRY(in[i].read(api, context, i));

  msda_problem problem;
  char message[MSDA_MESSAGE_SIZE];
  const int unsound = kernel.op.fused ? msda_describe_fused(&in[0].tensor, &in[1].tensor, &in[2].tensor, &in[3].tensor,
                                                            &problem, message) ||
                                            msda_set_levels(&problem, in[1].integers(), nullptr, message)
                                      : msda_describe_standard(&in[0].tensor, &in[1].tensor, &in[2].tensor,
                                                               &in[3].tensor, &in[4].tensor, &problem, message) ||
                                            msda_set_levels(&problem, in[1].integers(), in[2].integers(), message);
  if (unsound) return refuse(api, name, message);

  const int64_t dims[] = {problem.n, problem.q, problem.m * problem.d};
  OrtValue* output = nullptr;
  ADAPTER_TRY(api.KernelContext_GetOutput(context, 0, dims, 3, &output));
  ADAPTER_TRY(api.GetTensorMutableData(output, &problem.output));
  const int64_t tasks = (problem.n * problem.q + kQueriesPerTask - 1) / kQueriesPerTask;
  if (tasks == 0) return nullptr;
  Job job{problem, kernel.cpu.run};
  return api.KernelContext_ParallelFor(context, Job::task, static_cast<size_t>(tasks), 0, &job);
}

OrtStatus* create(const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo*, void** kernel) {
  const MsdaOp& op = *static_cast<const MsdaOp*>(self);
  char message[MSDA_MESSAGE_SIZE];
  const msda_cpu* cpu = msda_cpu_select(std::getenv("ADAPTER_MSDA_ISA"), message);
  if (!cpu) return refuse(*api, "ADAPTER_MSDA_ISA", message);
  *kernel = new (std::nothrow) Kernel{*api, op, *cpu};
  return *kernel ? nullptr : api->CreateStatus(kOrtFail, "out of memory");
}

OrtElementType input_type(const OrtCustomOp* self, size_t index) {
  const MsdaOp& op = *static_cast<const MsdaOp*>(self);
  const OrtElementType fused[] = {op.value, kOrtInt64, kOrtFloat, op.samples};
  const OrtElementType standard[] = {op.value, kOrtInt64, kOrtInt64, op.samples, op.value};
  return op.fused ? fused[index] : standard[index];
}

const char* name(const OrtCustomOp* self) {
  return static_cast<const MsdaOp*>(self)->fused ? "MSDeformAttn" : "MultiScaleDeformableAttention";
}

}  // namespace

MsdaOp::MsdaOp(bool is_fused, OrtElementType value_type, OrtElementType samples_type)
    : OrtCustomOp{}, fused(is_fused), value(value_type), samples(samples_type) {
  version = kOrtApiVersion;
  GetName = name;
  GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  GetInputType = input_type;
  GetInputTypeCount = [](const OrtCustomOp* self) -> size_t { return static_cast<const MsdaOp*>(self)->fused ? 4 : 5; };
  GetOutputType = [](const OrtCustomOp* self, size_t) { return static_cast<const MsdaOp*>(self)->value; };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kOrtMemoryDefault; };
  CreateKernelV2 = create;
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return compute(*static_cast<const Kernel*>(kernel), context);
  };
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  InferOutputShape = infer_output_shape;
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

}  // namespace adapter
