"""The ONNX Runtime face for NVIDIA GPUs: what it registers, where it wants its inputs, what reaches the kernel.

ONNX Runtime is made up, and so is the GPU (tests/cuda_stand_in.py), except where a test names the real ones.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import cuda_stand_in
import msda_cases
from adapter_infer.errors import EnvironmentMissing
from adapter_plugins import library
from fake_ort_api import FakeRuntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FUSED, STANDARD = "MSDeformAttn", "MultiScaleDeformableAttention"
FLOAT, INT64, HALF, BFLOAT = 1, 7, 10, 16
NUMBERS = {"fp32": FLOAT, "fp16": HALF, "bf16": BFLOAT}
TYPES = [("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")]
CASES = [msda_cases.Case(f"d{d}", d=d, n=2, q=37) for d in (12, 32)] + [msda_cases.Case("one", shapes=((5, 7),))]
STREAM = 0x5EED

# Python cannot raise through a callback from C: an assertion in the made-up runtime comes out as this warning.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> FakeRuntime:
    """A copy of its own: the library keeps the domain of the runtime that asked first."""
    folder = tmp_path_factory.mktemp("stand_in")
    return FakeRuntime(shutil.copy(cuda_stand_in.build(tmp_path_factory), folder / "stand_in.so"))


@pytest.fixture
def kernel(runtime):
    """Sets and asks what the stand-in for the kernels says and saw."""

    class Knobs:
        def answer(self, name: str, text: bytes) -> None:
            ctypes.c_char_p.in_dll(runtime.library, f"stand_in_{name}").value = text

        def seen(self, name: str) -> int | None:
            kind = ctypes.c_void_p if name == "stream" else ctypes.c_int
            return kind.in_dll(runtime.library, f"stand_in_{name}").value

    knobs = Knobs()
    runtime.stream = STREAM
    yield knobs
    knobs.answer("error", b"")
    knobs.answer("unusable", b"")
    runtime.stream_error = 0


def op(runtime, name, dtype="fp32", samples="fp32", provider=CUDA):
    at = {FUSED: 3, STANDARD: 3}[name]
    wanted = (name, provider, NUMBERS[dtype], NUMBERS[samples])
    (found,) = (each for each in runtime.ops if (each.name, each.provider, each.inputs[0], each.inputs[at]) == wanted)
    return found


def variants() -> set[tuple[object, ...]]:
    made = set()
    for dtype, samples in ((NUMBERS[a], NUMBERS[b]) for a, b in TYPES):
        made.add((FUSED, (dtype, INT64, FLOAT, samples), dtype))
        made.add((STANDARD, (dtype, INT64, INT64, samples, dtype), dtype))
    return made


def test_both_providers_offer_both_ops_in_every_type(runtime):
    assert runtime.domains == ["adapter_infer"]
    assert len(runtime.ops) == 20
    for provider in (CPU, CUDA):
        assert {
            (each.name, each.inputs, each.output) for each in runtime.ops if each.provider == provider
        } == variants()


def test_level_sizes_are_wanted_on_the_host_and_the_rest_on_the_gpu(runtime):
    host = -2
    for each in runtime.ops:
        expected = tuple(host if kind == INT64 and each.provider == CUDA else 0 for kind in each.inputs)
        assert each.memory == expected


@pytest.mark.parametrize("provider", [CPU, CUDA])
@pytest.mark.parametrize(("dtype", "samples"), TYPES)
def test_tensors_reach_the_kernel_unharmed(runtime, kernel, dtype, samples, provider):
    before = kernel.seen("calls")
    for case in CASES:
        calls = (
            (FUSED, case.inputs(dtype, samples), msda_cases.expected(case, dtype, samples)),
            (STANDARD, case.standard_inputs(dtype, samples), msda_cases.expected_standard(case, dtype, samples)),
        )
        for name, inputs, truth in calls:
            output, refused = runtime.run(op(runtime, name, dtype, samples, provider), list(inputs.values()))
            assert refused is None
            assert output.shape == truth.shape
            assert np.abs(msda_cases.decode(output) - truth).max() <= 4 * msda_cases.TOLERANCE[dtype]
    assert kernel.seen("calls") - before == (2 * len(CASES) if provider == CUDA else 0)
    assert runtime.open_records == 0


def test_the_kernel_runs_on_the_stream_of_the_session_with_sizes_of_the_host(runtime, kernel):
    runtime.run(op(runtime, FUSED), list(CASES[0].inputs().values()))
    assert (kernel.seen("stream"), kernel.seen("device_levels")) == (STREAM, 0)


@pytest.mark.parametrize("name", [FUSED, STANDARD])
def test_level_sizes_that_do_not_fit_are_refused_before_any_launch(runtime, kernel, name):
    inputs = CASES[0].inputs() if name == FUSED else CASES[0].standard_inputs()
    inputs["spatial_shapes"] = inputs["spatial_shapes"] + 1
    before = kernel.seen("calls")
    _, (_, sentence) = runtime.run(op(runtime, name), list(inputs.values()))
    assert sentence.startswith(f"{name}: spatial_shapes adds up to")
    assert kernel.seen("calls") == before
    assert runtime.open_records == 0


def test_a_launch_that_fails_is_a_status_with_the_kernels_sentence(runtime, kernel):
    kernel.answer("error", b"the launch failed: invalid device function")
    output, status = runtime.run(op(runtime, STANDARD), list(CASES[0].standard_inputs().values()))
    assert output is None
    assert status == (1, f"{STANDARD}: the launch failed: invalid device function")


def test_a_gpu_that_cannot_run_it_is_found_while_the_session_is_made(runtime, kernel):
    kernel.answer("unusable", b"compute capability 7.5 is older than 8.0")
    assert runtime.create(op(runtime, FUSED)) == (None, f"{FUSED}: compute capability 7.5 is older than 8.0")
    made, reason = runtime.create(op(runtime, FUSED, provider=CPU))  # the CPU does not care
    assert reason is None
    assert made


def test_a_context_without_a_stream_is_an_error_and_not_the_default_stream(runtime, kernel):
    before = kernel.seen("calls")
    runtime.stream_error = runtime.CreateStatus(1, b"no stream")
    assert runtime.run(op(runtime, FUSED), list(CASES[0].inputs().values())) == (None, (1, "no stream"))
    assert kernel.seen("calls") == before


def test_no_query_launches_nothing(runtime, kernel):
    case = msda_cases.Case("no_query", q=0)
    before = kernel.seen("calls")
    output, refused = runtime.run(op(runtime, FUSED), list(case.inputs().values()))
    assert refused is None
    assert output.shape == (1, 0, case.m * case.d)
    assert kernel.seen("calls") == before


# --- the real onnxruntime, which has no GPU here ---


def session(path, dtype=FLOAT, samples=None, name=FUSED, provider=CPU) -> onnxruntime.InferenceSession:
    """One node `name`, with values of one type and samples or locations of another (None: the same)."""
    other = samples or dtype
    inputs = {
        FUSED: {"value": dtype, "spatial_shapes": INT64, "reference_points": FLOAT, "samples": other},
        STANDARD: {
            "value": dtype,
            "spatial_shapes": INT64,
            "level_start_index": INT64,
            "sampling_locations": other,
            "attention_weights": dtype,
        },
    }[name]
    ins = [helper.make_tensor_value_info(each, kind, None) for each, kind in inputs.items()]
    node = helper.make_node(name, list(inputs), ["output"], domain="adapter_infer")
    graph = helper.make_graph([node], "op", ins, [helper.make_tensor_value_info("output", dtype, None)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("adapter_infer", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for each in path if isinstance(path, list) else [path]:
        options.register_custom_ops_library(str(each))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])


def assert_runs_on_the_cpu(path) -> None:
    case = msda_cases.Case("threads", n=2, q=37, d=32)
    for dtype in ("fp32", "fp16"):
        (output,) = session(path, NUMBERS[dtype]).run(None, case.inputs(dtype, dtype))
        assert np.abs(output - msda_cases.expected(case, dtype, dtype)).max() <= 4 * msda_cases.TOLERANCE[dtype]


def test_a_node_left_to_the_cpu_runs_there_from_the_same_library(tmp_path_factory):
    assert_runs_on_the_cpu(cuda_stand_in.build(tmp_path_factory))


def test_onnxruntime_takes_the_domain_from_one_library_only(tmp_path_factory):
    """Why the CUDA library holds the CPU ops too: the two libraries cannot stand side by side."""
    with pytest.raises(Exception, match="Domain already set"):
        session([cuda_stand_in.build(tmp_path_factory), library("msda_ort_cpu")])


@pytest.fixture
def real():
    try:
        return library("msda_ort_cuda")
    except EnvironmentMissing as error:
        pytest.skip(str(error))


def test_the_built_library_runs_in_a_session_without_gpu(real):
    assert_runs_on_the_cpu(real)


def test_the_built_library_says_what_is_wrong_with_this_machine(real, tmp_path):
    runtime = FakeRuntime(shutil.copy(real, tmp_path / "copy.so"))
    assert len(runtime.ops) == 20
    made, reason = runtime.create(op(runtime, FUSED))
    if made:
        pytest.skip("this machine has a GPU")
    assert reason.startswith(f"{FUSED}: ")
    assert len(reason) > len(FUSED) + 12


@pytest.mark.parametrize(
    ("name", "doors"),
    [
        ("msda_ort_cuda", {"RegisterCustomOps", "adapter_msda_isa"}),
        (
            "msda_cuda",
            {
                *("msda_describe_fused", "msda_describe_standard", "msda_set_levels"),
                *("msda_cuda_run", "msda_cuda_architectures", "msda_cuda_usable"),
            },
        ),
    ],
)
def test_the_libraries_export_their_doors_and_need_no_cuda_installed(name, doors):
    """The runtimes of CUDA and C++ are linked in and kept in."""
    try:
        path = str(library(name))
    except EnvironmentMissing as error:
        pytest.skip(str(error))
    if not (shutil.which("nm") and shutil.which("readelf")):
        pytest.skip("needs nm and readelf")
    said = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in said.splitlines()} == doors
    said = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    needed = {line.partition("[")[2].rstrip("]") for line in said.splitlines() if "NEEDED" in line}
    assert {name.split(".")[0].split("-")[0] for name in needed} <= {
        "libc",
        "libm",
        "libdl",
        "librt",
        "libpthread",
        "ld",
    }


@pytest.mark.parametrize(("dtype", "samples"), [types for types in TYPES if "bf16" not in types])
@pytest.mark.parametrize("name", [FUSED, STANDARD])
def test_the_gpu_gives_the_numbers_of_exact_arithmetic(real, name, dtype, samples):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    run = session(real, NUMBERS[dtype], NUMBERS[samples], name, CUDA)
    if run.get_providers()[0] != CUDA:
        pytest.skip("onnxruntime-gpu found no GPU, or not the CUDA and cuDNN libraries it needs")
    for case in msda_cases.CASES:
        fused = name == FUSED
        inputs = case.inputs(dtype, samples) if fused else case.standard_inputs(dtype, samples)
        exact = msda_cases.expected if fused else msda_cases.expected_standard
        (output,) = run.run(None, inputs)
        truth = exact(case, dtype, samples)
        assert np.array_equal(np.isnan(output), np.isnan(truth)), case.name
        worst = np.nanmax(np.abs(output - truth), initial=0.0) / np.abs(inputs["value"]).max(initial=1.0)
        assert worst <= 4 * msda_cases.TOLERANCE[dtype], case.name
