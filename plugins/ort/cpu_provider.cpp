// The ops on the CPU: ranges of queries go to ONNX Runtime's threads.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "call.h"
#include "status.h"

namespace adapter {
namespace {

constexpr int64_t kQueriesPerTask = 32;

struct Kernel {
  const OrtApi& api;
  const MsdaOp& op;
  const msda_cpu& cpu;
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

OrtStatus* create(const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo*, void** kernel) {
  char message[MSDA_MESSAGE_SIZE];
  const msda_cpu* cpu = msda_cpu_select(std::getenv("ADAPTER_MSDA_ISA"), message);
  if (!cpu) return refuse(*api, "ADAPTER_MSDA_ISA", message);
  *kernel = new (std::nothrow) Kernel{*api, *static_cast<const MsdaOp*>(self), *cpu};
  return *kernel ? nullptr : api->CreateStatus(kOrtFail, "out of memory");
}

OrtStatus* compute(void* self, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  msda_problem problem;
  ADAPTER_TRY(prepare(kernel.api, kernel.op, context, &problem));
  const int64_t tasks = (problem.n * problem.q + kQueriesPerTask - 1) / kQueriesPerTask;
  if (tasks == 0) return nullptr;
  Job job{problem, kernel.cpu.run};
  return kernel.api.KernelContext_ParallelFor(context, Job::task, static_cast<size_t>(tasks), 0, &job);
}

}  // namespace

const Provider kCpu{"CPUExecutionProvider", kOrtMemoryDefault, create, compute,
                    [](void* kernel) { delete static_cast<Kernel*>(kernel); }};

}  // namespace adapter
