"""The torch face of the CUDA library: structures, types and pointers as C sees them, and when the reference steps in.

There is no GPU in these tests unless they say so: a stand-in library with the same C interface takes CPU tensors.
"""

from __future__ import annotations

import ctypes
import logging
import subprocess
from pathlib import Path

import pytest
import torch

import cuda_stand_in
import msda_cases
from adapter_infer import msda, msda_cuda
from adapter_infer.errors import EnvironmentMissing
from adapter_infer.msda_cuda import CDeviceLevels, CLevel, CProblem, CTensor, Kernels, Refused

TYPES = [("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")]
CASES = [msda_cases.Case(f"d{d}", d=d, n=2, q=7) for d in (12, 32)] + [
    msda_cases.Case("one_level", shapes=((5, 7),), q=9),
    msda_cases.Case("wide", offsets="wide", reference_batch=2, n=2, reference_levels=3),
    msda_cases.Case("nonfinite", offsets="nonfinite", q=20),
]
STREAM = 0x5EED


class StandIn(Kernels):
    """The stand-in, and what it saw of the last call."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.library = ctypes.CDLL(str(path))

    def seen(self, name: str) -> int | None:
        kind = ctypes.c_void_p if name == "stream" else ctypes.c_int
        return kind.in_dll(self.library, f"stand_in_{name}").value

    def answer(self, name: str, text: bytes) -> None:
        ctypes.c_char_p.in_dll(self.library, f"stand_in_{name}").value = text


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return cuda_stand_in.build(tmp_path_factory)


@pytest.fixture
def kernels(built):
    found = StandIn(built)
    yield found
    found.answer("error", b"")
    found.answer("unusable", b"")


def tensors(arrays) -> list[torch.Tensor]:
    """numpy arrays as tensors; uint16 stands for bf16."""
    made = [torch.from_numpy(array.copy()) for array in arrays.values() if array.dtype != "uint16"]
    if len(made) == len(arrays):
        return made
    return [
        torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
        if array.dtype == "uint16"
        else torch.from_numpy(array.copy())
        for array in arrays.values()
    ]


def worst(output: torch.Tensor, truth) -> float:
    """The largest difference; NaN must stand in the same places."""
    found, truth = output.double(), torch.from_numpy(truth)
    assert found.shape == truth.shape
    assert torch.equal(found.isnan(), truth.isnan())
    return max((found - truth).nan_to_num().abs().flatten().tolist(), default=0.0)


def test_the_structures_lie_as_the_c_compiler_lays_them(tmp_path):
    """Sizes, offsets, limits and type numbers, printed by a C program over the headers themselves."""
    structures = {"tensor": CTensor, "level": CLevel, "problem": CProblem, "device_levels": CDeviceLevels}
    lines, expected = [], []

    def ask(expression: str, value: int) -> None:
        lines.append(f'printf("%s %zu\\n", "{expression}", (size_t)({expression}));')
        expected.append(f"{expression} {value}")

    for name, structure in structures.items():
        ask(f"sizeof(msda_{name})", ctypes.sizeof(structure))
        for field in structure._fields_:
            member = getattr(structure, field[0])
            ask(f"offsetof(msda_{name}, {field[0]})", member.offset)
            ask(f"sizeof(((msda_{name}*)0)->{field[0]})", member.size)
    ask("MSDA_MAX_LEVELS", msda_cuda.MAX_LEVELS)
    ask("MSDA_MESSAGE_SIZE", msda_cuda.MESSAGE_SIZE)
    constants = {torch.float32: "FLOAT32", torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16"}
    for dtype, constant in (constants | {torch.int64: "INT64", torch.int32: "INT32"}).items():
        ask(f"MSDA_{constant}", msda_cuda.TYPES[dtype])
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    header = f'#include <stdio.h>\n#include "{cuda_stand_in.PLUGINS / "msda" / "msda_cuda.h"}"\n'
    source.write_text(header + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run([cuda_stand_in.compiler(), "-x", "c", str(source), "-o", str(program)], check=True)
    said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == expected


@pytest.mark.parametrize("on_device", [True, False], ids=["device levels", "host levels"])
@pytest.mark.parametrize(("dtype", "samples"), TYPES)
def test_both_operators_reach_the_kernel_unharmed(kernels, dtype, samples, on_device):
    for case in CASES:
        limit = 4 * msda_cases.TOLERANCE[dtype]
        inputs = tensors(case.inputs(dtype, samples))
        output = kernels.fused(*inputs, STREAM, on_device)
        assert output.dtype == inputs[0].dtype
        assert worst(output, msda_cases.expected(case, dtype, samples)) <= limit
        assert (kernels.seen("stream"), kernels.seen("device_levels")) == (STREAM, on_device)
        standard = kernels.standard(*tensors(case.standard_inputs(dtype, samples)), STREAM, on_device)
        assert worst(standard, msda_cases.expected_standard(case, dtype, samples)) <= limit


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16])
def test_level_sizes_may_be_any_integers(kernels, dtype, on_device):
    value, shapes, points, samples = tensors(CASES[0].inputs())
    output = kernels.fused(value, shapes.to(dtype), points, samples, 0, on_device)
    assert worst(output, msda_cases.expected(CASES[0])) < 1e-5
    if on_device:
        assert kernels.seen("level_type") == msda_cuda.TYPES[torch.int32 if dtype == torch.int32 else torch.int64]


def test_views_and_odd_addresses_are_read_right(kernels):
    """Transposed, strided and misaligned inputs give what their dense copies give."""
    inputs = tensors(CASES[1].inputs())
    truth = kernels.fused(*inputs, 0)
    value, shapes, points, samples = inputs
    transposed = value.transpose(1, 2).contiguous().transpose(1, 2)
    strided = torch.stack([samples, samples], -1)[..., 0]
    odd = torch.empty(value.numel() + 1)[1:].view(value.shape).copy_(value)
    assert not transposed.is_contiguous()
    assert odd.data_ptr() % 16 == 4
    columns = shapes.t().contiguous().t()
    assert torch.equal(kernels.fused(transposed, columns, points, strided, 0), truth)
    assert torch.equal(kernels.fused(odd, shapes, points, samples, 0), truth)
    assert not kernels.seen("misaligned")


def test_mixed_types_of_autocast_are_taken(kernels):
    """Half values with fp32 weights, fp32 values with half samples and points: the kernels' types, never garbage."""
    value, shapes, points, samples = tensors(CASES[0].inputs())
    truth = kernels.fused(value, shapes, points, samples.half(), 0)
    assert torch.equal(truth, kernels.fused(value, shapes, points, samples.half().float(), 0))
    halves = kernels.fused(value, shapes, points.half(), samples, 0)
    assert torch.equal(halves, kernels.fused(value, shapes, points.half().float(), samples, 0))
    value, shapes, starts, locations, weights = tensors(CASES[0].standard_inputs())
    output = kernels.standard(value.half(), shapes, starts, locations, weights, 0)
    assert output.dtype == torch.float16
    assert worst(output, msda_cases.expected_standard(CASES[0])) < 5e-3


