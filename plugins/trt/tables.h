// Which TensorRT has the function tables of the headers this is built with. They differ between majors.
#pragma once

#include <NvInferRuntime.h>

namespace adapter {

// `version` as getInferLibVersion counts: 101401 is TensorRT 10.14.1, 10701 is TensorRT-RTX 1.7.1.
inline bool has_our_tables(int32_t version) {
  const int32_t major = version / 10000;
  // TensorRT-RTX counts on its own; 1.7 has the tables of TensorRT 11, earlier ones were not tried.
  return major == NV_TENSORRT_MAJOR || (NV_TENSORRT_MAJOR == 11 && major == 1 && version >= 10700);
}

}  // namespace adapter
