// The two creators of the library, one for each op.
#pragma once

#include <NvInferRuntime.h>

namespace adapter {

// They live as long as the library.
nvinfer1::IPluginCreatorInterface* const* creators(int32_t& count) noexcept;

}  // namespace adapter
