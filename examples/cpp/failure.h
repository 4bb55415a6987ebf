// Errors for the user: one sentence that names the value and the way out.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace segment {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What is missing on this machine; main ends with 5 for it, as the Python commands do.
struct Missing : Failure {
  using Failure::Failure;
};

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw Failure(std::string(call) + " failed: " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")");
  }
}

}  // namespace segment
