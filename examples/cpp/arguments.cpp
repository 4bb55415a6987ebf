// The command line of the example.
#include "arguments.h"

#include <cstdlib>

#include "failure.h"

namespace segment {

const char* const kUsage =
    "usage: segment PLAN PICTURE [--plugin LIB] [--trust-plan-code] [--runs N] [--mean R G B] [--std R G B] [--bgr]\n"
    "  PICTURE  binary PPM (P6) of the plan's size, or *.bin with the whole input tensor as raw float32\n";

namespace {

float number(const std::string& option, const std::string& word) {
  char* end = nullptr;
  const float value = std::strtof(word.c_str(), &end);
  if (word.empty() || *end != '\0') throw Failure(option + " " + word + " is not a number");
  return value;
}

}  // namespace

Arguments parse(int count, char** words) {
  Arguments result;
  int place = 0;
  const auto next = [&](int& at, const std::string& option) -> std::string {
    if (at + 1 >= count) throw Failure(option + " needs a value; see --help");
    return words[++at];
  };
  for (int at = 1; at < count; ++at) {
    const std::string word = words[at];
    if (word == "--plugin") {
      result.plugin = next(at, word);
    } else if (word == "--trust-plan-code") {
      result.trusted = true;
    } else if (word == "--bgr") {
      result.bgr = true;
    } else if (word == "--runs") {
      result.runs = static_cast<int>(number(word, next(at, word)));
      if (result.runs < 1) throw Failure("--runs needs at least 1");
    } else if (word == "--mean" || word == "--std") {
      for (float& value : word == "--mean" ? result.mean : result.deviation) value = number(word, next(at, word));
    } else if (word.rfind("--", 0) == 0) {
      throw Failure("there is no option " + word + "; see --help");
    } else if (place < 2) {
      (place++ == 0 ? result.plan : result.picture) = word;
    } else {
      throw Failure("one plan and one picture are taken, but there is also " + word);
    }
  }
  if (place < 2) throw Failure("name a plan and a picture; see --help");
  for (const float value : result.deviation) {
    if (!(value > 0)) throw Failure("--std needs numbers above 0");
  }
  return result;
}

}  // namespace segment
