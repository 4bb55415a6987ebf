// Makes plugins: for a network being built without any field, for a plan being loaded from the version it carries.
#include "creators.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "msda_plugin.h"

namespace adapter {
namespace {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const Op& op) : op_(op) {}

  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &no_fields_; }

  nvinfer1::IPluginV3* createPlugin(const char* node, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    const auto refuse = [&](const char* sentence) {
      say(nvinfer1::ILogger::Severity::kERROR, op_.name, node, sentence);
      return nullptr;
    };
    if (phase == nvinfer1::TensorRTPhase::kRUNTIME) {
      const int32_t version = plan_version(fields);
      if (version < 1 || version > kPlanVersion) {
        char sentence[160];
        std::snprintf(sentence, sizeof sentence,
                      "the plan carries version %d of this plugin's data, and this library reads 1 to %d; build the "
                      "plan again, or use the library it was built with",
                      version, kPlanVersion);
        return refuse(sentence);
      }
    }
    try {
      return new MsdaPlugin(op_, std::make_shared<Messages>(op_.name, node));
    } catch (const std::exception&) {
      return refuse("out of memory");
    }
  }

 private:
  // 0 where the field is missing or not what this plugin writes.
  static int32_t plan_version(const nvinfer1::PluginFieldCollection* fields) {
    for (int32_t i = 0; fields && i < fields->nbFields; ++i) {
      const nvinfer1::PluginField& field = fields->fields[i];
      if (field.name && std::strcmp(field.name, kPlanVersionField) == 0 && field.data && field.length == 1 &&
          field.type == nvinfer1::PluginFieldType::kINT32)
        return *static_cast<const int32_t*>(field.data);
    }
    return 0;
  }

  const Op& op_;
  const nvinfer1::PluginFieldCollection no_fields_{};
};

}  // namespace

nvinfer1::IPluginCreatorInterface* const* creators(int32_t& count) noexcept {
  static Creator fused(kFusedOp), standard(kStandardOp);
  static nvinfer1::IPluginCreatorInterface* const both[] = {&fused, &standard};
  count = 2;
  return both;
}

}  // namespace adapter
