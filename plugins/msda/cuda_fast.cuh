// The fast kernel: head widths of a power of two chunks, four points a level, a fixed number of levels.
//
// A warp computes kRows rows; a row is one (query, head). First every lane takes one point of one row (of each level):
// softmax over the four lanes of the row, position, bilinear weights, place in `value`; the results go to shared
// memory. Then kLanes lanes take a row, 16 bytes of channels each, and sum up the row's samples.
#pragma once

#include "cuda_levels.cuh"

namespace msda {

constexpr int kPoints = 4;
constexpr int kMaxThreads = 512;

// The four corners of a level's first sample in `value`, head 0, of the block's batch entry. Read from shared memory
// they are plain numbers to the compiler, which then adds the place of a sample to one in a single instruction
// (IMAD.WIDE); computed in registers they cost it two or three, four times a sample.
struct alignas(16) Corners {
  const uint4* at[4];
};

template <int kL>
struct FastSizes : Sizes<uint32_t, kL> {
  Corners corners[kL];
};

// How the kernel for D channels of type T and L levels divides its work.
template <class T, int kD, int kL>
struct Layout {
  static constexpr int kSamples = kL * kPoints;
  static constexpr int kLanes = kD / Chunk<T>::kCount;         // lanes of a row while summing up
  static constexpr int kTogether = 32 / kLanes;                // rows that a warp sums up at once
  static constexpr int kRows = kTogether > 8 ? kTogether : 8;  // rows of a warp
  static constexpr int kRowsPadded = kRows + 2;                // keeps the first half free of bank conflicts
  static constexpr int kBytes = kSamples * (kRowsPadded * 16 + kRows * 4);  // of shared memory for a warp
  static constexpr int kSizes = sizeof(FastSizes<kL>);
  static_assert(kD % Chunk<T>::kCount == 0 && kLanes <= 32 && 32 % kLanes == 0, "a row must be whole chunks");
  static size_t shared_bytes(int threads) { return kSizes + static_cast<size_t>(threads / 32) * kBytes; }
};

// The samples of one row that one lane prepares: point `t` of every level.
template <int kL>
struct Points {
  float x[kL], y[kL];  // offsets in cells, or locations in [0, 1]
  float weight[kL];    // logits until softmax, or finished weights
  float2 reference[kL];
};

// `row` counts from the first row of the batch entry.
template <class T, class X, int kL, bool kFused>
__device__ __forceinline__ void load_points(const Arguments& a, int32_t entry, uint32_t query, uint32_t row, int t,
                                            Points<kL>& points) {
  constexpr int kSamples = kL * kPoints;
  constexpr uint32_t kPositions = (kFused ? 3 : 2) * kSamples, kWeights = (kFused ? 3 : 1) * kSamples;  // of a row
  const int64_t rows = static_cast<int64_t>(entry) * static_cast<int32_t>(a.q * a.m);
  const X* positions = static_cast<const X*>(a.positions) + rows * kPositions + row * kPositions;
  const T* weights = static_cast<const T*>(a.weights) + rows * kWeights + row * kWeights;
#pragma unroll
  for (int l = 0; l < kL; ++l) {
    const float2 at = load2(positions + 2 * (l * kPoints + t));
    points.x[l] = at.x;
    points.y[l] = at.y;
    points.weight[l] = load1(weights + l * kPoints + t);
  }
  if (!kFused) return;
  const float* reference = a.reference + entry * a.reference_entry + query * static_cast<uint32_t>(a.reference_step);
#pragma unroll
  for (int l = 0; l < kL; ++l) points.reference[l] = load2(reference + l * a.reference_level);
}

// Over the four lanes that hold a row.
template <int kL>
__device__ __forceinline__ void softmax(Points<kL>& points) {
  float top = points.weight[0];
#pragma unroll
  for (int l = 1; l < kL; ++l) top = fmaxf(top, points.weight[l]);
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
  float sum = 0.0f;
#pragma unroll
  for (int l = 0; l < kL; ++l) sum += points.weight[l] = power(points.weight[l] - top);
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  const float scale = reciprocal(sum);
#pragma unroll
  for (int l = 0; l < kL; ++l) points.weight[l] *= scale;
}

// value (N, S, M, D) and output (N, Q, M, D) of type T; positions of type X. Grid: rows of a pair (or one) of heads in
// x, heads in y, batch entries in z. Shared memory: Layout::shared_bytes.
template <class T, class X, int kD, int kL, bool kFused>
__global__ void __launch_bounds__(kMaxThreads, 2) fast_kernel(const __grid_constant__ Arguments a) {
  using Shape = Layout<T, kD, kL>;
  constexpr int kLanes = Shape::kLanes, kRows = Shape::kRows, kSamples = Shape::kSamples;
  MSDA_SHARED(shared);
  auto* sizes = reinterpret_cast<FastSizes<kL>*>(shared);
  const int32_t heads = static_cast<int32_t>(a.m);
  const uint32_t step = static_cast<uint32_t>(heads * kLanes);  // chunks in a cell
  const int32_t entry = a.first_entry + static_cast<int32_t>(blockIdx.z);
  if (threadIdx.x < 32) {
    read_sizes<uint32_t, kL, kL, true>(a, step, sizes);
    if (threadIdx.x < kL) {
      const uint4* first =
          static_cast<const uint4*>(a.value) + static_cast<int64_t>(entry) * static_cast<int32_t>(a.s * step);
      const uint32_t right = sizes->level[threadIdx.x].right, down = sizes->level[threadIdx.x].down;
      sizes->corners[threadIdx.x] = {{first, first + right, first + down, first + (right + down)}};
    }
  }
  __syncthreads();

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  char* own = reinterpret_cast<char*>(shared) + Shape::kSizes + warp * Shape::kBytes;
  auto* weights = reinterpret_cast<float4*>(own);                                        // [sample][kRowsPadded]
  auto* places = reinterpret_cast<uint32_t*>(own + kSamples * Shape::kRowsPadded * 16);  // [sample][kRows]

  // Row r of the warp: heads alternate, so that rows of 64 bytes side by side fill both halves of a cache line.
  uint4* output = static_cast<uint4*>(a.output) +
                  static_cast<int64_t>(entry) * static_cast<int32_t>(a.q * a.m) * kLanes;  // of the entry
  const int32_t first_slot =
      static_cast<int32_t>((blockIdx.x * (blockDim.x >> 5) + warp) * static_cast<uint32_t>(kRows >> a.head_bits));
  const int32_t last_query = static_cast<int32_t>(a.q) - 1;
  if (first_slot > last_query) return;
  const int32_t first_head = static_cast<int32_t>(blockIdx.y) << a.head_bits;

  if (!sizes->fit) {
    for (int i = lane; i < kRows * kLanes; i += 32) {
      const int r = i / kLanes;
      const int32_t head = first_head + (r & ((1 << a.head_bits) - 1)), query = first_slot + (r >> a.head_bits);
      if (query > last_query) continue;
      output[static_cast<uint32_t>((query * heads + head) * kLanes + i % kLanes)] = Chunk<T>::nan();
    }
    return;
  }

  int32_t query[kRows / 8];
#pragma unroll
  for (int i = 0; i < kRows / 8; ++i) {
    const int r = i * 8 + lane / kPoints, t = lane % kPoints;
    const int32_t slot = first_slot + (r >> a.head_bits);
    const int32_t head = first_head + (r & ((1 << a.head_bits) - 1));
    query[i] = query_of(*sizes, slot < last_query ? slot : last_query);
    Points<kL> points;
    load_points<T, X, kL, kFused>(a, entry, query[i], query[i] * heads + head, t, points);
    if (kFused) softmax(points);
#pragma unroll
    for (int l = 0; l < kL; ++l) {
      const Level<uint32_t>& level = sizes->level[l];
      float x, y;
      if (kFused) {
        x = fmaf(points.reference[l].x, level.width, -0.5f) + points.x[l];
        y = fmaf(points.reference[l].y, level.height, -0.5f) + points.y[l];
      } else {
        x = fmaf(points.x[l], level.width, -0.5f);
        y = fmaf(points.y[l], level.height, -0.5f);
      }
      uint32_t at;
      weights[(l * kPoints + t) * Shape::kRowsPadded + r] = place(level, step, x, y, points.weight[l], &at);
      places[(l * kPoints + t) * kRows + r] = at;
    }
  }
  __syncwarp();

#pragma unroll 1
  for (int first = 0; first < kRows; first += Shape::kTogether) {
    const int r = first + lane / kLanes, chunk = lane % kLanes;
    const int32_t slot = first_slot + (r >> a.head_bits);
    const int32_t head = first_head + (r & ((1 << a.head_bits) - 1));
    const uint32_t own_chunk = static_cast<uint32_t>(head * kLanes + chunk);
    float sum[Chunk<T>::kCount];
#pragma unroll
    for (float& x : sum) x = 0.0f;
#pragma unroll
    for (int l = 0; l < kL; ++l) {
      const Corners corners = sizes->corners[l];
#pragma unroll
      for (int i = l * kPoints; i < (l + 1) * kPoints; ++i) {
        const float4 weight = weights[i * Shape::kRowsPadded + r];
        const uint32_t at = places[i * kRows + r] + own_chunk;
        const uint4 v00 = __ldg(corners.at[0] + at), v01 = __ldg(corners.at[1] + at);
        const uint4 v10 = __ldg(corners.at[2] + at), v11 = __ldg(corners.at[3] + at);
        Chunk<T>::add(v00, weight.x, sum);
        Chunk<T>::add(v01, weight.y, sum);
        Chunk<T>::add(v10, weight.z, sum);
        Chunk<T>::add(v11, weight.w, sum);
      }
    }
    // The query of row r lies with the lanes that prepared the row.
    int32_t of_row = query[0];
    if (kRows == 8 && kLanes != kPoints) of_row = __shfl_sync(0xffffffffu, query[0], r * kPoints);
    if (kRows == 16) {
      const int32_t low = __shfl_sync(0xffffffffu, query[0], (r & 7) * kPoints);
      const int32_t high = __shfl_sync(0xffffffffu, query[kRows / 8 - 1], (r & 7) * kPoints);
      of_row = r < 8 ? low : high;
    }
    if (slot <= last_query)
      output[static_cast<uint32_t>((of_row * heads + head) * kLanes + chunk)] = Chunk<T>::pack(sum);
  }
}

}  // namespace msda