def test_an_empty_batch_launches_nothing(kernels):
    value, shapes, points, samples = tensors(CASES[0].inputs())
    before = kernels.seen("calls")
    assert kernels.fused(value[:0], shapes, points, samples[:0], 0).shape == (0, 7, 36)
    assert kernels.seen("calls") == before


def test_level_sizes_that_do_not_fit_are_nan_on_the_device_and_refused_on_the_host(kernels):
    value, shapes, points, samples = tensors(CASES[0].inputs())
    assert kernels.fused(value, shapes + 1, points, samples, 0).isnan().all()
    with pytest.raises(Refused, match="spatial_shapes adds up to"):
        kernels.fused(value, shapes + 1, points, samples, 0, levels_on_device=False)


def test_what_the_library_says_is_what_python_raises(kernels):
    value, shapes, points, samples = tensors(CASES[0].inputs())
    with pytest.raises(Refused, match="samples has last dimension 35"):
        kernels.fused(value, shapes, points, samples[..., :-1], 0)
    with pytest.raises(Refused, match=r"value is torch\.float64"):
        kernels.fused(value.double(), shapes, points, samples, 0)
    kernels.answer("error", b"launch failed: out of something")
    with pytest.raises(Refused, match="launch failed: out of something"):
        kernels.fused(value, shapes, points, samples, 0)
    assert kernels.unusable() is None
    kernels.answer("unusable", b"no device")
    assert kernels.unusable() == "no device"


@pytest.fixture
def fresh(monkeypatch):
    """Nothing remembered of libraries, devices and log lines; CPU tensors may pass for CUDA ones."""
    remembered = (msda_cuda._kernels, msda_cuda._unusable, msda_cuda._say_once)
    for function in remembered:
        function.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for function in remembered:
        function.cache_clear()


class NoGuard:
    """In place of torch.cuda's device guard and stream."""

    cuda_stream = STREAM

    def __init__(self, *_: object) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_gpu_without_the_library_runs_the_reference_with_one_log_line(fresh, caplog):
    import adapter_plugins

    def missing(name: str) -> Path:
        raise EnvironmentMissing(f"lib{name}.so is not part of this installation: no nvcc")

    fresh.setattr(adapter_plugins, "library", missing)
    value, shapes, points, samples = tensors(CASES[0].inputs())
    with caplog.at_level(logging.WARNING, "adapter_infer"):
        for _ in range(3):
            assert msda_cuda.run("fused", value, [shapes], [points, samples]) is None
    (record,) = caplog.records
    assert record.name == "adapter_infer"
    assert "libmsda_cuda.so is not part of this installation: no nvcc" in record.getMessage()


