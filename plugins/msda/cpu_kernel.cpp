// Multi-scale deformable attention on the CPU. Compiled once for each instruction set, as MSDA_KERNEL.
#include "cpu_kernel.h"

#include "gather.h"

namespace msda {
namespace {

// Computes `width` channels of every row of a block, from a first channel on.
struct Step {
  int width;
  void (*run)(const Entry&, const Block&, const Point*, int64_t first_channel);
};

// The widest step for the channels that are left. Head widths in use have one of their own; others go in several steps.
// None holds more than eight accumulators, which leaves registers for the rest on every x86.
template <class T>
Step step(int64_t left) {
  constexpr int kMost = 8 * kLanes;
  if constexpr (kMost >= 128)
    if (left >= 128) return {128, gather<T, 128>};
  if constexpr (kMost >= 64) {
    if (left >= 64) return {64, gather<T, 64>};
    if (left >= 48) return {48, gather<T, 48>};
    if (left >= 40) return {40, gather<T, 40>};
  }
  if (left >= 32) return {32, gather<T, 32>};
  if (left >= 24) return {24, gather<T, 24>};
  if (left >= 16) return {16, gather<T, 16>};
  if (left >= 12) return {12, gather<T, 12>};
  if (left >= 8) return {8, gather<T, 8>};
  if (left >= 4) return {4, gather<T, 4>};
  return {1, gather<T, 1>};
}

// Queries [first, last) of one batch entry, with values of type T, positions of type S and weights of type W.
template <class T, class S, class W>
void run(const Entry& entry, int64_t first, int64_t last) {
  const msda_problem& p = entry.problem;
  Point points[MSDA_MAX_POINTS];
  for (int64_t row = first * p.m; row < last * p.m; row += kLanes) {
    const Block block(row, last * p.m, p.m);
    place_points<S, W>(entry, block, points);
    for (int64_t c = 0; c < p.d;) {
      const Step next = step<T>(p.d - c);
      next.run(entry, block, points, c);
      c += next.width;
    }
  }
}

// T is the type of value and output; positions may be fp32 instead, and with them the fused op's weights.
template <class T>
void run(const Entry& entry, int64_t first, int64_t last) {
  const msda_problem& p = entry.problem;
  if (p.position_type == p.value_type) return run<T, T, T>(entry, first, last);
  if (p.weight_type == p.value_type) return run<T, float, T>(entry, first, last);
  return run<T, float, float>(entry, first, last);
}

}  // namespace
}  // namespace msda

extern "C" void MSDA_KERNEL(const msda_problem* problem, int64_t first, int64_t last) {
  using namespace msda;
  const int64_t q = problem->q;
  if (first >= last) return;  // also where Q is 0
  for (int64_t n = first / q; n * q < last; ++n) {
    const Entry entry(*problem, n);
    const int64_t from = first > n * q ? first - n * q : 0, to = last < (n + 1) * q ? last - n * q : q;
    switch (problem->value_type) {
      case MSDA_FLOAT16:
        run<Fp16>(entry, from, to);
        break;
      case MSDA_BFLOAT16:
        run<Bf16>(entry, from, to);
        break;
      default:
        run<float>(entry, from, to);
    }
  }
}
