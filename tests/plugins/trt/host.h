// What TensorRT is to a plugin, in small: a logger with its finder, tensor descriptions, and the creators of the
// library.
#pragma once

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace host {

using namespace nvinfer1;

struct Log final : ILogger {
  std::vector<std::string> lines;  // "W adapter_infer ..."
  void (*on_message)() = [] {};
  void log(Severity severity, const char* text) noexcept override {
    on_message();
    lines.push_back(std::string(1, "IEWIV"[static_cast<int>(severity)]) + " " + text);
  }
  std::string take() {
    std::string all;
    for (const std::string& line : lines) all += (all.empty() ? "" : " | ") + line;
    lines.clear();
    return all;
  }
};

struct Finder final : ILoggerFinder {
  Log log;
  ILogger* findLogger() override { return &log; }
};

inline IPluginCreatorV3One& creator(const std::string& op) {
  int32_t count = 0;
  IPluginCreatorInterface* const* all = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* one = static_cast<IPluginCreatorV3One*>(all[i]);
    if (op == one->getPluginName()) return *one;
  }
  std::fprintf(stderr, "no creator of %s among %d\n", op.c_str(), count);
  std::exit(2);
}

// A plugin with its three faces. TensorRT deletes plugins; so does this.
struct Node {
  std::unique_ptr<IPluginV3> plugin;
  IPluginV3OneCore* core;
  IPluginV3OneBuild* build;
  IPluginV3OneRuntime* runtime;

  explicit Node(IPluginV3* made) : plugin(made) {
    if (!made) {
      std::fprintf(stderr, "no plugin was made\n");
      std::exit(2);
    }
    core = static_cast<IPluginV3OneCore*>(made->getCapabilityInterface(PluginCapabilityType::kCORE));
    build = static_cast<IPluginV3OneBuild*>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
    runtime = static_cast<IPluginV3OneRuntime*>(made->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  }
  explicit Node(const std::string& op, const char* name = "a node")
      : Node(creator(op).createPlugin(name, nullptr, TensorRTPhase::kBUILD)) {}
};

inline PluginTensorDesc desc(DataType type, const std::vector<int64_t>& dims) {
  PluginTensorDesc out{};
  out.type = type;
  out.format = TensorFormat::kLINEAR;
  out.scale = -1.0F;
  out.dims.nbDims = static_cast<int32_t>(dims.size());
  for (size_t i = 0; i < dims.size() && i < 8; ++i) out.dims.d[i] = dims[i];
  return out;
}

inline DynamicPluginTensorDesc dynamic(const PluginTensorDesc& desc) { return {desc, desc.dims, desc.dims, desc.dims}; }

}  // namespace host
