// The first half of the kernel: where the samples of a block of rows lie, and how much each of their corners weighs.
//
// A row is one (query, head). A block is kLanes consecutive rows, one to a vector lane, so that softmax, bilinear
// weights and addresses are vertical arithmetic whatever L, P and M are.
#pragma once

#include "msda.h"
#include "simd.h"

namespace msda {
namespace {

// Column c of a block: number c of each of its rows.
struct alignas(64) Column {
  float lane[kLanes];
  Float get() const { return load<kLanes>(lane); }
  void set(Float x) { store<kLanes>(lane, x); }
};

// One sample of every row of a block.
struct Point {
  alignas(64) float weight[4][kLanes];  // of cells (y, x), (y, x+1), (y+1, x), (y+1, x+1)
  alignas(64) int32_t cell[kLanes];     // (y, x), counted from the first cell of the batch entry
};

// Up to kLanes consecutive rows of one batch entry, of which `first` is (query, head). Lanes beyond `count` repeat the
// last row.
struct Block {
  int64_t first;
  int count;
  int64_t query, head;

  Block(int64_t row, int64_t end, int64_t heads)
      : first(row),
        count(static_cast<int>(end - row < kLanes ? end - row : kLanes)),
        query(row / heads),
        head(row % heads) {}
};

// Reads `columns` numbers of every row of the block as fp32. Rows lie `stride` numbers apart.
template <class T>
void load_columns(const T* data, int64_t stride, const Block& block, int64_t columns, Column* out) {
  const T* row[kLanes];
  const T* at = data + block.first * stride;
  for (int i = 0; i < kLanes; ++i) {
    row[i] = at;
    if (i + 1 < block.count) at += stride;
  }
  int64_t c = 0;
  for (; c + 4 <= columns; c += 4) {
    Float tile[4];
    for (int k = 0; k < 4; ++k) tile[k] = load_fours(row + k, c);
    transpose(tile);
    for (int k = 0; k < 4; ++k) out[c + k].set(tile[k]);
  }
  for (; c < columns; ++c)
    for (int i = 0; i < kLanes; ++i) out[c].lane[i] = load<1>(row[i] + c)[0];
}

// Softmax down the columns, lane by lane. NaN, +inf or nothing but -inf makes the whole lane NaN, as everywhere.
inline void softmax(Column* column, int64_t count) {
  Float top = column[0].get();
  for (int64_t i = 1; i < count; ++i) top = larger(column[i].get(), top);
  Float sum{};
  for (int64_t i = 0; i < count; ++i) {
    const Float power = power_of_two((column[i].get() - top) * 1.44269504f);
    column[i].set(power);
    sum += power;
  }
  const Float scale = 1.0f / sum;
  for (int64_t i = 0; i < count; ++i) column[i].set(column[i].get() * scale);
}

// One axis of a bilinear sample. `base` is the lower of two neighbouring cells inside the level, clamped so that both
// can be read; a cell's weight falls from 1 at its centre to 0 one cell away, which gives zero outside the level
// without a comparison. NaN gives base 0 and weights 0.
struct Axis {
  Float lower, upper;  // weights of cells base and base + 1
  Int base;

  // `end` is 2, or 0 where the level has one cell along this axis: then upper is 0.
  Axis(Float x, float last_base, float end) {
    base = whole(smaller(larger(x, Float{}), Float{} + last_base));
    const Float t = x - to_float(base);
    const Float distance = (Float)((Int)t & 0x7fffffff);
    lower = larger(1.0f - distance, Float{});
    upper = larger(smaller(t, end - t), Float{});
  }
};

// A level in the types and the forms that the arithmetic wants.
struct Level {
  float width, height;
  float last_x, last_y;  // largest base cell of an axis
  float end_x, end_y;    // see Axis
  int32_t right, down;   // cells to the upper neighbour along x and y; 0 where there is none
  int32_t row, start;    // cells in a row; first cell

