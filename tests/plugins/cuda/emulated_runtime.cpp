// The part of the CUDA runtime that the host code of the kernels calls, for a device that is pretended; and doors for
// the tests to its settings.
#include <cuda_runtime_api.h>

static int capability = 90;
static int devices = 1;

extern "C" {

cudaError_t CUDARTAPI cudaGetLastError(void) {
  const cudaError_t error = shim::pending_error;
  shim::pending_error = cudaSuccess;
  return error;
}
const char* CUDARTAPI cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "some error";
}
const char* CUDARTAPI cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration" : "cudaErrorSome";
}
cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
  *count = devices > 0 ? devices : 0;
  return devices < 0 ? cudaErrorInsufficientDriver : cudaSuccess;
}
cudaError_t CUDARTAPI cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? shim::processors
           : attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10
                                                            : capability % 10;
  return cudaSuccess;
}
cudaError_t CUDARTAPI cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return capability < 80 ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

void shim_set(int order, int processors) {
  shim::order = order;
  shim::processors = processors;
  shim::launched.clear();
}
void shim_device(int count, int compute_capability) {
  devices = count;
  capability = compute_capability;
}
// An error that the next launch makes, or (`by_launch` 0) that is there before it.
void shim_fail_next(int by_launch) {
  (by_launch ? shim::launch_error : shim::pending_error) = cudaErrorInvalidConfiguration;
}
const char* shim_launched(void) {
  static std::string names;
  names.clear();
  for (const std::string& name : shim::launched) names += name + "\n";
  return names.c_str();
}
int shim_last_threads(void) { return static_cast<int>(shim::last_block.x); }

}  // extern "C"
