// The doors of the plain library, which TensorRT opens itself: loadLibrary, --dynamicPlugins, setPluginsToSerialize.
#include "creators.h"
#include "messages.h"

#define ADAPTER_EXPORT extern "C" __attribute__((visibility("default")))

ADAPTER_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { adapter::use_logger_finder(finder); }

ADAPTER_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  return adapter::creators(count);
}