  Level() = default;
  explicit Level(const msda_level& l)
      : width(static_cast<float>(l.width)),
        height(static_cast<float>(l.height)),
        last_x(l.width > 1 ? static_cast<float>(l.width - 2) : 0.0f),
        last_y(l.height > 1 ? static_cast<float>(l.height - 2) : 0.0f),
        end_x(l.width > 1 ? 2.0f : 0.0f),
        end_y(l.height > 1 ? 2.0f : 0.0f),
        right(l.width > 1 ? 1 : 0),
        down(l.height > 1 ? l.width : 0),
        row(l.width),
        start(l.start) {}

  void place(Float x, Float y, Float weight, Point& point) const {
    const Axis along_x(x, last_x, end_x), along_y(y, last_y, end_y);
    const Float lower = along_y.lower * weight, upper = along_y.upper * weight;
    store<kLanes>(point.weight[0], lower * along_x.lower);
    store<kLanes>(point.weight[1], lower * along_x.upper);
    store<kLanes>(point.weight[2], upper * along_x.lower);
    store<kLanes>(point.weight[3], upper * along_x.upper);
    store_bits(point.cell, along_y.base * row + along_x.base + start);
  }
};

inline int64_t size_of(msda_type type) { return type == MSDA_FLOAT32 ? 4 : 2; }

// One batch entry of a problem.
struct Entry {
  const msda_problem& problem;
  const void* value;
  const void* positions;
  const void* weights;
  const float* references;
  void* output;
  Level level[MSDA_MAX_LEVELS];

  Entry(const msda_problem& p, int64_t n)
      : problem(p),
        value(static_cast<const char*>(p.value) + n * p.s * p.m * p.d * size_of(p.value_type)),
        positions(static_cast<const char*>(p.positions) + n * p.q * p.m * p.position_stride * size_of(p.position_type)),
        weights(static_cast<const char*>(p.weights) + n * p.q * p.m * p.weight_stride * size_of(p.weight_type)),
        references(p.reference_n == 1 ? p.reference_points : p.reference_points + n * p.q * p.reference_l * 2),
        output(static_cast<char*>(p.output) + n * p.q * p.m * p.d * size_of(p.value_type)) {
    for (int64_t l = 0; l < p.l; ++l) level[l] = Level(p.level[l]);
  }

  // Where level l has the reference points of the block's rows: reference * size - 0.5.
  void reference(const Block& block, int64_t l, Float* x, Float* y) const {
    Int lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    const int64_t stride = 2 * problem.reference_l;
    const float* at = references + block.query * stride + (problem.reference_l == 1 ? 0 : 2 * l);
    *x = Float{} + at[0];
    *y = Float{} + at[1];
    for (int64_t next = problem.m - block.head; next < block.count; next += problem.m) {  // lanes of the next query
      at += stride;
      *x = lane < static_cast<int32_t>(next) ? *x : Float{} + at[0];
      *y = lane < static_cast<int32_t>(next) ? *y : Float{} + at[1];
    }
    *x = *x * level[l].width - 0.5f;
    *y = *y * level[l].height - 0.5f;
  }
};

// Fills `points` (L*P) for one block.
template <class S, class W>
void place_points(const Entry& entry, const Block& block, Point* points) {
  const msda_problem& p = entry.problem;
  const int64_t lp = p.l * p.p;
  Column position[2 * MSDA_MAX_POINTS], weight[MSDA_MAX_POINTS];
  load_columns(static_cast<const S*>(entry.positions), p.position_stride, block, 2 * lp, position);
  load_columns(static_cast<const W*>(entry.weights), p.weight_stride, block, lp, weight);
  if (p.reference_points) softmax(weight, lp);
  for (int64_t l = 0, i = 0; l < p.l; ++l) {
    const Level& level = entry.level[l];
    if (p.reference_points) {  // reference * size + offset - 0.5
      Float x, y;
      entry.reference(block, l, &x, &y);
      for (int64_t k = 0; k < p.p; ++k, ++i)
        level.place(x + position[2 * i].get(), y + position[2 * i + 1].get(), weight[i].get(), points[i]);
    } else {  // location * size - 0.5
      for (int64_t k = 0; k < p.p; ++k, ++i)
        level.place(position[2 * i].get() * level.width - 0.5f, position[2 * i + 1].get() * level.height - 0.5f,
                    weight[i].get(), points[i]);
    }
  }
}

}  // namespace
}  // namespace msda
