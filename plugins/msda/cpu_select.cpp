// Chooses the code path for the processor this runs on.
#include <cstdio>
#include <cstring>

#include "cpu_kernel.h"

namespace {

struct Path {
  msda_cpu cpu;
  bool (*supported)();
  const char* needs;
};

#if defined(__x86_64__)
const Path kPaths[] = {
    {{"avx512", msda_cpu_avx512},
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
     },
     "AVX-512 F, BW, DQ and VL"},
    {{"avx2", msda_cpu_avx2},
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); },
     "AVX2, FMA and F16C"},
    {{"sse2", msda_cpu_portable}, [] { return true; }, "SSE2"},
};
#else
const Path kPaths[] = {{{"portable", msda_cpu_portable}, [] { return true; }, "nothing"}};
#endif

}  // namespace

const msda_cpu* msda_cpu_select(const char* wanted, char message[MSDA_MESSAGE_SIZE]) {
  const bool any = !wanted || !*wanted;
  char names[64] = "";
  for (const Path& path : kPaths) {
    const bool supported = path.supported();
    if (any && supported) return &path.cpu;
    if (!any && !std::strcmp(wanted, path.cpu.name)) {
      if (supported) return &path.cpu;
      std::snprintf(message, MSDA_MESSAGE_SIZE, "code path '%s' needs %s, which this processor lacks; unset it", wanted,
                    path.needs);
      return nullptr;
    }
    if (*names) std::strcat(names, ", ");
    std::strcat(names, path.cpu.name);
  }
  std::snprintf(message, MSDA_MESSAGE_SIZE, "code path '%.40s' is unknown; choose one of %s, or unset it", wanted,
                names);
  return nullptr;
}
