// Reads a picture as the network's input.
#include "picture.h"

#include <fstream>

#include "failure.h"

namespace segment {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 28;

bool is_raw(const std::string& path) { return path.size() > 4 && path.compare(path.size() - 4, 4, ".bin") == 0; }

std::ifstream opened(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("cannot read " + path + "; is it there?");
  return file;
}

// One number of a PPM's header; comments begin with '#' and end with the line.
int64_t header_number(std::ifstream& file, const std::string& path) {
  while (file >> std::ws && file.peek() == '#') file.ignore(1 << 20, '\n');
  int64_t value = 0;
  if (!(file >> value) || value < 1 || value > kMostPixels) throw Failure(path + " has a damaged PPM header");
  return value;
}

Size header(std::ifstream& file, const std::string& path) {
  char magic[2] = {};
  file.read(magic, 2);
  if (magic[0] != 'P' || magic[1] != '6') {
    throw Failure(path + " is not a binary PPM (P6); convert it, e.g. `convert picture.jpg picture.ppm`");
  }
  Size size;
  size.width = header_number(file, path);
  size.height = header_number(file, path);
  if (header_number(file, path) != 255) throw Failure(path + " has not 255 levels; convert it to 8 bits a channel");
  if (size.width > kMostPixels / size.height) throw Failure(path + " has too many pixels");
  file.get();  // the one white space before the pixels
  return size;
}

void read_all(std::ifstream& file, void* into, int64_t count, const std::string& path) {
  file.read(static_cast<char*>(into), count);
  if (file.gcount() != count) throw Failure(path + " ends too early: " + std::to_string(count) + " bytes are needed");
}

}  // namespace

Size size_of(const std::string& path) {
  std::ifstream file = opened(path);
  return is_raw(path) ? Size{} : header(file, path);
}

std::vector<float> read_input(const Arguments& arguments, int64_t height, int64_t width) {
  const std::string& path = arguments.picture;
  const int64_t pixels = height * width;
  std::ifstream file = opened(path);
  std::vector<float> tensor(3 * pixels);
  if (is_raw(path)) {
    read_all(file, tensor.data(), 3 * pixels * static_cast<int64_t>(sizeof(float)), path);
    return tensor;
  }
  const Size size = header(file, path);
  if (size.height != height || size.width != width) {
    throw Failure(path + " is " + std::to_string(size.height) + "x" + std::to_string(size.width) +
                  ", but the plan takes " + std::to_string(height) + "x" + std::to_string(width) + "; resize it");
  }
  std::vector<unsigned char> bytes(3 * pixels);
  read_all(file, bytes.data(), 3 * pixels, path);
  for (int plane = 0; plane < 3; ++plane) {
    const int channel = arguments.bgr ? 2 - plane : plane;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const float value = bytes[3 * pixel + channel];
      tensor[plane * pixels + pixel] = (value - arguments.mean[plane]) / arguments.deviation[plane];
    }
  }
  return tensor;
}

}  // namespace segment
