// A TensorRT plan with one image input and one output, ready to run. Everything it owns is freed in reverse order.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace segment {

// Prints TensorRT's warnings and errors on standard error.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override;
};

struct StreamDeleter {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct EventDeleter {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
struct DeviceDeleter {
  void operator()(void* memory) const { cudaFree(memory); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;
using DeviceMemory = std::unique_ptr<void, DeviceDeleter>;

struct Result {
  std::vector<int64_t> shape;  // (1, classes, height, width) of logits, (1, height, width) of labels
  nvinfer1::DataType type{};   // kFLOAT, kINT32 or kINT64
  std::vector<unsigned char> bytes;
};

class Model {
 public:
  // Loads the plugin library (if one is named) and the plan. Throws Missing without a CUDA device, which is looked for
  // first: TensorRT's runtime does not survive the lack of one. Throws Failure on what else is wrong.
  Model(const std::string& plan, const std::string& plugin, bool trusted);

  // (height, width) of the input for a picture of that size: the plan's own where it is fixed. Throws Failure where the
  // plan's first profile does not hold it.
  void set_size(int64_t& height, int64_t& width);

  // Runs the input (1, 3, height, width) set by set_size. Throws Failure.
  Result run(const std::vector<float>& input);

  // Milliseconds on the GPU of one run without copies, the median of `runs`. Throws Failure.
  float time(int runs);

 private:
  void enqueue();

  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  Stream stream_;
  DeviceMemory input_, output_;
  std::string input_name_, output_name_;
};

}  // namespace segment
