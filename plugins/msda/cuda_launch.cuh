// Chooses among the instantiations for one type of value. Each type has a source file of its own, so that they compile
// beside each other.
#pragma once

#include "cuda_fast.cuh"
#include "cuda_generic.cuh"
#include "cuda_launch.h"

#ifndef MSDA_ON_CPU
#define MSDA_LAUNCH(kernel, grid, block, shared, stream, ...) (kernel)<<<grid, block, shared, stream>>>(__VA_ARGS__)
#endif

namespace msda {

template <class T, int kD, int kL>
bool launch_layout(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  using Shape = Layout<T, kD, kL>;
  while (Shape::shared_bytes(threads) > 48 << 10) threads /= 2;  // more must be asked for, and leaves less L1
  const int64_t queries = static_cast<int64_t>(Shape::kRows >> a.head_bits) * (threads / 32);  // of a block
  const dim3 grid(static_cast<unsigned>((a.q + queries - 1) / queries), static_cast<unsigned>(a.m >> a.head_bits),
                  entries);
  if (fused)
    MSDA_LAUNCH((fast_kernel<T, T, kD, kL, true>), grid, threads, Shape::shared_bytes(threads), stream, a);
  else
    MSDA_LAUNCH((fast_kernel<T, float, kD, kL, false>), grid, threads, Shape::shared_bytes(threads), stream, a);
  return true;
}

template <class T, int kD>
bool launch_width(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  switch (a.l) {
    case 1:
      return launch_layout<T, kD, 1>(a, fused, threads, entries, stream);
    case 3:
      return launch_layout<T, kD, 3>(a, fused, threads, entries, stream);
    case 4:
      return launch_layout<T, kD, 4>(a, fused, threads, entries, stream);
    default:
      return false;
  }
}

template <class T>
bool launch_fast(const Arguments& a, bool fused, int threads, unsigned entries, cudaStream_t stream) {
  switch (a.d) {
    case 16:
      return launch_width<T, 16>(a, fused, threads, entries, stream);
    case 32:
      return launch_width<T, 32>(a, fused, threads, entries, stream);
    case 64:
      return launch_width<T, 64>(a, fused, threads, entries, stream);
    case 128:
      return launch_width<T, 128>(a, fused, threads, entries, stream);
    default:
      return false;
  }
}

template <class T>
void launch_generic(const Arguments& a, bool vectors, cudaStream_t stream) {
  const int64_t needed = vectors ? (a.d + 3) / 4 : a.d;
  int lanes = 4;
  while (lanes < 32 && lanes < needed) lanes *= 2;
  const int64_t at_once = kGenericThreads / lanes, rows = a.n * a.q * a.m, blocks = (rows + at_once - 1) / at_once;
  const dim3 grid(static_cast<unsigned>(blocks < (1 << 20) ? blocks : 1 << 20));
  constexpr size_t kShared = sizeof(Sizes<int64_t, MSDA_MAX_LEVELS>);
  if (vectors)
    MSDA_LAUNCH((generic_kernel<T, 4>), grid, kGenericThreads, kShared, stream, a, lanes);
  else
    MSDA_LAUNCH((generic_kernel<T, 1>), grid, kGenericThreads, kShared, stream, a, lanes);
}

}  // namespace msda
