"""The library's own declaration of ONNX Runtime's interface: what an older runtime is told, through a made-up one."""

from __future__ import annotations

import ctypes

from adapter_plugins import library


class Base(ctypes.Structure):
    """OrtApiBase: GetApi(version) and GetVersionString()."""

    GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    GET_VERSION = ctypes.CFUNCTYPE(ctypes.c_void_p)
    _fields_ = (("get_api", GET_API), ("get_version", GET_VERSION))


def test_a_runtime_that_is_too_old_is_told_so():
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    said: list[tuple[int, bytes]] = []

    @create_status
    def status(code: int, message: bytes) -> int:
        said.append((code, message))
        return 1234

    table = (ctypes.c_void_p * 1)(ctypes.cast(status, ctypes.c_void_p))
    asked: list[int] = []

    @Base.GET_API
    def get_api(version: int) -> int:
        asked.append(version)
        return ctypes.addressof(table) if version <= 16 else 0

    text = ctypes.create_string_buffer(b"1.16.3")
    version = Base.GET_VERSION(lambda: ctypes.addressof(text))
    register = ctypes.CDLL(str(library("msda_ort_cpu"))).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(Base(get_api, version))) == 1234
    assert asked == [17, 1]
    ((_, message),) = said
    assert b"1.16.3 is older than 1.17" in message
