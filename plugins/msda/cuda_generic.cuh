// The kernel for everything that the fast one does not take: any D, L, P, mixture of types, alignment and size.
#pragma once

#include "cuda_levels.cuh"

namespace msda {

constexpr int kGenericThreads = 256;

// sum += weight * the kV numbers from `from` on: one, or four in one load.
template <class T, int kV>
__device__ __forceinline__ void add_numbers(const T* from, float weight, float* sum) {
  if (kV == 1) {
    sum[0] = fmaf(weight, load1(from), sum[0]);
  } else if (sizeof(T) == 2) {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(from));
    Word<T>::add(bits.x, weight, sum);
    Word<T>::add(bits.y, weight, sum + 2);
  } else {
    Chunk<T>::add(__ldg(reinterpret_cast<const uint4*>(from)), weight, sum);
  }
}

// A row is one (query, head); `lanes` lanes (a power of two) take one, kV channels each, and go over them in several
// passes where they are not enough. Each lane prepares one sample at a time and hands it to the others by shuffles. One
// dimension of blocks; a block that finds more rows than the grid covers takes further ones.
template <class T, int kV>
__global__ void __launch_bounds__(kGenericThreads, 4) generic_kernel(const __grid_constant__ Arguments a, int lanes) {
  MSDA_SHARED(shared);
  auto* sizes = reinterpret_cast<Sizes<int64_t, MSDA_MAX_LEVELS>*>(shared);
  const int64_t step = a.m * a.d;  // elements in a cell
  if (threadIdx.x < 32) read_sizes<int64_t, MSDA_MAX_LEVELS, 0, false>(a, step, sizes);
  __syncthreads();

  const int samples = a.l * a.p;
  const int lane = threadIdx.x % lanes;
  const int64_t rows = a.n * a.q * a.m;
  const int at_once = kGenericThreads / lanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * at_once; first < rows;
       first += static_cast<int64_t>(gridDim.x) * at_once) {
    // Groups beyond the last row repeat it without storing, so that a warp shuffles as one.
    const int64_t own = first + threadIdx.x / lanes, row = own < rows ? own : rows - 1;
    const int64_t head = row % a.m, query = row / a.m % a.q, entry = row / (a.m * a.q);
    const int64_t positions = row * a.position_stride, weights = row * a.weight_stride;
    float top = -INFINITY, scale = 1.0f;
    if (a.reference) {
      for (int i = lane; i < samples; i += lanes) top = fmaxf(top, load_as(a.weight_type, a.weights, weights + i));
      for (int d = lanes / 2; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
      float sum = 0.0f;
      for (int i = lane; i < samples; i += lanes) sum += power(load_as(a.weight_type, a.weights, weights + i) - top);
      for (int d = lanes / 2; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
      scale = 1.0f / sum;
    }
    for (int64_t pass = 0; pass < a.d; pass += lanes * kV) {
      const int64_t channel = pass + lane * kV;
      const bool busy = channel < a.d && sizes->fit;
      const T* base = static_cast<const T*>(a.value) + (entry * a.s * a.m + head) * a.d + channel;
      float sum[kV];
#pragma unroll
      for (float& x : sum) x = 0.0f;
      for (int i0 = 0; i0 < samples; i0 += lanes) {
        const int i = i0 + lane;
        float4 weight = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        int64_t at = 0;
        if (i < samples && sizes->fit) {
          const Level<int64_t>& level = sizes->level[i / a.p];
          float x = load_as(a.position_type, a.positions, positions + 2 * i);
          float y = load_as(a.position_type, a.positions, positions + 2 * i + 1);
          float share = load_as(a.weight_type, a.weights, weights + i);
          if (a.reference) {
            const float* reference =
                a.reference + entry * a.reference_entry + query * a.reference_step + i / a.p * a.reference_level;
            x += fmaf(reference[0], level.width, -0.5f);
            y += fmaf(reference[1], level.height, -0.5f);
            share = power(share - top) * scale;
          } else {
            x = fmaf(x, level.width, -0.5f);
            y = fmaf(y, level.height, -0.5f);
          }
          weight = place(level, step, x, y, share, &at);
        }
        for (int j = 0; j < lanes && i0 + j < samples; ++j) {
          const float w00 = __shfl_sync(0xffffffffu, weight.x, j, lanes);
          const float w01 = __shfl_sync(0xffffffffu, weight.y, j, lanes);
          const float w10 = __shfl_sync(0xffffffffu, weight.z, j, lanes);
          const float w11 = __shfl_sync(0xffffffffu, weight.w, j, lanes);
          const int64_t cell = __shfl_sync(0xffffffffu, at, j, lanes);
          if (!busy) continue;
          const Level<int64_t>& level = sizes->level[(i0 + j) / a.p];
          const T* corner = base + cell;
          add_numbers<T, kV>(corner, w00, sum);
          add_numbers<T, kV>(corner + level.right, w01, sum);
          add_numbers<T, kV>(corner + level.down, w10, sum);
          add_numbers<T, kV>(corner + level.down + level.right, w11, sum);
        }
      }
      if (own < rows && channel < a.d) {
        T* to = static_cast<T*>(a.output) + row * a.d + channel;
#pragma unroll
        for (int k = 0; k < kV; ++k) store1(sizes->fit ? sum[k] : not_a_number(), to + k);
      }
    }
  }
}

}  // namespace msda
