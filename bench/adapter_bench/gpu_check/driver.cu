// Runs the CUDA library from a program that does nothing else, for compute-sanitizer and ncu to watch.
//   driver small                                     many small calls: types, sizes, both ops, level sizes in every
//   place driver run TYPE M D P HxW[,HxW] HxW[,HxW] TIMES  one fused call, over levels and from grids of queries
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "msda_cuda.h"

namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "driver: %s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

void check(int status, const char* message) {
  if (status == 0) return;
  std::fprintf(stderr, "driver: %s\n", message);
  std::exit(1);
}

using Shapes = std::vector<std::pair<int64_t, int64_t>>;

int64_t cells(const Shapes& shapes) {
  int64_t sum = 0;
  for (const auto& [height, width] : shapes) sum += height * width;
  return sum;
}

size_t bytes_of(msda_type type) { return type == MSDA_INT64 ? 8 : type == MSDA_FLOAT32 || type == MSDA_INT32 ? 4 : 2; }

// Device memory of exactly the size that is used, so that the first byte beyond it is noticed.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes) check(cudaMalloc(&data_, bytes), "cudaMalloc");
  }
  Buffer(const std::vector<float>& numbers, msda_type type) : Buffer(numbers.size() * bytes_of(type)) {
    std::vector<unsigned char> packed(bytes_);
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (type == MSDA_FLOAT32) reinterpret_cast<float*>(packed.data())[i] = numbers[i];
      if (type == MSDA_FLOAT16) reinterpret_cast<__half*>(packed.data())[i] = __float2half(numbers[i]);
      if (type == MSDA_BFLOAT16) reinterpret_cast<__nv_bfloat16*>(packed.data())[i] = __float2bfloat16(numbers[i]);
      if (type == MSDA_INT64) reinterpret_cast<int64_t*>(packed.data())[i] = static_cast<int64_t>(numbers[i]);
      if (type == MSDA_INT32) reinterpret_cast<int32_t*>(packed.data())[i] = static_cast<int32_t>(numbers[i]);
    }
    if (bytes_) check(cudaMemcpy(data_, packed.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_) cudaFree(data_);
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

const Shapes kLevels = {{6, 5}, {3, 4}, {2, 1}}, kGrids = {{9, 7}};

struct Call {
  msda_type type = MSDA_FLOAT16;
  int64_t n = 1, m = 2, d = 32, p = 4;
  Shapes levels = kLevels, grids = kGrids;
  bool standard = false, hostile = false;
  msda_type on_device = MSDA_OTHER;  // integer type of level sizes on the device, or MSDA_OTHER: they lie on the host
  int times = 1;
};

std::vector<float> normal(std::mt19937& random, int64_t count, float spread) {
  std::normal_distribution<float> distribution(0.0f, spread);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& number : numbers) number = distribution(random);
  return numbers;
}

// Centres of the grids' cells: where a model puts its queries.
std::vector<float> centres(const Shapes& grids) {
  std::vector<float> points;
  for (const auto& [height, width] : grids) {
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        points.push_back((static_cast<float>(x) + 0.5f) / static_cast<float>(width));
        points.push_back((static_cast<float>(y) + 0.5f) / static_cast<float>(height));
      }
    }
  }
  return points;
}

void make_hostile(std::vector<float>& numbers) {
  const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -1e9f};
  for (size_t i = 0; i < numbers.size(); i += 3) numbers[i] = odd[i / 3 % 5];
}

