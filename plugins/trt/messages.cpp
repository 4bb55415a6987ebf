// Finds TensorRT's logger and speaks through it; on paths that refuse or fail only.
#include "messages.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <exception>

#include "tables.h"

namespace adapter {
namespace {

using Severity = nvinfer1::ILogger::Severity;

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};
std::atomic<nvinfer1::ILogger* (*)()> function{nullptr};

nvinfer1::ILogger* logger() {
  if (nvinfer1::ILoggerFinder* found = finder) {
    if (nvinfer1::ILogger* its = found->findLogger()) return its;
  }
  nvinfer1::ILogger* (*const ask)() = function;
  return ask ? ask() : nullptr;
}

// Whether the TensorRT that made `object` has our tables, so that its methods may be called; where it cannot be told
// (an object of the application's own), yes.
bool callable(const void* object) {
  Dl_info made_in;
  if (!object || !dladdr(*static_cast<void* const*>(object), &made_in)) return true;
  void* const library = dlopen(made_in.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return true;
  const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
  const bool yes = !version || has_our_tables(version());
  dlclose(library);
  return yes;
}

}  // namespace

void use_logger_finder(nvinfer1::ILoggerFinder* found) noexcept { finder = callable(found) ? found : nullptr; }

void use_logger_function(nvinfer1::ILogger* (*found)()) noexcept { function = found; }

void say(Severity severity, const char* op, const char* node, const char* sentence) noexcept {
  char text[1024];
  std::snprintf(text, sizeof text, node && *node ? "adapter_infer %s '%s': %s" : "adapter_infer %s%s: %s", op,
                node ? node : "", sentence);
  try {
    if (nvinfer1::ILogger* its = logger()) return its->log(severity, text);
  } catch (...) {  // findLogger is TensorRT's own and may throw
  }
  if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", text);
}

void Messages::error(const char* sentence) const noexcept { say(Severity::kERROR, op_, node_.c_str(), sentence); }

void Messages::once(Severity severity, const char* sentence) noexcept {
  try {
    const std::lock_guard<std::mutex> guard(one_at_a_time_);
    if (!said_.insert(sentence).second) return;
  } catch (const std::exception&) {  // no memory to remember it: say it again rather than never
  }
  say(severity, op_, node_.c_str(), sentence);
}

}  // namespace adapter
