// A TensorRT plan with one image input and one output, ready to run.
#include "model.h"

#include <algorithm>
#include <fstream>
#include <iostream>

#include "failure.h"

namespace segment {
namespace {

void require_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    const std::string why = status == cudaSuccess ? "none is visible" : cudaGetErrorString(status);
    throw Missing("no CUDA device can be used (" + why + "); run this where an NVIDIA GPU and its driver are");
  }
}

std::vector<char> content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Failure("cannot read the plan " + path + "; is it there?");
  std::vector<char> content(static_cast<size_t>(file.tellg()));
  file.seekg(0);
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) throw Failure("cannot read " + path);
  return content;
}

int64_t volume(const nvinfer1::Dims& dims) {
  int64_t product = 1;
  for (int axis = 0; axis < dims.nbDims; ++axis) product *= dims.d[axis];
  return product;
}

size_t size_of(nvinfer1::DataType type, const std::string& name) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
    case nvinfer1::DataType::kINT32:
      return 4;
    case nvinfer1::DataType::kINT64:
      return 8;
    default:
      throw Failure("the output " + name + " is neither float32 nor integers; build the plan with fp32 outputs");
  }
}

DeviceMemory allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<size_t>(bytes, 1)), "cudaMalloc");
  return DeviceMemory(memory);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return Event(event);
}

}  // namespace

void Logger::log(Severity severity, const char* text) noexcept {
  if (severity <= Severity::kWARNING) std::cerr << "TensorRT: " << text << '\n';
}

Model::Model(const std::string& plan, const std::string& plugin, bool trusted) {
  require_device();
  const std::vector<char> content = content_of(plan);
  runtime_.reset(nvinfer1::createInferRuntime(logger_));
  if (!runtime_) throw Missing("TensorRT's runtime does not start; is its library that of this program's headers?");
  if (!plugin.empty() && runtime_->getPluginRegistry().loadLibrary(plugin.c_str()) == nullptr) {
    throw Missing("TensorRT does not take the plugin library " + plugin +
                  "; name libmsda_trt10.so or libmsda_trt11.so, " +
                  "whichever is for its version (not the _static one)");
  }
  runtime_->setEngineHostCodeAllowed(trusted);
  engine_.reset(runtime_->deserializeCudaEngine(content.data(), content.size()));
  if (!engine_) {
    throw Failure("TensorRT does not load " + plan +
                  ", for the reason above; was it built by this version, for this GPU, " +
                  "and is its plugin named (--plugin) or embedded and trusted (--trust-plan-code)?");
  }
  if (engine_->getNbIOTensors() != 2) throw Failure(plan + " has not one input and one output");
  for (int index = 0; index < 2; ++index) {
    const std::string name = engine_->getIOTensorName(index);
    const bool input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
    (input ? input_name_ : output_name_) = name;
  }
  const nvinfer1::Dims shape = engine_->getTensorShape(input_name_.c_str());
  if (engine_->getTensorDataType(input_name_.c_str()) != nvinfer1::DataType::kFLOAT || shape.nbDims != 4 ||
      shape.d[1] != 3) {
    throw Failure("the input " + input_name_ + " of " + plan + " is not float32 (N, 3, height, width)");
  }
  context_.reset(engine_->createExecutionContext());
  if (!context_) throw Failure("TensorRT makes no execution context for " + plan + "; is there enough GPU memory?");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_.reset(stream);
}

void Model::set_size(int64_t& height, int64_t& width) {
  const char* name = input_name_.c_str();
  nvinfer1::Dims shape = engine_->getTensorShape(name);
  const int64_t wanted[] = {1, 3, height, width};
  for (int axis = 0; axis < 4; ++axis) {
    if (shape.d[axis] >= 0) continue;
    const auto bound = [&](nvinfer1::OptProfileSelector which) {
      return engine_->getProfileShape(name, 0, which).d[axis];
    };
    // A file of raw values does not tell its size: it is taken to have the one the plan is tuned for.
    const int64_t size = wanted[axis] > 0 ? wanted[axis] : bound(nvinfer1::OptProfileSelector::kOPT);
    const int64_t low = bound(nvinfer1::OptProfileSelector::kMIN), high = bound(nvinfer1::OptProfileSelector::kMAX);
    if (size < low || size > high) {
      throw Failure("size " + std::to_string(size) + " along dimension " + std::to_string(axis) + " of " + input_name_ +
                    " is not within " + std::to_string(low) + " to " + std::to_string(high) + " of the plan's profile");
    }
    shape.d[axis] = size;
  }
  if (shape.d[0] != 1) throw Failure("the plan takes batches of " + std::to_string(shape.d[0]) + "; build one for 1");
  if (!context_->setInputShape(name, shape)) throw Failure("TensorRT refuses the shape of " + input_name_);
  height = shape.d[2];
  width = shape.d[3];
  input_ = allocate(sizeof(float) * static_cast<size_t>(volume(shape)));
  const nvinfer1::Dims out = context_->getTensorShape(output_name_.c_str());
  if (std::any_of(out.d, out.d + out.nbDims, [](int64_t size) { return size < 0; })) {
    throw Failure("the size of " + output_name_ + " depends on the data, which this example omits");
  }
  const size_t item = size_of(engine_->getTensorDataType(output_name_.c_str()), output_name_);
  output_ = allocate(item * static_cast<size_t>(volume(out)));
  if (!context_->setTensorAddress(name, input_.get()) ||
      !context_->setTensorAddress(output_name_.c_str(), output_.get())) {
    throw Failure("TensorRT does not take the addresses of the input and the output");
  }
}

Result Model::run(const std::vector<float>& input) {
  const nvinfer1::Dims shape = context_->getTensorShape(output_name_.c_str());
  Result result;
  result.shape.assign(shape.d, shape.d + shape.nbDims);
  result.type = engine_->getTensorDataType(output_name_.c_str());
  result.bytes.resize(size_of(result.type, output_name_) * static_cast<size_t>(volume(shape)));
  cudaStream_t stream = stream_.get();
  check(cudaMemcpyAsync(input_.get(), input.data(), sizeof(float) * input.size(), cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  enqueue();
  check(cudaMemcpyAsync(result.bytes.data(), output_.get(), result.bytes.size(), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "the run");
  return result;
}

float Model::time(int runs) {
  const Event begin = make_event(), end = make_event();
  std::vector<float> times(static_cast<size_t>(runs));
  for (float& milliseconds : times) {
    check(cudaEventRecord(begin.get(), stream_.get()), "cudaEventRecord");
    enqueue();
    check(cudaEventRecord(end.get(), stream_.get()), "cudaEventRecord");
    check(cudaEventSynchronize(end.get()), "the run");
    check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void Model::enqueue() {
  if (!context_->enqueueV3(stream_.get())) throw Failure("TensorRT does not start the run, for the reason above");
}

}  // namespace segment
