// Vectors of fp32 and their conversions from fp16 and bf16, in the widths of the instruction set this is compiled for.
//
// GCC and Clang vector extensions carry the arithmetic; intrinsics appear only where a compiler misses the instruction.
// `a > b ? a : b` is x86's MAXPS: where `a` is NaN the answer is `b`, and the kernels rely on that.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace msda {
namespace {  // each instruction set has its own copy: a function shared by name could run AVX-512 on an older processor

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

template <int N>
struct Lanes {
  typedef float Float __attribute__((vector_size(N * 4)));
  typedef int32_t Int __attribute__((vector_size(N * 4)));
  typedef uint16_t Half __attribute__((vector_size(N * 2)));
};
using Float = Lanes<kLanes>::Float;
using Int = Lanes<kLanes>::Int;

struct Fp16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};

template <class Vector>
inline Vector load_bits(const void* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class Vector>
inline void store_bits(void* to, Vector v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <class Vector>
inline Vector smaller(Vector a, Vector b) {
  return a < b ? a : b;
}

template <class Vector>
inline Vector larger(Vector a, Vector b) {
  return a > b ? a : b;
}

// Whole part of numbers that fit int32.
inline Int whole(Float x) { return __builtin_convertvector(x, Int); }
inline Float to_float(Int x) { return __builtin_convertvector(x, Float); }

template <int N>
inline typename Lanes<N>::Int widen(typename Lanes<N>::Half h) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return (typename Lanes<N>::Int)_mm512_cvtepu16_epi32((__m256i)h);
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return (typename Lanes<N>::Int)_mm256_cvtepu16_epi32((__m128i)h);
#endif
  return __builtin_convertvector(h, typename Lanes<N>::Int);
}

template <int N>
inline typename Lanes<N>::Float load(const float* from) {
  return load_bits<typename Lanes<N>::Float>(from);
}

template <int N>
inline typename Lanes<N>::Float load(const Bf16* from) {
  return (typename Lanes<N>::Float)(widen<N>(load_bits<typename Lanes<N>::Half>(from)) << 16);
}

template <int N>
inline typename Lanes<N>::Float load(const Fp16* from) {
  using F = typename Lanes<N>::Float;
  using I = typename Lanes<N>::Int;
#if defined(__AVX512F__)
  if constexpr (N == 16) return (F)_mm512_cvtph_ps(load_bits<__m256i>(from));
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return (F)_mm256_cvtph_ps(load_bits<__m128i>(from));
  if constexpr (N == 4) return (F)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
  // The exponent moves from bias 15 to bias 127 by a multiplication, which also makes subnormal numbers normal ones.
  const I half = widen<N>(load_bits<typename Lanes<N>::Half>(from));
  const I magnitude = half & 0x7fff;
  const F finite = (F)(magnitude << 13) * 0x1p112f;
  const I special = (I)(magnitude > 0x7bff) & 0x7f800000;  // infinity or NaN: all ones in the exponent
  return (F)((I)finite | special | ((half & 0x8000) << 16));
}

// Four numbers from each of the rows i, i + 4, i + 8, ... < kLanes, side by side.
inline Float load_fours(const float* const* row, int64_t column) {
#if defined(__AVX512F__)
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(row[0] + column));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(row[4] + column), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(row[8] + column), 2);
  return (Float)_mm512_insertf32x4(v, _mm_loadu_ps(row[12] + column), 3);
#elif defined(__AVX2__)
  const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(row[0] + column));
  return (Float)_mm256_insertf128_ps(v, _mm_loadu_ps(row[4] + column), 1);
#else
  return load<4>(row[0] + column);
#endif
}

template <class Half>
inline Float load_fours(const Half* const* row, int64_t column) {
  Half fours[kLanes];
  for (int i = 0; i < kLanes; i += 4) __builtin_memcpy(fours + i, row[i] + column, 4 * sizeof(Half));
  return load<kLanes>(fours);
}

// In every group of four numbers: x[A], x[B], y[C], y[D].
template <int A, int B, int C, int D>
inline Float pick(Float x, Float y) {
#if defined(__AVX512F__)
  return (Float)_mm512_shuffle_ps((__m512)x, (__m512)y, A | B << 2 | C << 4 | D << 6);
#elif defined(__AVX2__)
  return (Float)_mm256_shuffle_ps((__m256)x, (__m256)y, A | B << 2 | C << 4 | D << 6);
#elif defined(__clang__)
  return __builtin_shufflevector(x, y, A, B, C + 4, D + 4);
#else
  return __builtin_shuffle(x, y, Int{A, B, C + 4, D + 4});
#endif
}

// In every group of four numbers: four rows become four columns.
inline void transpose(Float (&r)[4]) {
  const Float low01 = pick<0, 1, 0, 1>(r[0], r[1]), high01 = pick<2, 3, 2, 3>(r[0], r[1]);
  const Float low23 = pick<0, 1, 0, 1>(r[2], r[3]), high23 = pick<2, 3, 2, 3>(r[2], r[3]);
  r[0] = pick<0, 2, 0, 2>(low01, low23);
  r[1] = pick<1, 3, 1, 3>(low01, low23);
  r[2] = pick<0, 2, 0, 2>(high01, high23);
  r[3] = pick<1, 3, 1, 3>(high01, high23);
}

template <int N>
inline void store(float* to, typename Lanes<N>::Float x) {
  store_bits(to, x);
}

// Rounds to nearest, ties to even; NaN stays NaN.
template <int N>
inline void store(Bf16* to, typename Lanes<N>::Float x) {
  using I = typename Lanes<N>::Int;
  const I bits = (I)x;
  const I rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const I kept = (x == x) ? rounded : (bits | 0x400000);
  store_bits(to, __builtin_convertvector(kept >> 16, typename Lanes<N>::Half));
}

template <int N>
inline void store(Fp16* to, typename Lanes<N>::Float x) {
  using F = typename Lanes<N>::Float;
  using I = typename Lanes<N>::Int;
#if defined(__AVX512F__)
  if constexpr (N == 16) return store_bits(to, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return store_bits(to, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
  if constexpr (N == 4) return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph((__m128)x, 0));
#endif
  const I bits = (I)x;
  const I magnitude = bits & 0x7fffffff;
  const I normal = (magnitude - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13;
  // Below 2^-14: adding one half leaves the bits of the subnormal number, rounded by the addition, at the low end.
  const I subnormal = (I)((F)magnitude + 0.5f) - 0x3f000000;
  I half = magnitude < 0x38800000 ? subnormal : normal;
  half = magnitude < 0x477ff000 ? half : I{} + 0x7c00;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000 ? I{} + 0x7e00 : half;  // NaN
  store_bits(to, __builtin_convertvector(half | ((bits >> 16) & 0x8000), typename Lanes<N>::Half));
}

// 2^x for x <= 0 with a relative error of 1e-7; exactly 0 below -126; NaN stays NaN.
inline Float power_of_two(Float x) {
  const Float kept = larger(x, Float{} - 126.0f);  // also for NaN, which has no whole part
  const Int exponent = whole(kept - 0.5f);         // towards zero, so this is the nearest whole number
  const Float f = x - to_float(exponent);          // in [-0.5, 0.5]
  Float p = f * 0.00132254004f + 0.00967566818f;   // minimax polynomial of degree 5, error 6e-8
  p = p * f + 0.0555086403f;
  p = p * f + 0.240221306f;
  p = p * f + 0.693146923f;
  p = p * f + 1.00000006f;
  const Float scaled = p * (Float)((exponent + 127) << 23);
  return x < -126.0f ? Float{} : scaled;
}

}  // namespace
}  // namespace msda
