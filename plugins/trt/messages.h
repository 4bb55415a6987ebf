// What the plugin says: sentences for TensorRT's logger that name the op and the node.
#pragma once

#include <NvInferRuntime.h>

#include <mutex>
#include <set>
#include <string>

namespace adapter {

// Where to look for the logger: TensorRT hands a finder to a library it loads; a library that registers itself finds
// the function of the TensorRT it registered with. stderr is used where there is neither, or where the finder comes
// from a TensorRT of another major than the headers', whose methods lie elsewhere.
void use_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;
void use_logger_function(nvinfer1::ILogger* (*function)()) noexcept;

// "MSDeformAttn 'node 3': <sentence>", once: for a sentence that no node says.
void say(nvinfer1::ILogger::Severity severity, const char* op, const char* node, const char* sentence) noexcept;

// The voice of one node, shared by all clones of its plugin.
class Messages {
 public:
  Messages(const char* op, const char* node) : op_(op), node_(node ? node : "") {}

  // Every time it happens: a call that failed.
  void error(const char* sentence) const noexcept;
  // Once for each sentence: TensorRT asks for the same combination of types again and again.
  void once(nvinfer1::ILogger::Severity severity, const char* sentence) noexcept;

 private:
  const char* op_;
  std::string node_;
  std::mutex one_at_a_time_;
  std::set<std::string> said_;
};

}  // namespace adapter
