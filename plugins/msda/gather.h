// The second half of the kernel: the weighted sum of corners, channels in vector lanes.
#pragma once

#include "points.h"

namespace msda {
namespace {

// C consecutive channels as vectors of kLanes floats and narrower ones for the rest, all in registers.
template <int C, int N = kLanes>
struct Channels {
  static constexpr int kWhole = C / N;
  static constexpr int kRest = C % N;
  typename Lanes<N>::Float whole[kWhole ? kWhole : 1];
  Channels<kRest, N / 2> rest;

  void clear() {
    for (auto& v : whole) v = typename Lanes<N>::Float{};
    rest.clear();
  }
  template <class T>
  void add(float weight, const T* from) {
    for (int i = 0; i < kWhole; ++i) whole[i] += weight * load<N>(from + i * N);
    rest.add(weight, from + kWhole * N);
  }
  template <class T>
  void write(T* to) const {
    for (int i = 0; i < kWhole; ++i) store<N>(to + i * N, whole[i]);
    rest.write(to + kWhole * N);
  }
};

template <int N>
struct Channels<0, N> {
  void clear() {}
  template <class T>
  void add(float, const T*) {}
  template <class T>
  void write(T*) const {}
};

// Channels [first, first + C) of every row of a block.
template <class T, int C>
void gather(const Entry& entry, const Block& block, const Point* points, int64_t first) {
  const msda_problem& p = entry.problem;
  const int64_t cell = p.m * p.d;  // elements from one cell to the next
  T* output = static_cast<T*>(entry.output) + block.first * p.d + first;
  int64_t head = block.head;
  for (int lane = 0; lane < block.count; ++lane, output += p.d) {
    const T* value = static_cast<const T*>(entry.value) + head * p.d + first;
    if (++head == p.m) head = 0;
    Channels<C> sum;
    sum.clear();
    const Point* point = points;
    for (int64_t l = 0; l < p.l; ++l) {
      const int64_t right = entry.level[l].right * cell, down = entry.level[l].down * cell;
      for (int64_t k = 0; k < p.p; ++k, ++point) {
        const T* at = value + point->cell[lane] * cell;
        sum.add(point->weight[0][lane], at);
        sum.add(point->weight[1][lane], at + right);
        sum.add(point->weight[2][lane], at + down);
        sum.add(point->weight[3][lane], at + down + right);
      }
    }
    sum.write(output);
  }
}

}  // namespace
}  // namespace msda