void run(const Call& call) {
  std::mt19937 random(7);
  const int64_t l = static_cast<int64_t>(call.levels.size()), s = cells(call.levels), q = cells(call.grids);
  const int64_t rows = call.n * q * call.m, lp = l * call.p;
  std::vector<float> sizes, starts;
  std::vector<int64_t> host_sizes;
  int64_t start = 0;
  for (const auto& [height, width] : call.levels) {
    for (const int64_t side : {height, width}) {
      sizes.push_back(static_cast<float>(side));
      host_sizes.push_back(side);
    }
    starts.push_back(static_cast<float>(start));
    start += height * width;
  }
  std::vector<float> points = centres(call.grids), first, second;
  if (call.standard) {
    std::uniform_real_distribution<float> inside(-0.2f, 1.2f);
    first.resize(static_cast<size_t>(rows * lp * 2));
    for (float& number : first) number = inside(random);
    second.assign(static_cast<size_t>(rows * lp), 1.0f / static_cast<float>(lp));
  } else {
    first = normal(random, rows * 3 * lp, 2.0f);
  }
  if (call.hostile) make_hostile(first);

  const msda_type integer = call.on_device == MSDA_OTHER ? MSDA_INT64 : call.on_device;
  const Buffer value(normal(random, call.n * s * call.m * call.d, 1.0f), call.type), shapes(sizes, integer),
      begins(starts, integer), reference(points, MSDA_FLOAT32), samples(first, call.type), weights(second, call.type);
  const Buffer output(static_cast<size_t>(call.n * q * call.m * call.d) * bytes_of(call.type));

  const int64_t value_dims[] = {call.n, s, call.m, call.d}, shape_dims[] = {l, 2}, start_dims[] = {l};
  const int64_t point_dims[] = {1, q, 1, 2}, sample_dims[] = {call.n, q, call.m, 3 * lp};
  const int64_t location_dims[] = {call.n, q, call.m, l, call.p, 2}, weight_dims[] = {call.n, q, call.m, l, call.p};
  const msda_tensor value_in = {value.data(), value_dims, 4, call.type};
  const msda_tensor shapes_in = {shapes.data(), shape_dims, 2, integer};
  const msda_tensor starts_in = {begins.data(), start_dims, 1, integer};
  const msda_tensor points_in = {reference.data(), point_dims, 4, MSDA_FLOAT32};
  const msda_tensor samples_in = {samples.data(), sample_dims, 4, call.type};
  const msda_tensor locations_in = {samples.data(), location_dims, 6, call.type};
  const msda_tensor weights_in = {weights.data(), weight_dims, 5, call.type};

  char message[MSDA_MESSAGE_SIZE] = "";
  msda_problem problem = {};
  check(call.standard
            ? msda_describe_standard(&value_in, &shapes_in, &starts_in, &locations_in, &weights_in, &problem, message)
            : msda_describe_fused(&value_in, &shapes_in, &points_in, &samples_in, &problem, message),
        message);
  problem.output = output.data();
  const msda_device_levels on_device = {shapes.data(), begins.data(), integer};
  const bool host = call.on_device == MSDA_OTHER;
  if (host) check(msda_set_levels(&problem, host_sizes.data(), nullptr, message), message);
  for (int i = 0; i < call.times; ++i) {
    check(msda_cuda_run(&problem, host ? nullptr : &on_device, nullptr, message), message);
  }
  check(cudaDeviceSynchronize(), "msda_cuda_run");
  std::vector<unsigned char> back(output.bytes());
  if (!back.empty()) check(cudaMemcpy(back.data(), output.data(), back.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  for (size_t i = 0; !call.hostile && i < back.size() / bytes_of(call.type); ++i) {
    const float number = call.type == MSDA_FLOAT32 ? reinterpret_cast<const float*>(back.data())[i]
                         : call.type == MSDA_FLOAT16
                             ? __half2float(reinterpret_cast<const __half*>(back.data())[i])
                             : __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(back.data())[i]);
    if (!(std::fabs(number) < 100.0f)) {
      std::fprintf(stderr, "driver: output %zu is %g\n", i, static_cast<double>(number));
      std::exit(1);
    }
  }
}

int small() {
  const Shapes one = {{5, 7}}, four = {{8, 6}, {4, 3}, {2, 2}, {1, 1}};
  const Shapes square = {{16, 16}}, pyramid = {{16, 16}, {8, 8}, {4, 4}};
  int count = 0;
  const auto go = [&count](const Call& call) {
    run(call);
    ++count;
  };
  for (const msda_type type : {MSDA_FLOAT32, MSDA_FLOAT16, MSDA_BFLOAT16}) {
    for (const int64_t d : {12, 16, 24, 32, 64, 128}) {
      for (const Shapes& levels : {one, kLevels, four}) {
        Call call;
        call.type = type, call.d = d, call.levels = levels;
        go(call);
        call.standard = true;
        go(call);
      }
    }
    for (const bool standard : {false, true}) {
      for (const msda_type integer : {MSDA_INT32, MSDA_INT64}) {
        Call call;
        call.type = type, call.standard = standard, call.on_device = integer, call.n = 2;
        go(call);
      }
      Call call;
      call.type = type, call.standard = standard, call.hostile = true;
      go(call);
    }
    Call injector, extractor;
    injector.type = extractor.type = type;
    injector.levels = pyramid, injector.grids = square, injector.m = 3;
    extractor.levels = square, extractor.grids = pyramid, extractor.m = 3;
    go(injector);
    go(extractor);
  }
  std::printf("%d calls\n", count);
  return 0;
}

Shapes parse_shapes(const char* text) {
  Shapes shapes;
  for (char* rest = const_cast<char*>(text); *rest;) {
    const int64_t height = std::strtoll(rest, &rest, 10);
    if (*rest == 'x') ++rest;
    shapes.emplace_back(height, std::strtoll(rest, &rest, 10));
    if (*rest && *rest++ != ',') break;
  }
  return shapes;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && std::string(arguments[1]) == "small") return small();
  if (count != 9 || std::string(arguments[1]) != "run") {
    std::fprintf(stderr, "driver small | driver run fp16 12 32 4 64x64,32x32,16x16 32x32 3\n");
    return 2;
  }
  const std::string type = arguments[2];
  Call call;
  call.type = type == "fp32" ? MSDA_FLOAT32 : type == "bf16" ? MSDA_BFLOAT16 : MSDA_FLOAT16;
  call.m = std::atoi(arguments[3]), call.d = std::atoi(arguments[4]), call.p = std::atoi(arguments[5]);
  call.levels = parse_shapes(arguments[6]), call.grids = parse_shapes(arguments[7]);
  call.times = std::atoi(arguments[8]);
  run(call);
  return 0;
}
