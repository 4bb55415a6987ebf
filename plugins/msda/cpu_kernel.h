// The kernels that cpu_kernel.cpp becomes, one for each instruction set.
#pragma once

#include "msda.h"

extern "C" {
void msda_cpu_portable(const msda_problem* problem, int64_t first, int64_t last);  // SSE2 where that is the baseline
void msda_cpu_avx2(const msda_problem* problem, int64_t first, int64_t last);
void msda_cpu_avx512(const msda_problem* problem, int64_t first, int64_t last);
}
