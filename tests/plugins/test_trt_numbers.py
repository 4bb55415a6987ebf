"""The TensorRT plugin hands the kernel what TensorRT gave it, and refuses sizes that do not fit, under sanitizers.

Data goes through configurePlugin, onShapeChange and enqueue of the C++ host, with the CPU kernel at their end.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

import msda_cases
import trt_face

FUSED, STANDARD = "MSDeformAttn", "MultiScaleDeformableAttention"
TYPES = [("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")]
CODES = {"float32": 0, "float16": 1, "int32": 3, "uint16": 7, "int64": 8}  # bf16 travels as its bits


@dataclass
class Answer:
    configured: int
    said_configuring: str
    changed: int
    said_changing: str
    done: int
    said: str
    output: np.ndarray

    @property
    def refused(self) -> bool:
        return bool(self.configured and self.changed and self.done)


def ask(major: int, problems: list[tuple[str, dict[str, np.ndarray], tuple[int, ...]]]) -> list[Answer]:
    """Runs (op, inputs by name, shape of the output) through the host of a TensorRT major."""
    program = trt_face.program("host", major)
    stream = bytearray()
    for op, inputs, shape in problems:
        stream += f"{op}\n".encode()
        output = np.full(shape, 0x2A, inputs["value"].dtype)
        for array in [*inputs.values(), output]:
            head = [CODES[array.dtype.name], array.ndim, *array.shape, array.nbytes]
            stream += " ".join(map(str, head)).encode() + b"\n" + np.ascontiguousarray(array).tobytes()
    done = subprocess.run([str(program), "run"], input=bytes(stream), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:].decode()
    answers, rest = [], done.stdout
    for _, inputs, shape in problems:
        *head, rest = rest.split(b"\n", 7)
        configured, first, changed, second, code, said, size = (text.decode() for text in head)
        output = np.frombuffer(rest[: int(size)], inputs["value"].dtype).reshape(shape)
        answers.append(Answer(int(configured), first, int(changed), second, int(code), said, output))
        rest = rest[int(size) :]
    assert rest == b""
    return answers


def output_shape(inputs: dict[str, np.ndarray]) -> tuple[int, int, int]:
    n, _, m, d = inputs["value"].shape
    return n, inputs.get("samples", inputs.get("sampling_locations")).shape[1], m * d


def with_index(inputs: dict[str, np.ndarray], dtype: type) -> dict[str, np.ndarray]:
    whole = {"spatial_shapes", "level_start_index"}
    return {name: array.astype(dtype) if name in whole else array for name, array in inputs.items()}


@pytest.mark.parametrize("major", trt_face.MAJORS)
@pytest.mark.parametrize("op", [FUSED, STANDARD])
def test_enqueue_gives_exact_arithmetic_over_the_table(major, op):
    """Every type of value and samples, int32 and int64 level sizes in turn."""
    problems, checks = [], []
    for number, (dtype, samples) in enumerate(TYPES):
        for position, case in enumerate(msda_cases.CASES):
            inputs = case.inputs(dtype, samples) if op == FUSED else case.standard_inputs(dtype, samples)
            inputs = with_index(inputs, np.int32 if (number + position) % 2 else np.int64)
            truth = (msda_cases.expected if op == FUSED else msda_cases.expected_standard)(case, dtype, samples)
            problems.append((op, inputs, output_shape(inputs)))
            checks.append((case, dtype, samples, truth))
    for (case, dtype, samples, truth), answer, (_, inputs, _) in zip(
        checks, ask(major, problems), problems, strict=True
    ):
        where = f"{case.name} {dtype} {samples}"
        assert (answer.configured, answer.changed, answer.done, answer.said) == (0, 0, 0, ""), where
        got = msda_cases.decode(answer.output)
        assert np.array_equal(np.isnan(got), np.isnan(truth)), where
        largest = np.abs(msda_cases.decode(inputs["value"])).max(initial=1.0)
        assert np.nanmax(np.abs(got - truth), initial=0.0) <= msda_cases.TOLERANCE[dtype] * largest, where


CASE = msda_cases.Case("refused", n=2, q=5, m=3, d=8, p=4)  # S=44, L=3


def zeros(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


REFUSED = [
    # op, the input that is spoilt, with what, and what the message must say
    (FUSED, "value", zeros(2, 44, 24), ["value has shape 2x44x24", "(N, S, M, D)"]),
    (FUSED, "value", zeros(1, 44, 3, 8), ["samples has shape 2x5x3x36", "N=1"]),
    (FUSED, "value", zeros(2, 44, 3, 0), ["D=0", "at least 1"]),
    (FUSED, "value", zeros(2, 44, 3, 8, dtype=np.int32), ["value is int32"]),
    (FUSED, "spatial_shapes", zeros(3, 2), ["spatial_shapes is fp32", "int32 or int64"]),
    (FUSED, "spatial_shapes", zeros(17, 2, dtype=np.int32), ["L=17", "1 to 16"]),
    (FUSED, "spatial_shapes", zeros(6, dtype=np.int64), ["spatial_shapes has shape 6", "(L, 2)"]),
    (FUSED, "reference_points", zeros(2, 5, 1, 2, dtype=np.float16), ["reference_points is fp16", "fp32"]),
    (FUSED, "reference_points", zeros(3, 5, 1, 2), ["reference_points has shape 3x5x1x2", "N=2"]),
    (FUSED, "samples", zeros(2, 5, 3, 35), ["last dimension 35", "3*L = 9"]),
    (FUSED, "samples", zeros(2, 5, 3, 36, dtype=np.float16), ["samples is fp16 and value is fp32"]),
    (FUSED, "samples", zeros(2, 5, 3, 36, 1, 1, 1, 1), ["samples has shape 2x5x3x36x1x1x1x1, 8 dimensions"]),
    (STANDARD, "level_start_index", zeros(2, dtype=np.int64), ["2 entries", "L=3"]),
    (
        STANDARD,
        "level_start_index",
        zeros(3, dtype=np.int32),
        ["level_start_index is int32 and spatial_shapes is int64"],
    ),
    (STANDARD, "sampling_locations", zeros(2, 5, 3, 2, 4, 2), ["sampling_locations has shape 2x5x3x2x4x2", "L=3"]),
    (STANDARD, "attention_weights", zeros(2, 6, 3, 3, 4), ["attention_weights has shape 2x6x3x3x4", "must agree"]),
]


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_sizes_and_types_that_do_not_fit_are_refused_by_name_and_nothing_is_written(major):
    problems = []
    for op, name, spoilt, _ in REFUSED:
        inputs = CASE.inputs() if op == FUSED else CASE.standard_inputs()
        problems.append((op, inputs | {name: spoilt}, (2, 5, 24)))
    for (op, name, spoilt, says), answer in zip(REFUSED, ask(major, problems), strict=True):
        where = f"{op} {name} {spoilt.shape}"
        assert answer.refused, where
        for said in (answer.said_configuring, answer.said_changing, answer.said):
            assert said.startswith(f"E adapter_infer {op} 'a node': "), where
            assert all(text in said for text in says), f"{where}: {said}"
        assert (answer.output == 0x2A).all(), where


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_an_output_of_another_size_is_refused_before_the_kernel_writes_it(major):
    inputs = CASE.inputs()
    (answer,) = ask(major, [(FUSED, inputs, (2, 4, 24))])
    assert (answer.configured, answer.changed, answer.done) == (0, -1, -1)
    assert answer.said.endswith("output has room for 2x4x24 in 3 dimensions; the inputs make 2x5x24")
    assert (answer.output == 0x2A).all()


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_sizes_not_yet_known_are_left_to_the_run(major):
    """A size of -1 is one that TensorRT does not know while it builds."""
    inputs = CASE.inputs()
    program = trt_face.program("host", major)
    text = bytearray(f"{FUSED}\n".encode())
    for name, array in [*inputs.items(), ("output", np.zeros((2, 5, 24), np.float32))]:
        dims = [-1 if name == "value" and axis == 0 else size for axis, size in enumerate(array.shape)]
        head = [CODES[array.dtype.name], array.ndim, *dims, array.nbytes]
        text += " ".join(map(str, head)).encode() + b"\n" + array.tobytes()
    done = subprocess.run([str(program), "run"], input=bytes(text), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:].decode()
    configured, _, changed, said = done.stdout.split(b"\n")[:4]
    assert (int(configured), int(changed)) == (0, -1)
    assert b"a negative size" in said


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_level_start_index_reaches_the_kernel(major):
    """Levels stored in the other order than they are listed in."""
    case = msda_cases.Case("order", shapes=((6, 5), (3, 4)))
    inputs = case.standard_inputs()
    inputs["value"] = np.concatenate([inputs["value"][:, 30:], inputs["value"][:, :30]], 1)
    inputs["level_start_index"] = np.array([12, 0])
    (answer,) = ask(major, [(STANDARD, inputs, output_shape(inputs))])
    assert answer.done == 0
    np.testing.assert_allclose(answer.output, msda_cases.expected_standard(case), atol=1e-5)
