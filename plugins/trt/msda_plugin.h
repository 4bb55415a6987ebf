// One node of either op as TensorRT sees it: types, shapes, checks, and the call of the kernel.
#pragma once

#include <NvInferRuntime.h>

#include <memory>

#include "messages.h"
#include "tensors.h"

namespace adapter {

constexpr char kNamespace[] = "adapter_infer";
constexpr char kVersion[] = "1";
// A plan carries this number; a library refuses plans of a later one.
constexpr int32_t kPlanVersion = 1;
constexpr char kPlanVersionField[] = "plan_version";

class MsdaPlugin final : public nvinfer1::IPluginV3,
                         public nvinfer1::IPluginV3OneCore,
                         public nvinfer1::IPluginV3OneBuild,
                         public nvinfer1::IPluginV3OneRuntime {
 public:
  MsdaPlugin(const Op& op, std::shared_ptr<Messages> messages) noexcept : op_(op), messages_(std::move(messages)) {}
  MsdaPlugin(const MsdaPlugin&) = default;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs,
                             int32_t input_count) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*, int32_t,
                          nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& build) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 int32_t input_count, int32_t output_count) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept override;
  const char* getTimingCacheID() noexcept override { return kVersion; }
  const char* getMetadataString() noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                        const nvinfer1::PluginTensorDesc* outputs, int32_t output_count) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* inputs, const nvinfer1::PluginTensorDesc* outputs,
                  const void* const* input_data, void* const* output_data, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  int32_t fail(const char* message) const noexcept;

  const Op& op_;
  std::shared_ptr<Messages> messages_;
};

}  // namespace adapter
