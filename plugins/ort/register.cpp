// The doors of the library: what ONNX Runtime calls to learn of the ops, and what Python asks about the processor.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "../msda/msda.h"
#include "msda_op.h"
#include "shape_inference.h"
#include "status.h"

#define ADAPTER_EXPORT extern "C" __attribute__((visibility("default")))

namespace adapter {
namespace {

// The execution providers of this library. They share one library because ONNX Runtime takes a domain once only: a
// session on the GPU, some of whose nodes it may leave to the CPU, needs both from here.
#ifdef MSDA_WITH_CUDA
const Provider* const kProviders[] = {&kCpu, &kCuda};
#else
const Provider* const kProviders[] = {&kCpu};
#endif

constexpr struct {
  bool fused;
  OrtElementType value, samples;
} kVariants[] = {
    {true, kOrtFloat, kOrtFloat},       {true, kOrtFloat16, kOrtFloat16}, {true, kOrtFloat16, kOrtFloat},
    {true, kOrtBFloat16, kOrtBFloat16}, {true, kOrtBFloat16, kOrtFloat},  {false, kOrtFloat, kOrtFloat},
    {false, kOrtFloat16, kOrtFloat16},  {false, kOrtFloat16, kOrtFloat},  {false, kOrtBFloat16, kOrtBFloat16},
    {false, kOrtBFloat16, kOrtFloat},
};

// Built once and never moved: ONNX Runtime keeps pointers to the ops.
const std::vector<MsdaOp>& ops() {
  static const std::vector<MsdaOp> all = [] {
    std::vector<MsdaOp> made;
    for (const Provider* provider : kProviders)
      for (const auto& variant : kVariants) made.emplace_back(*provider, variant.fused, variant.value, variant.samples);
    return made;
  }();
  return all;
}

OrtStatus* make_domain(const OrtApi& api, OrtCustomOpDomain** domain) {
  ADAPTER_TRY(api.CreateCustomOpDomain("adapter_infer", domain));
  for (const MsdaOp& op : ops()) {
    if (OrtStatus* failed = api.CustomOpDomain_Add(*domain, &op)) {
      api.ReleaseCustomOpDomain(*domain);
      *domain = nullptr;
      return failed;
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace adapter

ADAPTER_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (!api) {
    char text[160];
    std::snprintf(text, sizeof text, "adapter_infer: ONNX Runtime %s is older than 1.17, which its ops need; update it",
                  base->GetVersionString());
    const OrtApi* oldest = base->GetApi(1);  // every release has this one, and CreateStatus in the same place
    if (oldest) return oldest->CreateStatus(kOrtFail, text);
    std::fprintf(stderr, "%s\n", text);
    std::abort();  // to go on would be to report success
  }
  // Sessions keep a pointer to the domain and may outlive the options, so it lives as long as the library.
  static OrtCustomOpDomain* domain = nullptr;
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> guard(one_at_a_time);
  adapter::ort_api = api;
  if (!domain) {
    ADAPTER_TRY(adapter::make_domain(*api, &domain));
  }
  return api->AddCustomOpDomain(options, domain);
}

// Name of the code path that this processor gets, as the environment has it; or why there is none, after "!".
ADAPTER_EXPORT const char* adapter_msda_isa() {
  static thread_local char text[MSDA_MESSAGE_SIZE + 1];
  const msda_cpu* cpu = msda_cpu_select(std::getenv("ADAPTER_MSDA_ISA"), text + 1);
  text[0] = '!';
  return cpu ? cpu->name : text;
}
