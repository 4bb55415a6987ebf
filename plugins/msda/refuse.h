// How a refusal is written: one sentence into the caller's message, and -1.
#pragma once

#include <cstdarg>
#include <cstdio>

#include "msda.h"

namespace msda {

__attribute__((format(printf, 2, 3))) inline int refuse(char* message, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, MSDA_MESSAGE_SIZE, format, arguments);
  va_end(arguments);
  return -1;
}

}  // namespace msda
