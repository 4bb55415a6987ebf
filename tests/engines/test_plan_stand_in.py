"""The stand-ins for TensorRT and cuda-bindings have no name, argument or enum member that the real modules lack."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

import pytest

from adapter_engines import device
from adapter_engines.plans.toolkit import toolkit
from adapter_infer.errors import EnvironmentMissing
from engines import fake_cuda, fake_tensorrt

ROOM = Path(device.__file__).parents[1]
CODE = [*sorted(ROOM.glob("plan_*.py")), *sorted(Path(device.__file__).parent.glob("*.py"))]


@pytest.fixture
def bindings():
    return pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")


@pytest.fixture
def tensorrt():
    reasons = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:  # by the project's own way: other tests of this process build with it
            return toolkit(name).module
        except EnvironmentMissing as error:
            reasons.append(str(error))
    pytest.skip("; ".join(reasons))


def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]


def test_cuda_functions_take_as_many_arguments(bindings):
    pretended = fake_cuda.runtime(fake_cuda.World())
    functions = [name for name in public(pretended) if hasattr(getattr(pretended, name), "arguments")]
    assert len(functions) > 25
    for name in functions:
        signature = getattr(bindings, name).__doc__.splitlines()[0]
        listed = re.fullmatch(rf"{name}\((.*)\)", signature).group(1)
        assert len([word for word in listed.split(",") if word.strip()]) == getattr(pretended, name).arguments, name


def test_cuda_constants_are_the_same(bindings):
    pretended = fake_cuda.runtime(fake_cuda.World())
    for name in public(pretended):
        value, real = getattr(pretended, name), getattr(bindings, name)
        if isinstance(value, int):
            assert int(real) == value, name
        elif isinstance(value, type) and issubclass(value, Enum):
            for member in value:
                assert int(getattr(real, member.name)) == member.value, f"{name}.{member.name}"
    stream = bindings.cudaStream_t(5)  # how a handle of another library becomes a stream
    assert int(stream) == 5


def test_every_cuda_call_of_the_code_is_one_of_the_stand_ins():
    """A call that only the real module has would pass unseen: no test could have run it."""
    pretended = fake_cuda.runtime(fake_cuda.World())
    used = {name for path in CODE for name in re.findall(r"\bcuda[A-Z]\w+", path.read_text())}
    used -= {"cudaErrorMemoryAllocation", "cudaMallocManaged"}  # in a docstring, in a comment
    members = {name for enum in vars(pretended).values() if isinstance(enum, type) for name in public(enum)}
    assert used - set(public(pretended)) - members == set()


def test_tensorrts_classes_have_what_the_stand_ins_have(tensorrt):
    for name in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "IPluginRegistry", "IProfiler"):
        pretended, real = getattr(fake_tensorrt, name), getattr(tensorrt, name)
        instance = set(re.findall(r"self\.([a-z]\w+)\b", inspect.getsource(pretended)))
        own = {key for key in vars(pretended) if not key.startswith("_")}
        for attribute in (instance | own) - {"ready", "world", "module"}:
            assert hasattr(real, attribute), f"{name}.{attribute}"
            function = getattr(pretended, attribute, None)
            signature = re.search(rf"{attribute}\(self: [^,)]*(.*)\) ->", getattr(real, attribute).__doc__ or "")
            if inspect.isfunction(function) and signature:
                real_names = re.findall(r", (\w+):", signature.group(1))
                expected = list(inspect.signature(function).parameters)[1:]
                assert len(real_names) >= len(expected), f"{name}.{attribute}"
                if attribute != "deserialize_cuda_engine":
                    assert real_names[: len(expected)] == expected, f"{name}.{attribute}"


def test_tensorrts_enums_have_the_members(tensorrt):
    for name in ("DataType", "TensorIOMode", "TensorLocation", "TensorFormat", "EngineStat"):
        real = getattr(tensorrt, name)
        for member in getattr(fake_tensorrt, name):
            assert hasattr(real, member.name), f"{name}.{member.name}"
            assert getattr(real, member.name).name == member.name
    for member in fake_tensorrt.Severity:
        assert hasattr(tensorrt.ILogger.Severity, member.name)


def test_tensorrt_calls_back_by_the_names_that_the_code_gives(tensorrt):
    """The base classes show no methods; the names TensorRT looks up stand in its library."""
    binary = Path(sys.modules[tensorrt.IOutputAllocator.__module__].__file__).read_bytes()
    for name in (b"reallocate_output_async", b"notify_shape", b"report_layer_time"):
        assert name in binary


def test_subclasses_of_tensorrts_interfaces_can_be_made(tensorrt):
    from adapter_engines import plan_engine, plan_file, plan_outputs

    allocator = plan_outputs.output_allocator(tensorrt).of("y")
    assert isinstance(allocator, tensorrt.IOutputAllocator)
    logger = plan_file._make_logger(tensorrt)
    assert isinstance(logger, tensorrt.ILogger)
    with logger.collecting() as words:
        logger.log(tensorrt.ILogger.Severity.ERROR, "one\n two")
        logger.log(tensorrt.ILogger.Severity.INFO, "not this")
    assert words.told() == " (one two)"
    profiler = plan_engine._profiler(tensorrt)
    profiler.report_layer_time("layer", 1.5)
    assert dict(profiler.total) == {"layer": 1.5}


def test_every_attribute_of_tensorrts_objects_that_the_code_uses_exists(tensorrt):
    """Attributes of names that hold TensorRT's objects in the code, by their class."""
    holders = {"engine": tensorrt.ICudaEngine, "_context": tensorrt.IExecutionContext, "runtime": tensorrt.Runtime}
    seen = 0
    for path in ROOM.glob("plan_*.py"):
        if path.name == "plan_cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
            if name in holders and not (name == "runtime" and path.name != "plan_file.py"):
                assert hasattr(holders[name], node.attr), f"{path.name}: {name}.{node.attr}"
                seen += 1
    assert seen > 20


