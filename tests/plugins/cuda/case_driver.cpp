// Runs the CUDA kernels on the CPU over cases from a file, in buffers of exactly their size, and compares.
//
// For AddressSanitizer and UndefinedBehaviorSanitizer, which end it at a read outside a tensor, a load off its
// alignment or an undefined conversion. The file is a row of cases: sixteen int64 (struct Header), the arrays in the
// order of main(), all dense. Prints how many cases it ran; the first difference ends it with 1.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "msda_cuda.h"

namespace {

struct Header {
  int64_t fused, value_type, sample_type, sizes_type, on_device, with_starts;
  int64_t n, s, m, d, q, l, p, reference_n, reference_l, order;
};

[[noreturn]] void fail(const char* what, size_t number) {
  std::fprintf(stderr, "FAILED: case %zu: %s\n", number, what);
  std::exit(1);
}

size_t width(int64_t type) { return type == MSDA_FLOAT32 || type == MSDA_INT32 ? 4 : type == MSDA_INT64 ? 8 : 2; }

// Ends with its last byte; begins on 16 bytes, as device memory does at the least.
struct Buffer {
  void* data = nullptr;
  size_t bytes;
  explicit Buffer(size_t size) : bytes(size) {
    if (posix_memalign(&data, 16, bytes ? bytes : 1)) std::abort();
  }
  Buffer(size_t size, FILE* from) : Buffer(size) {
    if (bytes && std::fread(data, 1, bytes, from) != bytes) std::abort();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
};

double number(const Buffer& buffer, int64_t type, size_t i) {
  if (type == MSDA_FLOAT32) return static_cast<const float*>(buffer.data)[i];
  if (type == MSDA_FLOAT16) return __half2float(static_cast<const __half*>(buffer.data)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(buffer.data)[i]);
}

}  // namespace

extern "C" void shim_set(int order, int processors);

int main(int, char** argv) {
  FILE* file = std::fopen(argv[1], "rb");
  if (!file) std::abort();
  Header h;
  size_t cases = 0;
  for (; std::fread(&h, sizeof h, 1, file) == 1; ++cases) {
    const auto count = [](std::initializer_list<int64_t> dims) {
      size_t product = 1;
      for (int64_t dim : dims) product *= static_cast<size_t>(dim);
      return product;
    };
    const int64_t lp = h.l * h.p;
    double tolerance;
    if (std::fread(&tolerance, sizeof tolerance, 1, file) != 1) std::abort();
    const Buffer value(count({h.n, h.s, h.m, h.d}) * width(h.value_type), file);
    const Buffer shapes(count({h.l, 2}) * width(h.sizes_type), file);
    const Buffer starts(h.with_starts ? count({h.l}) * width(h.sizes_type) : 0, file);
    const Buffer reference(h.fused ? count({h.reference_n, h.q, h.reference_l, 2}) * 4 : 0, file);
    const Buffer positions(count({h.n, h.q, h.m, lp, h.fused ? 3 : 2}) * width(h.sample_type), file);
    const Buffer weights(h.fused ? 0 : count({h.n, h.q, h.m, lp}) * width(h.value_type), file);
    const Buffer truth(count({h.n, h.q, h.m, h.d}) * 8, file);
    Buffer output(count({h.n, h.q, h.m, h.d}) * width(h.value_type));
    std::memset(output.data, 0xff, output.bytes);  // NaN in every type

    const int64_t dims[][6] = {{h.n, h.s, h.m, h.d},     {h.l, 2}, {h.reference_n, h.q, h.reference_l, 2},
                               {h.n, h.q, h.m, 3 * lp},  {h.l},    {h.n, h.q, h.m, h.l, h.p, 2},
                               {h.n, h.q, h.m, h.l, h.p}};
    const auto of = [](int64_t type) { return static_cast<msda_type>(type); };
    const msda_tensor t[] = {
        {value.data, dims[0], 4, of(h.value_type)},  {shapes.data, dims[1], 2, of(h.sizes_type)},
        {reference.data, dims[2], 4, MSDA_FLOAT32},  {positions.data, dims[3], 4, of(h.sample_type)},
        {starts.data, dims[4], 1, of(h.sizes_type)}, {positions.data, dims[5], 6, of(h.sample_type)},
        {weights.data, dims[6], 5, of(h.value_type)}};
    msda_problem problem;
    char message[MSDA_MESSAGE_SIZE];
    if (h.fused ? msda_describe_fused(&t[0], &t[1], &t[2], &t[3], &problem, message)
                : msda_describe_standard(&t[0], &t[1], &t[4], &t[5], &t[6], &problem, message))
      fail(message, cases);
    problem.output = output.data;
    const msda_device_levels levels{shapes.data, h.with_starts ? starts.data : nullptr, of(h.sizes_type)};
    if (!h.on_device && msda_set_levels(&problem, static_cast<const int64_t*>(shapes.data),
                                        h.with_starts ? static_cast<const int64_t*>(starts.data) : nullptr, message))
      fail(message, cases);
    shim_set(static_cast<int>(h.order), 4);
    if (msda_cuda_run(&problem, h.on_device ? &levels : nullptr, nullptr, message)) fail(message, cases);
    for (size_t i = 0; i < truth.bytes / 8; ++i) {
      const double want = static_cast<const double*>(truth.data)[i], got = number(output, h.value_type, i);
      if (std::isnan(want) ? !std::isnan(got) : !(std::fabs(got - want) <= tolerance)) {
        std::snprintf(message, sizeof message, "number %zu is %g, not %g", i, got, want);
        fail(message, cases);
      }
    }
  }
  std::fclose(file);
  std::printf("%zu cases\n", cases);
}
