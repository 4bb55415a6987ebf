// The door of the self-registering library: opening it enters the ops in the TensorRT that the process has loaded.
//
// For programs that open a plugin library and no more (Triton's plugins=, trtexec --staticPlugins, polygraphy
// --plugins, LD_PRELOAD), after TensorRT. It exports nothing: TensorRT's own loader would find the creators, fail to
// register them a second time, unload the library, and be left with dangling ones.
#include <dlfcn.h>

#include <cstdio>

#include "creators.h"
#include "messages.h"
#include "msda_plugin.h"
#include "tables.h"

namespace adapter {
namespace {

#define ADAPTER_TEXT_(number) #number
#define ADAPTER_TEXT(number) ADAPTER_TEXT_(number)
#define ADAPTER_MAJOR ADAPTER_TEXT(NV_TENSORRT_MAJOR)

const char* const kRuntimes[] = {"libnvinfer.so." ADAPTER_MAJOR, "libnvinfer_lean.so." ADAPTER_MAJOR,
                                 "libtensorrt_rtx.so.1"};

template <class Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

bool register_with(const char* runtime) {
  // Never closed again: its registry holds our creators from now on.
  void* const library = dlopen(runtime, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return false;
  const auto version = symbol<int32_t (*)()>(library, "getInferLibVersion");
  const auto registry = symbol<nvinfer1::IPluginRegistry* (*)()>(library, "getPluginRegistry");
  if (!version || !has_our_tables(version()) || !registry || !registry()) return false;
  use_logger_function(symbol<nvinfer1::ILogger* (*)()>(library, "getLogger"));
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* ours = creators(count);
  for (int32_t i = 0; i < count; ++i) {
    const char* name = static_cast<nvinfer1::IPluginCreatorV3One*>(ours[i])->getPluginName();
    // The plain library may be there already; then its creators serve.
    if (registry()->getCreator(name, kVersion, kNamespace)) continue;
    if (!registry()->registerCreator(*ours[i], kNamespace))
      say(nvinfer1::ILogger::Severity::kERROR, name, nullptr, "TensorRT refused to register the op");
  }
  return true;
}

__attribute__((constructor)) void register_ops() {
  bool registered = false;
  for (const char* runtime : kRuntimes) registered |= register_with(runtime);
  if (!registered)
    std::fprintf(stderr, "adapter_infer: this process has not loaded TensorRT " ADAPTER_MAJOR
                         " yet, so its plugin was not registered; load libnvinfer.so." ADAPTER_MAJOR " before it\n");
}

}  // namespace
}  // namespace adapter
