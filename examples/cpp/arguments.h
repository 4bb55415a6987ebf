// The command line of the example.
#pragma once

#include <array>
#include <string>

namespace segment {

struct Arguments {
  std::string plan;
  std::string picture;
  std::string plugin;                                     // empty: the plan embeds it, or needs none
  bool trusted = false;                                   // whether code in the plan may run
  bool bgr = false;                                       // the network's channel order
  int runs = 20;                                          // timed ones, after the first
  std::array<float, 3> mean{123.675f, 116.28f, 103.53f};  // of the network's channels: ImageNet's
  std::array<float, 3> deviation{58.395f, 57.12f, 57.375f};
};

// Throws Failure on a wrong one.
Arguments parse(int count, char** words);

extern const char* const kUsage;

}  // namespace segment