def test_the_stand_in_notices_what_must_not_be_done(tmp_path):
    """Each of these is a bug that test_plan_engine.py is to find; a lenient stand-in would let it pass."""
    world = fake_cuda.World()
    cuda, module = fake_cuda.runtime(world), fake_tensorrt.module(world)
    plan = fake_tensorrt.write_plan(tmp_path / "x.plan").read_bytes()

    class Logger(fake_tensorrt.ILogger):
        def log(self, severity, msg):
            pass

    def found():
        seen, world.violations = world.violations, []
        return seen

    runtime = module.Runtime(Logger())
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    assert not context.execute_async_v3(stream)
    assert "without the address or shape" in found()[0]
    assert not context.set_input_shape("x", (9, 4))
    assert context.set_input_shape("x", (2, 4))
    memory = cuda.cudaMalloc(64)[1]
    assert not context.set_tensor_address("x", memory + 16)
    assert context.set_tensor_address("x", memory)
    assert context.set_tensor_address("y", memory + 256)  # behind the allocation
    cuda.cudaStreamBeginCapture(stream, 1)
    assert not context.execute_async_v3(stream)
    assert found() == ["a capture before the first run after a change"]
    cuda.cudaStreamEndCapture(stream)
    assert context.execute_async_v3(stream)
    cuda.cudaStreamSynchronize(stream)
    assert "lie in no allocation" in found()[0]
    with context._mine(), ThreadPoolExecutor(1) as pool:
        pool.submit(context.set_input_shape, "x", (1, 4)).result()
    assert found() == ["a context was used by two threads at once"]
    context.execute_async_v3(stream)
    del runtime
    assert found() == ["a runtime was freed before its engine"]
    del engine
    assert found() == ["an engine was freed before its contexts"]
    del context
    assert found() == ["a context was freed while it ran"]
    world.devices = 0
    module.Runtime(Logger())
    assert found() == ["a Runtime without a GPU, whose first use crashes"]
