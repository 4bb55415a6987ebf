// Runs every code path of the CPU kernels over random and hostile inputs, in buffers of exactly their size.
//
// Built with AddressSanitizer and UndefinedBehaviorSanitizer (ADAPTER_SANITIZE=ON), so that a read outside a tensor or
// an undefined conversion ends it. Results are held against a plain loop in double precision. Prints what it did.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "msda.h"

namespace {

std::mt19937_64 random_bits(20240607);

int64_t pick(std::initializer_list<int64_t> from) {
  std::uniform_int_distribution<size_t> index(0, from.size() - 1);
  return from.begin()[index(random_bits)];
}

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

float from_half(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return static_cast<float>(h & 0x8000 ? -magnitude : magnitude);
}

float from_bf16(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// A tensor of random numbers whose allocation ends with its last one.
struct Tensor {
  msda_type type;
  std::vector<int64_t> dims;
  size_t count = 1;
  std::unique_ptr<unsigned char[]> bytes;

  size_t width() const { return type == MSDA_FLOAT32 ? 4 : type == MSDA_INT64 ? 8 : 2; }

  Tensor(msda_type t, std::vector<int64_t> d) : type(t), dims(std::move(d)) {
    for (int64_t size : dims) count *= static_cast<size_t>(size);
    bytes.reset(new unsigned char[count * width()]);
  }
  void set(size_t i, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint16_t half = static_cast<uint16_t>(bits >> 16);  // bf16 by truncation: any number will do
    if (type == MSDA_FLOAT16) half = static_cast<uint16_t>((bits >> 16 & 0x8000) | (random_bits() % 0x4200));
    if (type == MSDA_FLOAT32)
      std::memcpy(&bytes[i * 4], &bits, 4);
    else
      std::memcpy(&bytes[i * 2], &half, 2);
  }
  void set_bits(size_t i, uint64_t bits) { std::memcpy(&bytes[i * width()], &bits, width()); }
  double get(size_t i) const {
    if (type == MSDA_FLOAT32) {
      float x;
      std::memcpy(&x, &bytes[i * 4], 4);
      return x;
    }
    uint16_t h;
    std::memcpy(&h, &bytes[i * 2], 2);
    return type == MSDA_FLOAT16 ? from_half(h) : from_bf16(h);
  }
  // Normal numbers; a share of them replaced by any bits at all, or by the numbers that break conversions.
  void fill(float scale, double hostile) {
    std::normal_distribution<float> normal(0, scale);
    std::uniform_real_distribution<double> share(0, 1);
    const float bad[] = {NAN, INFINITY, -INFINITY, 1e9f, -1e9f, 3e38f, -3e38f, 2147483648.0f, -0.5f, 1e-40f};
    for (size_t i = 0; i < count; ++i) {
      const double s = share(random_bits);
      if (s < hostile / 2)
        set_bits(i, random_bits());
      else if (s < hostile && type == MSDA_FLOAT32)
        set(i, bad[random_bits() % 10]);
      else
        set(i, normal(random_bits));
    }
  }
  msda_tensor view() const { return {bytes.get(), dims.data(), dims.size(), type}; }
};

// The op in double precision, for one row: (query, head) number `row` of N*Q*M. Returns the sum of |weight|.
double reference(const msda_problem& p, const Tensor& value, const Tensor& positions, const Tensor& weights,
                 size_t weights_at, const Tensor* points, size_t row, std::vector<double>& out) {
  const size_t lp = static_cast<size_t>(p.l * p.p), m = row % static_cast<size_t>(p.m);
  const size_t query = row / static_cast<size_t>(p.m), n = query / static_cast<size_t>(p.q);
  std::vector<double> share(lp);
  double top = -INFINITY, sum = 0;
  for (size_t i = 0; i < lp; ++i) {
    share[i] = weights.get(row * static_cast<size_t>(p.weight_stride) + weights_at + i);
    if (!(share[i] <= top)) top = share[i];
  }
  if (points) {
    for (double& s : share) sum += s = std::exp(s - top);
    for (double& s : share) s /= sum;
  }
  double total = 0;
  out.assign(static_cast<size_t>(p.d), 0);
  for (size_t i = 0; i < lp; ++i) {
    const size_t l = i / static_cast<size_t>(p.p);
    const int64_t w = p.level[l].width, h = p.level[l].height;
    const size_t at = row * static_cast<size_t>(p.position_stride) + 2 * i;
    // In fp32, as the op is defined: 3e38 - 3e38 - 0.5 depends on it.
    const float sx = static_cast<float>(positions.get(at)), sy = static_cast<float>(positions.get(at + 1));
    const float width = static_cast<float>(w), height = static_cast<float>(h);
    double x = sx * width - 0.5f, y = sy * height - 0.5f;
    if (points) {
      const size_t q = query % static_cast<size_t>(p.q) + (p.reference_n == 1 ? 0 : n * static_cast<size_t>(p.q));
      const size_t r = 2 * (q * static_cast<size_t>(p.reference_l) + (p.reference_l == 1 ? 0 : l));
      const float rx = static_cast<float>(points->get(r)), ry = static_cast<float>(points->get(r + 1));
      x = rx * width - 0.5f + sx;
      y = ry * height - 0.5f + sy;
    }
    total += std::fabs(share[i]);
    const bool inside = x > -1 && y > -1 && x < static_cast<double>(w) && y < static_cast<double>(h);
    for (int corner = 0; corner < 4; ++corner) {
      const double column = std::floor(x) + corner % 2, line = std::floor(y) + corner / 2;
      const bool there =
          inside && column >= 0 && line >= 0 && column < static_cast<double>(w) && line < static_cast<double>(h);
      const double part = share[i] * (there ? (1 - std::fabs(x - column)) * (1 - std::fabs(y - line)) : 0.0);
      const int64_t cell =
          p.level[l].start + (there ? static_cast<int64_t>(line) * w + static_cast<int64_t>(column) : 0);
      for (size_t d = 0; d < out.size(); ++d)
        out[d] += part == 0 ? 0
                            : part * value.get(((n * static_cast<size_t>(p.s) + static_cast<size_t>(cell)) *
                                                    static_cast<size_t>(p.m) +
                                                m) *
                                                   out.size() +
                                               d);
    }
  }
  return total;
}

struct Sizes {
  int64_t n, m, d, q, l, p;
  std::vector<int64_t> shapes, starts;
  int64_t s = 0;
};

Sizes random_sizes() {
  Sizes z{pick({1, 1, 2, 3}),
          pick({1, 2, 3, 5, 12, 17}),
          pick({1, 3, 5, 8, 12, 16, 24, 32, 40, 48, 63, 64, 72, 128, 150}),
          pick({0, 1, 2, 7, 16, 33}),
          pick({1, 1, 2, 3, 4, 5}),
          pick({1, 2, 3, 4, 8}),
          {},
          {}};
  for (int64_t l = 0; l < z.l; ++l) {
    const int64_t h = pick({1, 1, 2, 3, 7}), w = pick({1, 2, 5, 8});
    z.shapes.insert(z.shapes.end(), {h, w});
    z.starts.push_back(z.s);
    z.s += h * w;
  }
  return z;
}

// One random problem through every code path, in one range and in several.
void run_one(double hostile) {
  const Sizes z = random_sizes();
  const bool fused = random_bits() % 2;
  const msda_type type = static_cast<msda_type>(random_bits() % 3);
  const msda_type other = random_bits() % 2 ? type : MSDA_FLOAT32;
  Tensor value(type, {z.n, z.s, z.m, z.d});
  value.fill(1, 0);
  Tensor samples(other, {z.n, z.q, z.m, 3 * z.l * z.p}), locations(other, {z.n, z.q, z.m, z.l, z.p, 2});
  Tensor weights(type, {z.n, z.q, z.m, z.l, z.p});
  Tensor points(MSDA_FLOAT32, {random_bits() % 2 ? 1 : z.n, z.q, random_bits() % 2 ? 1 : z.l, 2});
  samples.fill(2, hostile);
  locations.fill(0.7f, hostile);
  weights.fill(1, 0);
  points.fill(0.6f, hostile / 4);
  const std::vector<int64_t> shape_dims{z.l, 2}, start_dims{z.l};
  const msda_tensor v = value.view(), s = samples.view(), lo = locations.view(), w = weights.view(), r = points.view();
  const msda_tensor shapes{z.shapes.data(), shape_dims.data(), 2, MSDA_INT64};
  const msda_tensor starts{z.starts.data(), start_dims.data(), 1, MSDA_INT64};
  msda_problem problem;
  char message[MSDA_MESSAGE_SIZE];
  const int refused = fused ? msda_describe_fused(&v, &shapes, &r, &s, &problem, message)
                            : msda_describe_standard(&v, &shapes, &starts, &lo, &w, &problem, message);
  if (refused || msda_set_levels(&problem, z.shapes.data(), fused ? nullptr : z.starts.data(), message)) fail(message);

  for (const char* isa : {"sse2", "portable", "avx2", "avx512"}) {
    const msda_cpu* cpu = msda_cpu_select(isa, message);
    if (!cpu) continue;  // not of this processor
    Tensor whole(type, {z.n, z.q, z.m * z.d}), parts(type, {z.n, z.q, z.m * z.d});
    problem.output = whole.bytes.get();
    cpu->run(&problem, 0, z.n * z.q);
    problem.output = parts.bytes.get();
    for (int64_t first = 0; first < z.n * z.q;) {
      const int64_t last = std::min(first + pick({1, 2, 5}), z.n * z.q);
      cpu->run(&problem, first, last);
      first = last;
    }
    if (whole.count && std::memcmp(whole.bytes.get(), parts.bytes.get(), whole.count * whole.width()))
      fail(std::string(isa) + ": ranges of queries change the result");
    const double rounding = type == MSDA_FLOAT32 ? 1e-6 : type == MSDA_FLOAT16 ? 0x1p-11 : 0x1p-8;
    std::vector<double> truth;
    for (size_t row = 0; row * static_cast<size_t>(z.d) < whole.count; ++row) {
      const double total =
          reference(problem, value, fused ? samples : locations, fused ? samples : weights,
                    fused ? static_cast<size_t>(2 * z.l * z.p) : 0, fused ? &points : nullptr, row, truth);
      for (size_t d = 0; d < truth.size(); ++d) {
        const double got = whole.get(row * truth.size() + d);
        const bool same = std::isnan(truth[d])
                              ? std::isnan(got)
                              : std::fabs(got - truth[d]) <= 2e-5 * total + rounding * std::fabs(truth[d]) + 1e-7;
        if (!same)
          fail(std::string(isa) + ": row " + std::to_string(row) + " channel " + std::to_string(d) + " is " +
               std::to_string(got) + ", not " + std::to_string(truth[d]));
      }
    }
  }
}

// Malformed sizes: nothing is read, and what is accepted adds up.
void check_one(int& refused) {
  const auto size = [] {
    return pick({-1, 0, 1, 1, 2, 2, 3, 12, 24, 1 << 20, INT64_C(1) << 31, INT64_C(1) << 40, INT64_C(1) << 62, INT64_MAX,
                 INT64_MIN});
  };
  const auto malformed = [&](size_t rank) {
    std::vector<int64_t> dims(random_bits() % 8 ? rank : random_bits() % 9);
    for (int64_t& d : dims) d = size();
    return dims;
  };
  const auto type = [] { return static_cast<msda_type>(random_bits() % 8 ? random_bits() % 3 : random_bits() % 6); };
  const bool fused = random_bits() % 2;
  std::vector<int64_t> dims[] = {malformed(4), malformed(2), malformed(fused ? 4 : 1), malformed(fused ? 4 : 6),
                                 malformed(5)};
  if (random_bits() % 2) {  // nearly right, so that the later checks are reached
    const int64_t n = size(), q = size(), m = size(), l = pick({0, 1, 2, 3, 16, 17}), p = size();
    dims[0] = {n, size(), m, size()};
    dims[1] = {l, 2};
    if (fused) dims[2] = {pick({1, n}), q, pick({1, l}), 2}, dims[3] = {n, q, m, pick({12, 24, 36, 3 << 20})};
    if (!fused) dims[2] = {l}, dims[3] = {n, q, m, l, p, 2}, dims[4] = {n, q, m, l, p};
    auto& spoilt = dims[random_bits() % 5];
    if (random_bits() % 2 && !spoilt.empty()) spoilt[random_bits() % spoilt.size()] = size();
  }
  msda_tensor t[5];
  for (int i = 0; i < 5; ++i) t[i] = {nullptr, dims[i].data(), dims[i].size(), type()};
  t[1].type = MSDA_INT64;
  t[2].type = fused ? MSDA_FLOAT32 : MSDA_INT64;
  msda_problem p;
  char message[MSDA_MESSAGE_SIZE];
  std::memset(message, 'x', sizeof message);
  if (fused ? msda_describe_fused(&t[0], &t[1], &t[2], &t[3], &p, message)
            : msda_describe_standard(&t[0], &t[1], &t[2], &t[3], &t[4], &p, message)) {
    ++refused;
    if (!std::memchr(message, 0, sizeof message) || !*message) fail("a refusal without a message");
    return;
  }
  if (p.n < 0 || p.q < 0 || p.m < 1 || p.d < 1 || p.l < 1 || p.l > MSDA_MAX_LEVELS || p.p < 1 ||
      p.l * p.p > MSDA_MAX_POINTS)
    fail("sizes that cannot be were accepted");
  std::vector<int64_t> shapes, starts;
  for (int64_t l = 0; l < p.l; ++l) {
    shapes.insert(shapes.end(), {size(), size()});
    starts.push_back(size());
  }
  if (msda_set_levels(&p, shapes.data(), fused ? nullptr : starts.data(), message)) return;
  for (int64_t l = 0; l < p.l; ++l)
    if (p.level[l].start < 0 || p.level[l].start + static_cast<int64_t>(p.level[l].height) * p.level[l].width > p.s)
      fail("a level outside value was accepted");
}

// Level sizes and starts that are right but for one number: what is accepted lies inside value and fills it.
void check_levels() {
  Sizes z = random_sizes();
  if (random_bits() % 4) {
    auto& spoilt = random_bits() % 2 ? z.starts : z.shapes;
    spoilt[random_bits() % spoilt.size()] += pick({-2, -1, 1, 2, 7, INT64_C(1) << 32, INT64_C(1) << 61});
  }
  msda_problem p{};
  p.l = z.l;
  p.s = z.s;
  const bool listed = random_bits() % 2;
  char message[MSDA_MESSAGE_SIZE];
  if (msda_set_levels(&p, z.shapes.data(), listed ? z.starts.data() : nullptr, message)) return;
  int64_t total = 0;
  for (int64_t l = 0; l < p.l; ++l) {
    const int64_t cells = static_cast<int64_t>(p.level[l].height) * p.level[l].width;
    if (p.level[l].height < 1 || p.level[l].width < 1) fail("a level without cells was accepted");
    if (p.level[l].start < 0 || p.level[l].start + cells > p.s) fail("a level outside value was accepted");
    total += cells;
  }
  if (total != p.s) fail("levels that do not fill value were accepted");
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 200;
  for (int i = 0; i < rounds; ++i) run_one(i % 2 ? 0.2 : 0.0);
  int refused = 0;
  for (int i = 0; i < 500 * rounds; ++i) {
    check_one(refused);
    check_levels();
  }
  std::printf("%d problems on every code path, %d malformed calls, %d refused\n", rounds, 500 * rounds, refused);
}
