// Level sizes within a block: read once, checked, and kept in shared memory in the forms that the arithmetic wants.
#pragma once

#include "cuda_types.cuh"

namespace msda {

// A level. `Index` counts in steps: 16-byte chunks in the fast kernel, elements in the generic one.
template <class Index>
struct alignas(16) Level {
  float width, height;
  float last_x, last_y;  // largest lower cell of a bilinear sample
  float end_x, end_y;    // 1, or -1 where the level has one cell along the axis: see Axis
  Index row, start;      // steps from one row to the next; of the first cell
  Index right, down;     // steps to the upper neighbour along x and y; 0 where there is none
};

// A grid of queries, for the order of work: see query_of.
struct alignas(16) QueryGrid {
  int32_t height, width;
  float per_band, per_last;  // 1 / queries of a whole band; 1 / rows of the last band
};

constexpr int kMaxGrids = 4;
constexpr uint32_t kMaxOrdered = 1 << 20;  // queries; below it fp32 divides their numbers exactly, see query_of

// What a block keeps about its call.
template <class Index, int kMaxL>
struct Sizes {
  Level<Index> level[kMaxL];
  QueryGrid grid[kMaxGrids];
  int32_t first[kMaxGrids];  // query of each grid; beyond the last grid more than any query
  int32_t grids;             // 0: queries in plain order
  int32_t fit;               // the levels fit S
};

// One level as given, unchecked but for what must fit 32 bits: sizes that cannot be come out as 0, starts as -1.
struct GivenLevel {
  int32_t height, width, start;
};

__device__ __forceinline__ GivenLevel read_level(const Arguments& a, int l) {
  if (!a.device_shapes) return {a.level[l].height, a.level[l].width, a.level[l].start};
  int64_t height, width, start = 0;
  if (a.wide_sizes) {
    height = static_cast<const int64_t*>(a.device_shapes)[2 * l];
    width = static_cast<const int64_t*>(a.device_shapes)[2 * l + 1];
    if (a.device_starts) start = static_cast<const int64_t*>(a.device_starts)[l];
  } else {
    height = static_cast<const int32_t*>(a.device_shapes)[2 * l];
    width = static_cast<const int32_t*>(a.device_shapes)[2 * l + 1];
    if (a.device_starts) start = static_cast<const int32_t*>(a.device_starts)[l];
  }
  const bool sides = height >= 1 && width >= 1 && height <= MSDA_MAX_SIDE && width <= MSDA_MAX_SIDE;
  return {sides ? static_cast<int32_t>(height) : 0, sides ? static_cast<int32_t>(width) : 0,
          start >= 0 && start <= a.s ? static_cast<int32_t>(start) : -1};
}

// Reads the sizes and checks them as msda_set_levels does. The first warp of a block calls it; lane l has level l.
// `step` is the number of steps in a cell. kL is L, or 0 where only a.l knows it. kGrids: also finds which grids the
// queries form, so that neighbours can be worked on together: the levels themselves (an encoder), one level (an
// injector), or the three scales around the one level (an extractor). Nothing says so in the op's inputs; a wrong guess
// changes the order of work and no result.
template <class Index, int kMaxL, int kL, bool kGrids>
__device__ __forceinline__ void read_sizes(const Arguments& a, Index step, Sizes<Index, kMaxL>* sizes) {
  const int levels = kL ? kL : a.l;
  const int lane = threadIdx.x;
  const uint32_t all = static_cast<uint32_t>(a.s);  // below 2^31, as is every number here
  const GivenLevel own = read_level(a, lane < levels ? lane : 0);
  const int64_t area = static_cast<int64_t>(own.height) * own.width;
  const uint32_t cells = area <= all ? static_cast<uint32_t>(area) : 0;

  uint32_t total = 0, before = 0;  // cells of all levels, and of those before this one
  bool fit = true;
  int32_t height = own.height, width = own.width;  // of the grid of queries
  bool injector = false;
#pragma unroll
  for (int i = 0; i < levels; ++i) {
    const int l = kL ? (i + kL / 2) % kL : i;  // the middle one first
    const uint32_t its_cells = kL == 1 ? cells : __shfl_sync(0xffffffffu, cells, l);
    if (l < lane) before += its_cells;
    total += its_cells;
    fit = fit && its_cells > 0 && total <= all;
    if (kGrids) {
      const int32_t its_height = kL == 1 ? own.height : __shfl_sync(0xffffffffu, own.height, l);
      const int32_t its_width = kL == 1 ? own.width : __shfl_sync(0xffffffffu, own.width, l);
      if (!injector) height = its_height, width = its_width;
      injector = injector || its_cells == static_cast<uint32_t>(a.q);
    }
  }
  const uint32_t start = a.device_shapes && !a.device_starts ? before : static_cast<uint32_t>(own.start);
  const bool inside = lane >= levels || (start <= all && start + cells <= all);
  fit = fit && total == all && (kL == 1 ? inside : __all_sync(0xffffffffu, inside));

  if (lane < levels) {
    Level<Index>& to = sizes->level[lane];
    const bool many_x = own.width > 1, many_y = own.height > 1;
    const Index row = static_cast<Index>(own.width) * step;
    to.width = static_cast<float>(own.width);
    to.height = static_cast<float>(own.height);
    to.last_x = static_cast<float>(many_x ? own.width - 2 : 0);
    to.last_y = static_cast<float>(many_y ? own.height - 2 : 0);
    to.end_x = many_x ? 1.0f : -1.0f;
    to.end_y = many_y ? 1.0f : -1.0f;
    to.row = row;
    to.start = static_cast<Index>(start) * step;
    to.right = many_x ? step : 0;
    to.down = many_y ? row : 0;
  }
  int32_t grids = 0;
  if (kGrids) {
    const uint32_t queries = static_cast<uint32_t>(a.q);
    uint32_t first = 0;
    if (kL > 1 && queries == all) {
      grids = kL;
      height = own.height, width = own.width, first = before;
    } else if (injector) {
      grids = 1;
    } else if (kL == 1 && height % 2 == 0 && width % 2 == 0 && all < kMaxOrdered && 4 * queries == 21 * all) {
      grids = 3;
      height = (2 * height) >> lane, width = (2 * width) >> lane;
      first = lane == 0 ? 0 : (3 + lane) * all;
    }
    if (!fit || queries >= kMaxOrdered) grids = 0;
    if (lane < kMaxGrids) {
      const float last = static_cast<float>((height - 1) % 8 + 1);
      sizes->grid[lane] = {height, width, 0.125f * reciprocal(static_cast<float>(width)), reciprocal(last)};
      sizes->first[lane] = lane < grids ? static_cast<int32_t>(first) : INT32_MAX;
    }
  }
  if (lane == 0) {
    sizes->grids = grids;
    sizes->fit = fit;
  }
}

// The query that is number `slot` in the order of work. Within a grid: bands of 8 rows, in a band column after column,
// so that 64 consecutive slots are a tile of 8x8 queries. One to one for any grid; the last band may be lower.
template <class Index, int kMaxL>
__device__ __forceinline__ int32_t query_of(const Sizes<Index, kMaxL>& sizes, int32_t slot) {
  if (!sizes.grids) return slot;
  int32_t i = 0;
#pragma unroll
  for (int j = 1; j < kMaxGrids; ++j) i += slot >= sizes.first[j];
  const QueryGrid g = sizes.grid[i];
  const int32_t k = slot - sizes.first[i];
  const int32_t band = static_cast<int32_t>((static_cast<float>(k) + 0.5f) * g.per_band);
  const int32_t rest = k - band * 8 * g.width;
  const int32_t left = g.height - 8 * band, rows = left < 8 ? left : 8;
  const float per_rows = left < 8 ? g.per_last : 0.125f;
  const int32_t x = static_cast<int32_t>((static_cast<float>(rest) + 0.5f) * per_rows);
  return sizes.first[i] + (8 * band + rest - x * rows) * g.width + x;
}

// One axis of a bilinear sample at x, in cells. `base` is the lower of two neighbouring cells inside the level, clamped
// so that both can be read; a cell's weight falls from 1 at its centre to 0 one cell away, which gives zero outside the
// level without a comparison. NaN gives base 0 and weights 0: fmaxf drops it, and saturation makes it 0.
struct Axis {
  float lower, upper;  // weights of cells base and base + 1
  int32_t base;

  __device__ __forceinline__ Axis(float x, float last, float end) {
    base = static_cast<int32_t>(fminf(fmaxf(x, 0.0f), last));
    const float t = x - static_cast<float>(base);
    lower = __saturatef(1.0f - fabsf(t));
    upper = __saturatef(end - fabsf(t - 1.0f));
  }
};

// The weights of cells (y, x), (y, x+1), (y+1, x), (y+1, x+1), and the place of the first.
template <class Index>
__device__ __forceinline__ float4 place(const Level<Index>& level, Index step, float x, float y, float weight,
                                        Index* at) {
  const Axis along_x(x, level.last_x, level.end_x), along_y(y, level.last_y, level.end_y);
  const float lower = along_y.lower * weight, upper = along_y.upper * weight;
  *at = level.start + static_cast<Index>(along_y.base) * level.row + static_cast<Index>(along_x.base) * step;
  return make_float4(lower * along_x.lower, lower * along_x.upper, upper * along_x.lower, upper * along_x.upper);
}

}  // namespace msda
