// The ops on NVIDIA GPUs: one launch on the stream of the session, with the sizes of the levels read on the host.
#include <new>

#include "../msda/msda_cuda.h"
#include "call.h"
#include "status.h"

namespace adapter {
namespace {

struct Kernel {
  const OrtApi& api;
  const MsdaOp& op;
};

// A device that cannot run the kernels is found while the session is made, where one can still choose otherwise.
OrtStatus* create(const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo*, void** kernel) {
  const MsdaOp& op = *static_cast<const MsdaOp*>(self);
  char message[MSDA_MESSAGE_SIZE];
  if (msda_cuda_usable(message)) return refuse(*api, op.GetName(self), message, kOrtFail);
  *kernel = new (std::nothrow) Kernel{*api, op};
  return *kernel ? nullptr : api->CreateStatus(kOrtFail, "out of memory");
}

OrtStatus* compute(void* self, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  msda_problem problem;
  ADAPTER_TRY(prepare(kernel.api, kernel.op, context, &problem));
  if (problem.n * problem.q == 0) return nullptr;
  void* stream = nullptr;
  ADAPTER_TRY(kernel.api.KernelContext_GetGPUComputeStream(context, &stream));
  char message[MSDA_MESSAGE_SIZE];
  if (msda_cuda_run(&problem, nullptr, stream, message))
    return refuse(kernel.api, kernel.op.GetName(&kernel.op), message, kOrtFail);
  return nullptr;
}

}  // namespace

const Provider kCuda{"CUDAExecutionProvider", kOrtMemoryCpuInput, create, compute,
                     [](void* kernel) { delete static_cast<Kernel*>(kernel); }};

}  // namespace adapter
