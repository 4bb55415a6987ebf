// What the kernels for NVIDIA GPUs share: their arguments, and numbers of three types read and written as fp32.
#pragma once

#ifndef MSDA_ON_CPU  // the tests run this text on a CPU and bring their own declarations
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define MSDA_SHARED(name) extern __shared__ uint4 name[]
#endif

#include "msda.h"

namespace msda {

// One launch: a msda_problem in the form that kernels want it, and where the level sizes are.
struct Arguments {
  const void* value;
  void* output;
  const float* reference;  // NULL in the standard op
  const void* positions;
  const void* weights;
  const void* device_shapes;  // NULL: `level` holds the sizes
  const void* device_starts;  // NULL: levels follow one another
  int64_t n, s, m, d, q;
  int64_t position_stride, weight_stride;  // elements from one (query, head) to the next
  int64_t reference_entry;                 // floats from one batch entry to the next; 0 where all share them
  int32_t reference_step;                  // floats from one query to the next
  int32_t reference_level;                 // floats from one level to the next; 0 where all share them
  int32_t l, p;
  int32_t wide_sizes;  // device sizes are int64, not int32
  int32_t position_type, weight_type;
  int32_t first_entry;  // batch entry of blockIdx.z 0
  int32_t head_bits;    // fast kernel: heads of one warp, as a power of two
  msda_level level[MSDA_MAX_LEVELS];
};

template <class T>
__device__ __forceinline__ float load1(const T* from) {
  return static_cast<float>(*from);
}
__device__ __forceinline__ float2 load2(const float* from) { return *reinterpret_cast<const float2*>(from); }
__device__ __forceinline__ float2 load2(const __half* from) {
  return __half22float2(*reinterpret_cast<const __half2*>(from));
}
__device__ __forceinline__ float2 load2(const __nv_bfloat16* from) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(from));
}

__device__ __forceinline__ float load_as(int32_t type, const void* from, int64_t index) {
  if (type == MSDA_FLOAT16) return load1(static_cast<const __half*>(from) + index);
  if (type == MSDA_BFLOAT16) return load1(static_cast<const __nv_bfloat16*>(from) + index);
  return load1(static_cast<const float*>(from) + index);
}

__device__ __forceinline__ void store1(float x, float* to) { *to = x; }
__device__ __forceinline__ void store1(float x, __half* to) { *to = __float2half_rn(x); }
__device__ __forceinline__ void store1(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

// 1 / x to two units in the last place, for x of ordinary size. NaN stays NaN.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// 32 bits of memory as numbers of type T: one fp32, or two of 16 bits.
template <class T>
struct Word;
template <>
struct Word<float> {
  static constexpr int kCount = 1;
  static __device__ __forceinline__ void add(uint32_t bits, float weight, float* sum) {
    sum[0] = fmaf(weight, __uint_as_float(bits), sum[0]);
  }
  static __device__ __forceinline__ uint32_t pack(const float* x) { return __float_as_uint(x[0]); }
};
template <>
struct Word<__half> {
  static constexpr int kCount = 2;
  static __device__ __forceinline__ void add(uint32_t bits, float weight, float* sum) {
    union {
      uint32_t bits;
      __half2_raw pair;
    } word = {bits};
    const float2 x = __half22float2(__half2(word.pair));
    sum[0] = fmaf(weight, x.x, sum[0]);
    sum[1] = fmaf(weight, x.y, sum[1]);
  }
  static __device__ __forceinline__ uint32_t pack(const float* x) {
    const __half2_raw pair = __floats2half2_rn(x[0], x[1]);
    return static_cast<uint32_t>(pair.y) << 16 | pair.x;
  }
};
template <>
struct Word<__nv_bfloat16> {
  static constexpr int kCount = 2;
  static __device__ __forceinline__ void add(uint32_t bits, float weight, float* sum) {
    sum[0] = fmaf(weight, __uint_as_float(bits << 16), sum[0]);
    sum[1] = fmaf(weight, __uint_as_float(bits & 0xffff0000u), sum[1]);
  }
  static __device__ __forceinline__ uint32_t pack(const float* x) {
    const __nv_bfloat162_raw pair = __floats2bfloat162_rn(x[0], x[1]);
    return static_cast<uint32_t>(pair.y) << 16 | pair.x;
  }
};

// 16 bytes: one load, one lane.
template <class T>
struct Chunk {
  static constexpr int kCount = 4 * Word<T>::kCount;
  static __device__ __forceinline__ void add(const uint4& bits, float weight, float* sum) {
    Word<T>::add(bits.x, weight, sum);
    Word<T>::add(bits.y, weight, sum + Word<T>::kCount);
    Word<T>::add(bits.z, weight, sum + 2 * Word<T>::kCount);
    Word<T>::add(bits.w, weight, sum + 3 * Word<T>::kCount);
  }
  static __device__ __forceinline__ uint4 nan() {
    float x[kCount];
    for (float& number : x) number = not_a_number();
    return pack(x);
  }
  static __device__ __forceinline__ uint4 pack(const float* x) {
    return {Word<T>::pack(x), Word<T>::pack(x + Word<T>::kCount), Word<T>::pack(x + 2 * Word<T>::kCount),
            Word<T>::pack(x + 3 * Word<T>::kCount)};
  }
};

// e^x for x <= 0. NaN stays NaN.
__device__ __forceinline__ float power(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
#else
  return exp2f(x * 1.44269504f);
#endif
}

}  // namespace msda