def test_a_gpu_that_is_too_old_runs_the_reference_with_one_log_line(fresh, caplog, kernels):
    fresh.setattr(torch.cuda, "device", NoGuard)
    fresh.setattr(msda_cuda, "_kernels", lambda: kernels)
    kernels.answer("unusable", b"compute capability 7.5 is older than 8.0")
    with caplog.at_level(logging.WARNING, "adapter_infer"):
        for value in (torch.zeros(1), torch.zeros(2)):
            assert msda_cuda.run("fused", value, [], []) is None
    (record,) = caplog.records
    assert "compute capability 7.5" in record.getMessage()


def test_calls_go_to_the_current_stream_with_levels_where_they_lie(fresh, kernels):
    fresh.setattr(torch.cuda, "device", NoGuard)
    fresh.setattr(torch.cuda, "current_stream", NoGuard)
    fresh.setattr(msda_cuda, "_kernels", lambda: kernels)
    value, shapes, points, samples = tensors(CASES[0].inputs())
    output = msda_cuda.run("fused", value, [shapes], [points, samples])
    assert output is not None
    assert worst(output, msda_cases.expected(CASES[0])) < 1e-5
    assert (kernels.seen("stream"), kernels.seen("device_levels")) == (STREAM, 1)
    value, *rest = tensors(CASES[0].standard_inputs())
    output = msda_cuda.run("standard", value, rest[:2], rest[2:])
    assert output is not None
    assert worst(output, msda_cases.expected_standard(CASES[0])) < 1e-5


def test_inputs_on_several_devices_are_left_to_torch(fresh, caplog, kernels):
    """An address of another device would be read as one of this."""
    fresh.setattr(msda_cuda, "_unusable", lambda device: None)
    fresh.setattr(msda_cuda, "_kernels", lambda: kernels)
    value, shapes, points, samples = tensors(CASES[0].inputs())
    before = kernels.seen("calls")
    with caplog.at_level(logging.WARNING, "adapter_infer"):
        assert msda_cuda.run("fused", value, [shapes], [points, samples.to("meta")]) is None
    assert kernels.seen("calls") == before
    assert "other inputs are not" in caplog.text


def test_cpu_tensors_never_ask_for_the_library(fresh):
    def asked(*_: object) -> None:
        raise AssertionError("the CUDA library was asked for")

    fresh.setattr(msda_cuda, "run", asked)
    msda.ms_deform_attn(*tensors(CASES[0].inputs()))
    msda.multi_scale_deformable_attention(*tensors(CASES[0].standard_inputs()))


def test_without_a_driver_the_built_library_says_so(fresh):
    kernels = msda_cuda._kernels()
    if isinstance(kernels, str):
        pytest.skip(kernels)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    reason = kernels.unusable()
    assert reason is not None
    assert len(reason) > 10
    value, shapes, points, samples = tensors(CASES[0].inputs())
    with pytest.raises(Refused):  # a launch that failed is reported, not dropped
        kernels.fused(value, shapes, points, samples, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "samples"), TYPES)
def test_the_gpu_gives_the_numbers_of_exact_arithmetic(fresh, dtype, samples):
    reason = msda_cuda._unusable(torch.cuda.current_device())
    if reason is not None:
        pytest.skip(reason)
    for case in msda_cases.CASES:
        limit = (
            4
            * msda_cases.TOLERANCE[dtype]
            * max(1.0, abs(msda_cases.decode(case.inputs(dtype)["value"])).max(initial=0))
        )
        inputs = [tensor.cuda() for tensor in tensors(case.inputs(dtype, samples))]
        assert worst(msda.ms_deform_attn(*inputs).cpu(), msda_cases.expected(case, dtype, samples)) <= limit
        inputs = [tensor.cuda() for tensor in tensors(case.standard_inputs(dtype, samples))]
        output = msda.multi_scale_deformable_attention(*inputs).cpu()
        assert worst(output, msda_cases.expected_standard(case, dtype, samples)) <= limit


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_call_is_captured_in_a_cuda_graph(fresh):
    reason = msda_cuda._unusable(torch.cuda.current_device())
    if reason is not None:
        pytest.skip(reason)
    inputs = [tensor.cuda() for tensor in tensors(CASES[1].inputs())]
    msda.ms_deform_attn(*inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = msda.ms_deform_attn(*inputs)
    inputs[0].mul_(2)
    graph.replay()
    assert worst(output.cpu(), 2 * msda_cases.expected(CASES[1])) < 1e-4
