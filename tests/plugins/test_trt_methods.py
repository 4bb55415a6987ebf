"""The TensorRT plugin answers as TensorRT needs it to: types, layouts, shapes, clones and plans, under sanitizers.

A small C++ host (trt/host.cpp) asks as TensorRT does. Neither TensorRT nor a GPU is needed, only TensorRT's headers.
"""

from __future__ import annotations

import itertools
import subprocess

import pytest

import trt_face

FUSED, STANDARD = "MSDeformAttn", "MultiScaleDeformableAttention"
OPS = (FUSED, STANDARD)
NAMES = ["fp32", "fp16", "int8", "int32", "bool", "uint8", "fp8", "bf16", "int64", "int4", "fp4", "e8m0"]
CODES = {name: code for code, name in enumerate(NAMES)}
INPUTS = {
    FUSED: ["value", "spatial_shapes", "reference_points", "samples"],
    STANDARD: ["value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights"],
}


@pytest.fixture(params=trt_face.MAJORS)
def ask(request):
    """Runs the host of a TensorRT major; its output in lines."""
    program = trt_face.program("host", request.param)

    def run(*arguments: str) -> list[str]:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    return run


def combinations(op: str) -> set[tuple[str, ...]]:
    """Types of all inputs and the output that the op takes."""
    found = set()
    for value, index, fp32 in itertools.product(("fp32", "fp16", "bf16"), ("int32", "int64"), (False, True)):
        samples = "fp32" if fp32 else value
        found.add(
            (value, index, "fp32", samples, value) if op == FUSED else (value, index, index, samples, value, value)
        )
    return found


@pytest.mark.parametrize("op", OPS)
def test_exactly_these_types_are_taken_and_only_dense(ask, op):
    lines = ask("formats", op)
    taken = [
        tuple(NAMES[int(code)] for code in line.split()) for line in lines if line[0].isdigit() and "E" not in line
    ]
    assert len(taken) == 2 * 10  # asked twice
    assert set(taken) == combinations(op)
    assert not [line for line in lines if line.startswith("layout")]


@pytest.mark.parametrize("op", OPS)
def test_each_refusal_is_said_once_with_tensor_and_type_and_what_is_allowed(ask, op):
    lines = ask("formats", op)
    said = [line for line in lines if line.startswith(("W ", "V "))]
    assert len(said) == len(set(said))
    assert all(line[2:].startswith(f"adapter_infer {op} 'a node': ") for line in said)
    sentences = {line[0] + line.partition("': ")[2] for line in said}

    # value: every type but the three
    for name in set(NAMES) - {"fp32", "fp16", "bf16"}:
        assert f"Wvalue is {name}; it must be fp32, fp16 or bf16: cast it" in sentences
    for name in set(NAMES) - {"int32", "int64"}:
        assert f"Wspatial_shapes is {name}; it must be int32 or int64: cast it" in sentences
    positions = INPUTS[op][3]
    assert f"W{positions} is fp16; it must be fp32, as value is: cast it" in sentences
    assert f"W{positions} is bf16; it must be fp16, as value is, or fp32: cast it" in sentences
    assert "Woutput is fp32; it must be bf16, as value is: cast it" in sentences
    assert "Wvalue is of an unknown type; it must be fp32, fp16 or bf16: cast it" in sentences
    if op == FUSED:
        for name in set(NAMES) - {"fp32"}:
            assert f"Wreference_points is {name}; it must be fp32 whatever value is: cast it" in sentences
    else:
        assert "Wlevel_start_index is int64; it must be int32, as spatial_shapes is: cast one of them" in sentences
        assert "Wattention_weights is fp32; it must be fp16, as value is: cast it" in sentences
    # layouts are asked for in every build and mean no mistake: a quieter level
    for name in [*INPUTS[op], "output"]:
        assert f"V{name} is laid out as CHW32; only LINEAR (dense, row-major) is supported" in sentences

    assert "again 0" in lines
    assert "by a clone 0" in lines
    other = next(line for line in lines if line.startswith("by another node"))
    assert other.endswith(f"W adapter_infer {op} 'another node': value is int8; it must be fp32, fp16 or bf16: cast it")
    assert lines[-1].endswith(f"the node has 3 inputs and 1 outputs; it must have {len(INPUTS[op])} and 1")


@pytest.mark.parametrize("op", OPS)
def test_output_shape_is_said_in_the_sizes_of_the_inputs(ask, op):
    shape, counts, *refused, too_few, types = ask("shapes", op)
    assert shape == "0 N Q M*D"
    assert counts == "1 0"  # one output, no tactics of its own
    letters = {
        FUSED: ["(N, S, M, D)", "(L, 2)", "(1 or N, Q, 1 or L, 2)", "(N, Q, M, 3*L*P)"],
        STANDARD: ["(N, S, M, D)", "(L, 2)", "(L)", "(N, Q, M, L, P, 2)", "(N, Q, M, L, P)"],
    }[op]
    assert [line.partition("': ")[2] for line in refused] == [
        f"{name} has {text.count(',') + 2} dimensions; it must be {text}"
        for name, text in zip(INPUTS[op], letters, strict=True)
    ]
    assert all(line.startswith("-1 E ") for line in [*refused, too_few])
    assert types == f"0 {CODES['bf16']}"


@pytest.mark.parametrize("op", OPS)
def test_clones_and_plans_keep_what_a_node_is(ask, op):
    created, context, plan, loaded, *refused = ask("life", op)
    assert created == f"{op} 1 adapter_infer 0"
    assert context == f"{op} 1 adapter_infer 1"  # the last: what timings are cached under
    assert plan == "1 plan_version 1"
    assert loaded == op
    assert len(refused) == 6
    assert all(line.startswith(f"refused E adapter_infer {op}") for line in refused)
    for version, line in zip((0, -1, 2, 77), refused, strict=False):
        assert f"the plan carries version {version} of this plugin's data, and this library reads 1 to 1" in line


@pytest.mark.parametrize("op", OPS)
def test_an_error_of_the_kernel_is_logged_at_every_call_and_enqueue_allocates_nothing(ask, op):
    first, second, counts = ask("failing", op)
    text = "no kernel image is available for this device; build with its architecture"
    assert first == second == f"-1 E adapter_infer {op} 'a node': {text}"
    assert counts == "calls 2, allocations 0"
