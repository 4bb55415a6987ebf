"""GPU memory, streams and graphs with owners: what takes a resource of CUDA gives it back. Needs cuda-bindings."""

from adapter_engines.device.arrays import DeviceArray, adopt, is_device_array
from adapter_engines.device.cuda import CudaError, Device, DeviceInfo, unusable
from adapter_engines.device.graph import GraphExec
from adapter_engines.device.memory import DeviceBuffer, HostBuffer, copy_in, copy_out, copy_within
from adapter_engines.device.stream import Event, Stream

__all__ = [
    "CudaError",
    "Device",
    "DeviceArray",
    "DeviceBuffer",
    "DeviceInfo",
    "Event",
    "GraphExec",
    "HostBuffer",
    "Stream",
    "adopt",
    "copy_in",
    "copy_out",
    "copy_within",
    "is_device_array",
    "unusable",
]
