// Segments one picture with a plan of adapter-engine and prints the classes found: the core of a C++ service.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>

#include "arguments.h"
#include "failure.h"
#include "model.h"
#include "picture.h"

namespace {

using segment::Result;

template <typename T>
T at(const Result& result, int64_t index) {
  T value;
  std::memcpy(&value, result.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

// Pixels by class, of logits (1, classes, height, width) or labels (1, height, width).
std::map<int64_t, int64_t> count(const Result& result) {
  std::map<int64_t, int64_t> pixels;
  if (result.type != nvinfer1::DataType::kFLOAT) {
    const bool wide = result.type == nvinfer1::DataType::kINT64;
    const int64_t total = static_cast<int64_t>(result.bytes.size()) / (wide ? 8 : 4);
    for (int64_t pixel = 0; pixel < total; ++pixel) {
      ++pixels[wide ? at<int64_t>(result, pixel) : at<int32_t>(result, pixel)];
    }
    return pixels;
  }
  if (result.shape.size() != 4) throw segment::Failure("the output is neither logits nor labels");
  const int64_t classes = result.shape[1], area = result.shape[2] * result.shape[3];
  for (int64_t pixel = 0; pixel < area; ++pixel) {
    int64_t best = 0;
    for (int64_t label = 1; label < classes; ++label) {
      if (at<float>(result, label * area + pixel) > at<float>(result, best * area + pixel)) best = label;
    }
    ++pixels[best];
  }
  return pixels;
}

void run(const segment::Arguments& arguments) {
  segment::Model model(arguments.plan, arguments.plugin, arguments.trusted);
  auto [height, width] = segment::size_of(arguments.picture);
  model.set_size(height, width);
  const Result result = model.run(segment::read_input(arguments, height, width));
  const std::map<int64_t, int64_t> pixels = count(result);
  int64_t total = 0;
  for (const auto& [label, number] : pixels) total += number;
  std::printf("%s, %lldx%lld\n", arguments.picture.c_str(), static_cast<long long>(height),
              static_cast<long long>(width));
  for (const auto& [label, number] : pixels) {
    std::printf("class %lld: %.2f %%\n", static_cast<long long>(label), 100.0 * number / total);
  }
  std::printf("GPU time of one run, median of %d: %.3f ms\n", arguments.runs, model.time(arguments.runs));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::cout << segment::kUsage;
    return 0;
  }
  try {
    run(segment::parse(argc, argv));
    return 0;
  } catch (const segment::Missing& error) {
    std::cerr << "segment: " << error.what() << '\n';
    return 5;
  } catch (const std::exception& error) {
    std::cerr << "segment: " << error.what() << '\n';
    return 1;
  }
}
