// Reads a picture as the network's input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"

namespace segment {

// The input tensor (1, 3, height, width) float32: a PPM of that size, normalised, or the raw values of a .bin file.
// Throws Failure where the file is not that.
std::vector<float> read_input(const Arguments& arguments, int64_t height, int64_t width);

// (height, width) of a PPM; (0, 0) of a .bin file, which does not tell. Throws Failure where it cannot be read.
struct Size {
  int64_t height = 0, width = 0;
};
Size size_of(const std::string& path);

}  // namespace segment
