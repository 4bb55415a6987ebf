// Types, layouts and sizes of TensorRT's tensors, checked one a line; a refusal says what it got and what is allowed.
#include "tensors.h"

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <type_traits>

namespace adapter {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

static_assert(std::is_same<decltype(nvinfer1::Dims::d), int64_t[8]>::value, "sizes are handed over as they lie");

const Input kFusedInputs[] = {
    {"value", 4, "(N, S, M, D)", Holds::kValue},
    {"spatial_shapes", 2, "(L, 2)", Holds::kIndex},
    {"reference_points", 4, "(1 or N, Q, 1 or L, 2)", Holds::kFloat32},
    {"samples", 4, "(N, Q, M, 3*L*P)", Holds::kValueOrFloat},
};
const Input kStandardInputs[] = {
    {"value", 4, "(N, S, M, D)", Holds::kValue},
    {"spatial_shapes", 2, "(L, 2)", Holds::kIndex},
    {"level_start_index", 1, "(L)", Holds::kSameIndex},
    {"sampling_locations", 6, "(N, Q, M, L, P, 2)", Holds::kValueOrFloat},
    {"attention_weights", 5, "(N, Q, M, L, P)", Holds::kLikeValue},
};
const Input kOutput = {"output", 3, "(N, Q, M*D)", Holds::kLikeValue};

const Input& at(const Op& op, int32_t position) { return position < op.count ? op.inputs[position] : kOutput; }

__attribute__((format(printf, 2, 3))) bool refuse(char* message, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, MSDA_MESSAGE_SIZE, format, arguments);
  va_end(arguments);
  return false;
}

// In the order of TensorRT's own enumerations, which only grow.
const char* name(DataType type) {
  static const char* const names[] = {"fp32", "fp16", "int8",  "int32", "bool", "uint8",
                                      "fp8",  "bf16", "int64", "int4",  "fp4",  "e8m0"};
  const auto index = static_cast<size_t>(type);
  return index < sizeof names / sizeof *names ? names[index] : "of an unknown type";
}

const char* name(TensorFormat format) {
  static const char* const names[] = {"LINEAR", "CHW2", "HWC8",       "CHW4",     "CHW16", "CHW32", "DHWC8",
                                      "CDHW32", "HWC",  "DLA_LINEAR", "DLA_HWC4", "HWC16", "DHWC"};
  const auto index = static_cast<size_t>(format);
  return index < sizeof names / sizeof *names ? names[index] : "an unknown layout";
}

bool is_value(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16; }

msda_tensor to_msda(const PluginTensorDesc& desc, const void* data) {
  const int32_t rank = desc.dims.nbDims;
  const bool sane = 0 <= rank && rank <= nvinfer1::Dims::MAX_DIMS;
  return {data, desc.dims.d, static_cast<size_t>(sane ? rank : 0), adapter::to_msda(desc.type)};
}

}  // namespace

const Op kFusedOp = {"MSDeformAttn", kFusedInputs, 4, 3, true};
const Op kStandardOp = {"MultiScaleDeformableAttention", kStandardInputs, 5, 3, false};

msda_type to_msda(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return MSDA_FLOAT32;
    case DataType::kHALF:
      return MSDA_FLOAT16;
    case DataType::kBF16:
      return MSDA_BFLOAT16;
    case DataType::kINT64:
      return MSDA_INT64;
    case DataType::kINT32:
      return MSDA_INT32;
    default:
      return MSDA_OTHER;
  }
}

bool count_allowed(const Op& op, int32_t inputs, int32_t outputs, char* message) {
  if (inputs == op.count && outputs == 1) return true;
  return refuse(message, "the node has %d inputs and %d outputs; it must have %d and 1", inputs, outputs, op.count);
}

bool rank_allowed(const Op& op, int32_t position, int32_t rank, char* message) {
  const Input& input = at(op, position);
  if (rank == input.rank) return true;
  return refuse(message, "%s has %d dimensions; it must be %s", input.name, rank, input.letters);
}

bool layout_allowed(const Op& op, int32_t position, TensorFormat format, char* message) {
  if (format == TensorFormat::kLINEAR) return true;
  return refuse(message, "%s is laid out as %s; only LINEAR (dense, row-major) is supported", at(op, position).name,
                name(format));
}

bool type_allowed(const Op& op, int32_t position, const DataType* types, char* message) {
  const Input& input = at(op, position);
  const DataType type = types[position], value = types[0];
  switch (input.holds) {
    case Holds::kValue:
      if (is_value(type)) return true;
      return refuse(message, "%s is %s; it must be fp32, fp16 or bf16: cast it", input.name, name(type));
    case Holds::kIndex:
      if (type == DataType::kINT64 || type == DataType::kINT32) return true;
      return refuse(message, "%s is %s; it must be int32 or int64: cast it", input.name, name(type));
    case Holds::kSameIndex:
      if (type == types[1]) return true;
      return refuse(message, "%s is %s; it must be %s, as spatial_shapes is: cast one of them", input.name, name(type),
                    name(types[1]));
    case Holds::kFloat32:
      if (type == DataType::kFLOAT) return true;
      return refuse(message, "%s is %s; it must be fp32 whatever value is: cast it", input.name, name(type));
    case Holds::kValueOrFloat:
      if (type == value || type == DataType::kFLOAT) return true;
      if (value == DataType::kFLOAT)
        return refuse(message, "%s is %s; it must be fp32, as value is: cast it", input.name, name(type));
      return refuse(message, "%s is %s; it must be %s, as value is, or fp32: cast it", input.name, name(type),
                    name(value));
    case Holds::kLikeValue:
      if (type == value) return true;
      return refuse(message, "%s is %s; it must be %s, as value is: cast it", input.name, name(type), name(value));
  }
  return false;
}

bool describe(const Op& op, const PluginTensorDesc* inputs, const void* const* data, msda_problem* problem,
              char* message) {
  msda_tensor in[5];
  for (int32_t i = 0; i < op.count; ++i) in[i] = to_msda(inputs[i], data ? data[i] : nullptr);
  return 0 == (op.fused ? msda_describe_fused(&in[0], &in[1], &in[2], &in[3], problem, message)
                        : msda_describe_standard(&in[0], &in[1], &in[2], &in[3], &in[4], problem, message));
}

bool output_allowed(const msda_problem& problem, const PluginTensorDesc& output, char* message) {
  const nvinfer1::Dims& dims = output.dims;
  if (dims.nbDims != 3 || dims.d[0] != problem.n || dims.d[1] != problem.q || dims.d[2] != problem.m * problem.d)
    return refuse(message,
                  "output has room for %" PRId64 "x%" PRId64 "x%" PRId64 " in %d dimensions; the inputs make %" PRId64
                  "x%" PRId64 "x%" PRId64,
                  dims.d[0], dims.d[1], dims.d[2], dims.nbDims, problem.n, problem.q, problem.m * problem.d);
  if (adapter::to_msda(output.type) != problem.value_type)
    return refuse(message, "output is %s; it must have the type of value", name(output.type));
  return true;
}

}  // namespace adapter
