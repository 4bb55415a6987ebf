// The methods of the plugin. No state but the voice of the node: every size comes with the call.
#include "msda_plugin.h"

#include <algorithm>
#include <new>

#include "../msda/msda_cuda.h"

namespace adapter {

using nvinfer1::DimensionOperation;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;
using Severity = nvinfer1::ILogger::Severity;

nvinfer1::IPluginCapability* MsdaPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* MsdaPlugin::clone() noexcept { return new (std::nothrow) MsdaPlugin(*this); }

int32_t MsdaPlugin::getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count,
                                       const nvinfer1::DataType* inputs, int32_t input_count) const noexcept {
  char message[MSDA_MESSAGE_SIZE];
  if (!count_allowed(op_, input_count, output_count, message)) return fail(message);
  outputs[0] = inputs[0];
  return 0;
}

int32_t MsdaPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                                    int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                    nvinfer1::IExprBuilder& build) noexcept {
  char message[MSDA_MESSAGE_SIZE];
  if (!count_allowed(op_, input_count, output_count, message)) return fail(message);
  for (int32_t i = 0; i < input_count; ++i)
    if (!rank_allowed(op_, i, inputs[i].nbDims, message)) return fail(message);
  outputs[0].nbDims = 3;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] = inputs[op_.queries_from].d[1];
  outputs[0].d[2] = build.operation(DimensionOperation::kPROD, *inputs[0].d[2], *inputs[0].d[3]);
  return 0;
}

bool MsdaPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                           int32_t input_count, int32_t output_count) noexcept {
  char message[MSDA_MESSAGE_SIZE];
  nvinfer1::DataType types[6];
  if (!count_allowed(op_, input_count, output_count, message)) {
    messages_->once(Severity::kERROR, message);
    return false;
  }
  for (int32_t i = 0; i <= position; ++i) types[i] = tensors[i].desc.type;
  if (!type_allowed(op_, position, types, message)) {
    messages_->once(Severity::kWARNING, message);
    return false;
  }
  // Every build asks for all layouts, LINEAR among them: this refusal is never why one fails.
  if (!layout_allowed(op_, position, tensors[position].desc.format, message)) {
    messages_->once(Severity::kVERBOSE, message);
    return false;
  }
  return true;
}

int32_t MsdaPlugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                    const DynamicPluginTensorDesc*, int32_t output_count) noexcept {
  char message[MSDA_MESSAGE_SIZE];
  if (!count_allowed(op_, input_count, output_count, message)) return fail(message);
  // The optimum is the one set of sizes that belong together: bounds of different inputs need not.
  PluginTensorDesc optimum[5];
  for (int32_t i = 0; i < input_count; ++i) {
    optimum[i] = inputs[i].desc;
    optimum[i].dims = inputs[i].opt;
    if (std::any_of(optimum[i].dims.d, optimum[i].dims.d + std::max(optimum[i].dims.nbDims, 0),
                    [](int64_t size) { return size < 0; }))
      return 0;  // not known before the run: checked then
  }
  msda_problem problem;
  return describe(op_, optimum, nullptr, &problem, message) ? 0 : fail(message);
}

const char* MsdaPlugin::getMetadataString() noexcept { return "adapter_infer, version 1"; }

int32_t MsdaPlugin::onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc* outputs,
                                  int32_t output_count) noexcept {
  char message[MSDA_MESSAGE_SIZE];
  msda_problem problem;
  const bool sound = count_allowed(op_, input_count, output_count, message) &&
                     describe(op_, inputs, nullptr, &problem, message) && output_allowed(problem, outputs[0], message);
  return sound ? 0 : fail(message);
}

int32_t MsdaPlugin::enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc* outputs,
                            const void* const* input_data, void* const* output_data, void*,
                            cudaStream_t stream) noexcept {
  char message[MSDA_MESSAGE_SIZE];
  msda_problem problem;
  if (!describe(op_, inputs, input_data, &problem, message) || !output_allowed(problem, outputs[0], message))
    return fail(message);
  problem.output = output_data[0];
  const msda_device_levels levels = {input_data[1], op_.fused ? nullptr : input_data[2], to_msda(inputs[1].type)};
  return msda_cuda_run(&problem, &levels, stream, message) ? fail(message) : 0;
}

const nvinfer1::PluginFieldCollection* MsdaPlugin::getFieldsToSerialize() noexcept {
  static const nvinfer1::PluginField field{kPlanVersionField, &kPlanVersion, nvinfer1::PluginFieldType::kINT32, 1};
  static const nvinfer1::PluginFieldCollection fields{1, &field};
  return &fields;
}

int32_t MsdaPlugin::fail(const char* message) const noexcept {
  messages_->error(message);
  return -1;
}

}  // namespace adapter
