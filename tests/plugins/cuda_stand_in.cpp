// The CUDA library's C interface on the CPU, so that its callers are tested where there is no GPU: "device memory" is
// ordinary memory, the kernel is the CPU's, and what a caller handed over can be asked for afterwards.
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "../../plugins/msda/cpu_kernel.h"
#include "../../plugins/msda/msda_cuda.h"

extern "C" {
void* stand_in_stream = nullptr;  // of the last call
int stand_in_calls = 0;
int stand_in_misaligned = 0;         // 1: the last call gave an address that 16-byte loads cannot start at
int stand_in_device_levels = 0;      // 1: the last call gave device levels
int stand_in_level_type = -1;        // their type
const char* stand_in_error = "";     // what msda_cuda_run answers, where it is not empty
const char* stand_in_unusable = "";  // what msda_cuda_usable answers, likewise
}

namespace {

int answer(const char* text, char* message) {
  if (*text) std::snprintf(message, MSDA_MESSAGE_SIZE, "%s", text);
  return *text ? -1 : 0;
}

std::vector<int64_t> integers(const void* data, msda_type type, int64_t count) {
  std::vector<int64_t> found(count);
  for (int64_t i = 0; i < count; ++i)
    found[i] = type == MSDA_INT32 ? static_cast<const int32_t*>(data)[i] : static_cast<const int64_t*>(data)[i];
  return found;
}

void fill_with_nan(const msda_problem& p) {
  const int64_t count = p.n * p.q * p.m * p.d;
  const size_t size = p.value_type == MSDA_FLOAT32 ? 4 : 2;
  std::memset(p.output, 0xff, count * size);  // all bits set is a NaN in fp32, fp16 and bf16
}

}  // namespace

int msda_cuda_run(const msda_problem* problem, const msda_device_levels* levels, void* stream, char* message) {
  ++stand_in_calls;
  stand_in_stream = stream;
  stand_in_device_levels = levels != nullptr;
  stand_in_misaligned = 0;
  for (const void* address : {problem->value, problem->positions, static_cast<const void*>(problem->output)})
    if (reinterpret_cast<uintptr_t>(address) % 16) stand_in_misaligned = 1;
  if (answer(stand_in_error, message)) return -1;
  msda_problem p = *problem;
  if (levels) {
    stand_in_level_type = levels->type;
    const auto shapes = integers(levels->spatial_shapes, levels->type, 2 * p.l);
    std::vector<int64_t> starts;
    if (levels->level_start_index) starts = integers(levels->level_start_index, levels->type, p.l);
    char ignored[MSDA_MESSAGE_SIZE];
    if (msda_set_levels(&p, shapes.data(), starts.empty() ? nullptr : starts.data(), ignored)) {
      fill_with_nan(p);
      return 0;
    }
  }
  msda_cpu_portable(&p, 0, p.n * p.q);
  return 0;
}

const char* msda_cuda_architectures() { return "80,90+ptx"; }

int msda_cuda_usable(char* message) { return answer(stand_in_unusable, message); }

const msda_cpu* msda_cpu_select(const char*, char*) {
  static const msda_cpu only{"portable", msda_cpu_portable};
  return &only;
}
