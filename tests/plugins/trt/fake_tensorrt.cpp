// A TensorRT in small, to be found by the name libnvinfer.so.MAJOR: a plugin registry with a logger, and no more. Shows
// what a library entered in it, and that calls reach it through the function tables of the headers it was built with.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

struct Log final : ILogger {
  void log(Severity severity, const char* text) noexcept override {
    std::printf("log %d %s\n", static_cast<int>(severity), text);
  }
} the_log;

struct Registry final : IPluginRegistry {
  std::vector<IPluginCreatorInterface*> creators;
  std::string refuse;

  bool registerCreator(IPluginCreatorInterface& creator, const char* where) noexcept override {
    const auto& one = static_cast<IPluginCreatorV3One&>(creator);
    std::printf("register %s %s %s in %s\n", one.getPluginName(), one.getPluginVersion(), one.getPluginNamespace(),
                where);
    if (refuse == one.getPluginName()) return false;
    creators.push_back(&creator);
    return true;
  }
  IPluginCreatorInterface* getCreator(const char* name, const char* version, const char* where) noexcept override {
    for (IPluginCreatorInterface* creator : creators) {
      const auto& one = static_cast<IPluginCreatorV3One&>(*creator);
      if (!std::strcmp(one.getPluginName(), name) && !std::strcmp(one.getPluginVersion(), version) &&
          !std::strcmp(one.getPluginNamespace(), where))
        return creator;
    }
    return nullptr;
  }

#if NV_TENSORRT_MAJOR == 10
  bool registerCreator(IPluginCreator&, const char*) noexcept override { return wrong("old registerCreator"); }
  IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
  IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
  bool deregisterCreator(const IPluginCreator&) noexcept override { return wrong("old deregisterCreator"); }
#endif
  void setErrorRecorder(IErrorRecorder*) noexcept override { wrong("setErrorRecorder"); }
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return wrong("isParentSearchEnabled"); }
  void setParentSearchEnabled(bool) override { wrong("setParentSearchEnabled"); }
  PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
  void deregisterLibrary(PluginLibraryHandle) noexcept override { wrong("deregisterLibrary"); }
  IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override { return nullptr; }
  bool deregisterCreator(const IPluginCreatorInterface&) noexcept override { return wrong("deregisterCreator"); }
  IPluginResource* acquirePluginResource(const char*, IPluginResource*) noexcept override { return nullptr; }
  int32_t releasePluginResource(const char*) noexcept override { return wrong("releasePluginResource"); }
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept override { return nullptr; }

 private:
  static bool wrong(const char* method) {
    std::printf("wrong method called: %s\n", method);
    return false;
  }
} the_registry;

}  // namespace

#define ADAPTER_EXPORT extern "C" __attribute__((visibility("default")))

ADAPTER_EXPORT int32_t getInferLibVersion() noexcept { return NV_TENSORRT_MAJOR * 10000; }
ADAPTER_EXPORT IPluginRegistry* getPluginRegistry() noexcept { return &the_registry; }
ADAPTER_EXPORT ILogger* getLogger() noexcept { return &the_log; }
ADAPTER_EXPORT void refuse(const char* name) { the_registry.refuse = name; }
// Makes a plugin of each creator and has it refuse a type.
ADAPTER_EXPORT void use_them() {
  for (IPluginCreatorInterface* creator : the_registry.creators) {
    IPluginV3* plugin =
        static_cast<IPluginCreatorV3One*>(creator)->createPlugin("used", nullptr, TensorRTPhase::kBUILD);
    auto* build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    DynamicPluginTensorDesc tensors[6] = {};
    tensors[0].desc.type = DataType::kINT8;
    for (int32_t inputs : {4, 5}) build->supportsFormatCombination(0, tensors, inputs, 1);
    delete plugin;
  }
  std::fflush(stdout);
}
