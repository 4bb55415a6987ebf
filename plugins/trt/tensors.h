// The inputs of both ops as plain tables, what types and layouts each may have, and the way to the kernel's contract.
#pragma once

#include <NvInferRuntime.h>

#include "../msda/msda.h"

namespace adapter {

// What an input may hold; what comes first decides what comes later.
enum class Holds {
  kValue,         // fp32, fp16 or bf16
  kIndex,         // int32 or int64
  kSameIndex,     // the integer type of spatial_shapes
  kFloat32,       // fp32 whatever value is
  kValueOrFloat,  // the type of value, or fp32
  kLikeValue,     // the type of value; so is the output
};

struct Input {
  const char* name;
  int32_t rank;
  const char* letters;
  Holds holds;
};

struct Op {
  const char* name;
  const Input* inputs;
  int32_t count;
  int32_t queries_from;  // the input whose second dimension is Q
  bool fused;
};

extern const Op kFusedOp, kStandardOp;

// Whether the type of `inputs[position]` (the output after the last input) fits those before it. If not, one sentence.
bool type_allowed(const Op& op, int32_t position, const nvinfer1::DataType* types, char message[MSDA_MESSAGE_SIZE]);
bool layout_allowed(const Op& op, int32_t position, nvinfer1::TensorFormat format, char message[MSDA_MESSAGE_SIZE]);
bool count_allowed(const Op& op, int32_t inputs, int32_t outputs, char message[MSDA_MESSAGE_SIZE]);
bool rank_allowed(const Op& op, int32_t position, int32_t rank, char message[MSDA_MESSAGE_SIZE]);

// Fills `problem` but for its output pointer and levels. `data` holds the inputs' addresses, or is null while only
// sizes are checked. Every size must be known. False with one sentence in `message` where the inputs do not fit
// together. Allocates nothing and writes no text where they do.
bool describe(const Op& op, const nvinfer1::PluginTensorDesc* inputs, const void* const* data, msda_problem* problem,
              char message[MSDA_MESSAGE_SIZE]);
// Whether `output` is (N, Q, M*D) of the type of value.
bool output_allowed(const msda_problem& problem, const nvinfer1::PluginTensorDesc& output,
                    char message[MSDA_MESSAGE_SIZE]);

msda_type to_msda(nvinfer1::DataType type);

}  // namespace adapter
