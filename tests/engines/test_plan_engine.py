"""Plans as engines: what is loaded and refused, profiles, buffers, graphs, threads, and that nothing is left behind.

Against stand-ins for TensorRT and CUDA (fake_tensorrt, fake_cuda) that keep their rules; test_plan_stand_in.py compares
the stand-ins with the real modules.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from adapter_engines import Engine, TensorInfo, device
from adapter_engines.plan_engine import PlanEngine
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.files import sha256
from engines import fake_cuda, fake_tensorrt
from engines.fake_cuda import cudaError_t
from engines.fake_tensorrt import write_plan, write_sidecar

TWO_PROFILES = [[(1, 4), (1, 4), (2, 4)], [(1, 4), (8, 4), (16, 4)]]


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "libmsda_trt10.so"
    path.write_bytes(b"a plugin library")
    return path


@pytest.fixture
def world(monkeypatch, plugin):
    with fake_tensorrt.installed(monkeypatch, plugin) as made:
        yield made


@pytest.fixture
def plan(tmp_path):
    return write_plan(tmp_path / "model.plan")


def x(rows=2, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(dtype)


class OnDevice:
    """A device array of another library, by __cuda_array_interface__; `value` copies it back."""

    def __init__(self, world, values, version=3):
        self.world, self.values = world, values
        self.buffer = device.DeviceBuffer(values.nbytes)
        self.view()[:] = values.view(np.uint8).ravel()
        data = (self.buffer.pointer, False)
        self.__cuda_array_interface__ = {
            "shape": values.shape, "typestr": values.dtype.str, "data": data, "version": version, "stream": None
        }  # fmt: skip

    def view(self):
        return self.world.view(self.buffer.pointer, self.values.nbytes, "device", "test")


# Loading


def test_a_plan_has_the_face_of_an_engine(world, plan):
    with Engine.load(plan) as engine:
        assert isinstance(engine, PlanEngine)
        assert engine.inputs == (TensorInfo("x", ("?", 4), "float32"),)
        assert engine.outputs == (TensorInfo("y", ("?", 4), "float32"),)
        assert (engine.provider, engine.threads, engine.metadata) == ("tensorrt", None, None)
        assert engine.runtime == ("tensorrt", fake_tensorrt.VERSION)
        assert engine.profiles == "profile 0: x 1x4 to 8x4"
        assert engine.best_batch == 4
        for rows in (1, 8, 3):
            np.testing.assert_array_equal(engine.infer({"x": x(rows)})["y"], 2 * x(rows))


def test_results_are_independent_of_later_runs(world, plan):
    with Engine.load(plan) as engine:
        first = engine.infer({"x": x(seed=1)})["y"]
        engine.infer({"x": x(seed=2)})
        np.testing.assert_array_equal(first, 2 * x(seed=1))


def test_the_gpu_is_looked_for_before_anything_of_tensorrt_exists(monkeypatch, plan):
    world = fake_cuda.World(devices=0)
    fake_tensorrt.install(monkeypatch, world)
    with pytest.raises(EnvironmentMissing, match=r"cudaErrorNoDevice.*run it where an NVIDIA GPU"):
        Engine.load(plan)
    assert world.violations == []


def test_without_tensorrt_the_package_is_named(world, plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EnvironmentMissing, match=r"model.plan is a TensorRT plan, .*tensorrt"):
        Engine.load(plan)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, UsageError, "there is no file"),
        (b"", UnsupportedModel, "is empty"),
        (b"no plan", UnsupportedModel, r"does not load .*\(Magic tag does not match\); it is damaged"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(world, tmp_path, content, kind, message):
    path = tmp_path / "m.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=message):
        Engine.load(path)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"provider": "cpu"}, "provider"), ({"threads": 2}, "threads"), ({"library": None}, "library")],
)
def test_what_a_plan_has_no_use_for_is_refused(world, plan, arguments, name):
    with pytest.raises(UsageError, match=f"is a TensorRT plan, which {name} does not apply to; leave {name} out"):
        Engine.load(plan, **arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"profile": 0}, "profile"),
        ({"contexts": 1}, "contexts"),
        ({"allow_embedded_code": True}, "allow_embedded_code"),
    ],
)
def test_what_an_onnx_file_has_no_use_for_is_refused(make_toy, arguments, name):
    with pytest.raises(UsageError, match=f"is an ONNX file, which {name} does not apply to"):
        Engine.load(make_toy().path, **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plan_sha256": "0" * 64}, "has the SHA-256"),
        ({"toolkit_version": "10.9.0"}, r"was built with tensorrt 10\.9\.0, and here is 10\.14.*--version-compatible"),
        ({"gpu": {"name": "Old", "compute_capability": "7.5"}}, r"7\.5 \(Old\).* has 9\.0; .*--hardware-compatible"),
        ({"plugin_layers": 3, "plugin_sha256": "1" * 64}, "was built with the plugin 1111"),
        ({"weights_stripped": True}, "holds no weights"),
        ({"toolkit": "tensorrt_rtx"}, "was built for tensorrt_rtx"),
    ],
)
def test_a_sidecar_that_does_not_fit_refuses_and_names_the_way_out(world, plan, changed, message):
    write_sidecar(plan, **changed)
    with pytest.raises(UsageError, match=message):
        Engine.load(plan)


def test_a_sidecar_that_fits_is_read(world, plan, plugin):
    described = write_sidecar(plan, plugin_layers=3, plugin_sha256=sha256(plugin))
    with Engine.load(plan) as engine:
        assert engine.sidecar == described
        assert engine.library == plugin.resolve()


def test_a_compatible_plan_runs_on_another_gpu(world, plan):
    write_sidecar(plan, gpu={"name": "Older", "compute_capability": "8.0"}, hardware_compatible=True)
    with Engine.load(plan) as engine:
        np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())


@pytest.mark.parametrize(("changed", "what"), [("plugin_embedded", "the plugin"), ("version_compatible", "a lean run")])
def test_code_in_a_plan_is_not_run_unasked(world, tmp_path, changed, what):
    path = write_plan(tmp_path / "code.plan", code=True, plugin=True)
    write_sidecar(path, **{changed: True})
    with pytest.raises(UsageError, match=f"holds {what}.*allow_embedded_code=True .*--allow-embedded-code"):
        Engine.load(path)
    with Engine.load(path, allow_embedded_code=True) as engine:
        np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())


def test_code_in_a_plan_without_a_sidecar_is_not_run_either(world, tmp_path):
    path = write_plan(tmp_path / "code.plan", code=True)
    with pytest.raises(UnsupportedModel, match=r"host code\).*allow_embedded_code=True then loads it"):
        Engine.load(path)
    Engine.load(path, allow_embedded_code=True).close()


def test_the_plugin_is_loaded_before_the_plan_and_missed_where_it_is_needed(world, tmp_path, monkeypatch):
    path = write_plan(tmp_path / "msda.plan", plugin=True)
    Engine.load(path).close()
    fake_tensorrt.install(monkeypatch, world, None)
    with pytest.raises(UnsupportedModel, match=r"Cannot find plugin: MSDeformAttn\).*a plugin that is not loaded"):
        Engine.load(path)
    write_sidecar(path, plugin_layers=1, plugin_sha256="0" * 64)
    with pytest.raises(EnvironmentMissing, match="is not part of this installation"):
        Engine.load(path)
    Engine.load(write_plan(tmp_path / "plain.plan")).close()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"location": "HOST"}, "takes the values of x on the host"),
        ({"format": "CHW4"}, "wants x in the layout CHW4"),
        ({"dtype": "FP8"}, "has x in FP8"),
    ],
)
def test_tensors_that_no_array_can_feed_are_refused(world, tmp_path, tensor, message):
    ranges = [[(1, 4), (2, 4), (8, 4)]]
    inputs = [{"name": "x", "dtype": "FLOAT", "shape": [-1, 4], "ranges": ranges} | tensor]
    with pytest.raises(UnsupportedModel, match=message):
        Engine.load(write_plan(tmp_path / "odd.plan", inputs=inputs))


# Feeds, types, profiles


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "inputs are x, but nothing was fed"),
        ({"x": [1, 2]}, "x is a list; give a numpy array of float32"),
        ({"x": x(dtype=np.float64)}, r"x is float64, .* convert it with .astype\(numpy.float32\)"),
        ({"x": x()[0]}, "has 1 dimensions"),
        ({"x": x()[:, :3]}, "has 3 along dimension 1"),
        ({"x": x(9)}, "x 9x4 fits no profile of .*, which has profile 0: x 1x4 to 8x4; feed such a shape"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_and_the_engine_goes_on(world, plan, feeds, message):
    with Engine.load(plan, contexts=1) as engine:
        with pytest.raises(UsageError, match=message):
            engine.infer(feeds)
        np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())
        assert engine.memory()["contexts"] == 1


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("HALF", np.float16), ("BF16", ml_dtypes.bfloat16), ("INT64", np.int64), ("UINT8", np.uint8)],
)
def test_types_other_than_float32(world, tmp_path, name, dtype):
    path = write_plan(tmp_path / "t.plan", dtype=name)
    values = np.arange(8).reshape(2, 4).astype(dtype)
    with Engine.load(path) as engine:
        result = engine.infer({"x": values})["y"]
        assert engine.inputs[0].dtype == np.dtype(dtype).name
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, values * dtype(2))


def test_float32_is_no_bfloat16(world, tmp_path):
    path = write_plan(tmp_path / "t.plan", dtype="BF16")
    with Engine.load(path) as engine, pytest.raises(UsageError, match=r"astype\(ml_dtypes.bfloat16\)"):
        engine.infer({"x": x()})


def test_of_the_profiles_that_fit_the_one_tuned_nearest_is_used(world, tmp_path):
    path = write_plan(tmp_path / "p.plan", ranges=TWO_PROFILES[::-1])
    with Engine.load(path, contexts=1) as engine:
        for rows, profile in ((1, 1), (2, 1), (8, 0), (16, 0), (1, 1)):
            np.testing.assert_array_equal(engine.infer({"x": x(rows)})["y"], 2 * x(rows))
            with engine.context() as context:
                assert context.profile == profile


def test_another_profile_takes_all_shapes_anew(world, tmp_path):
    ranges = {"x": [[(1, 4), (2, 4), (8, 4)]] * 2, "z": [[(1, 4), (1, 4), (1, 4)], [(2, 4), (2, 4), (8, 4)]]}
    inputs = [{"name": name, "dtype": "FLOAT", "shape": [-1, 4], "ranges": ranges[name]} for name in "xz"]
    path = write_plan(tmp_path / "two.plan", inputs=inputs, profiles=2)
    with Engine.load(path, contexts=1) as engine:
        for rows in (1, 3, 1):  # of the second input; the first keeps its shape
            np.testing.assert_array_equal(engine.infer({"x": x(), "z": x(rows)})["y"], 2 * x())


def test_a_profile_that_was_asked_for_is_the_only_one(world, tmp_path):
    path = write_plan(tmp_path / "p.plan", ranges=TWO_PROFILES)
    with Engine.load(path, profile=0) as engine:
        assert engine.best_batch == 2
        with pytest.raises(UsageError, match=r"x 8x4 fits no profile .* \(0\).*profile 1: x 1x4 to 16x4"):
            engine.infer({"x": x(8)})
    with pytest.raises(UsageError, match=r"there is no profile 2; .* has profile 0: .*; profile 1"):
        Engine.load(path, profile=2)


def test_a_plan_of_fixed_shape_needs_no_profile(world, tmp_path):
    path = write_plan(tmp_path / "f.plan", ranges=[[(2, 4)] * 3])
    with Engine.load(path) as engine:
        assert engine.inputs[0].shape == (2, 4)
        np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())


@pytest.mark.parametrize("positives", [0, 3, 8])
def test_an_output_whose_size_depends_on_the_data(world, tmp_path, positives):
    path = write_plan(tmp_path / "d.plan", "positives")
    values = np.full(8, -1, np.float32)
    values[:positives] = np.arange(1, positives + 1)
    with Engine.load(path) as engine:
        np.testing.assert_array_equal(engine.infer({"x": -(x(8) ** 2)})["y"], [])
        np.testing.assert_array_equal(engine.infer({"x": values.reshape(2, 4)})["y"], values[:positives])
        taken = engine.infer({"x": OnDevice(world, values.reshape(2, 4))})["y"]
        engine.infer({"x": x(8) ** 2})
        np.testing.assert_array_equal(taken.numpy(), values[:positives])


def test_memory_missing_for_such_an_output_is_the_error_told(world, tmp_path):
    with Engine.load(write_plan(tmp_path / "d.plan", "positives")) as engine:
        world.fail["cudaMalloc"] = (cudaError_t.cudaErrorMemoryAllocation, 2)  # the input's buffer comes first
        with pytest.raises(device.CudaError, match="out of memory"):
            engine.infer({"x": x() ** 2})


# Zero-copy


@pytest.mark.parametrize("version", [2, 3])
def test_arrays_on_the_device_are_bound_as_they_are(world, plan, version):
    source = OnDevice(world, x(), version)
    with Engine.load(plan) as engine:
        world.calls.clear()
        result = engine.infer({"x": source})["y"]
        assert "cudaMemcpyAsync" not in world.calls
        assert isinstance(result, device.DeviceArray)
        assert result.stream is None  # computed
        engine.infer({"x": OnDevice(world, x(seed=5))})
        np.testing.assert_array_equal(result.numpy(), 2 * x())
    np.testing.assert_array_equal(result.numpy(), 2 * x())  # outlives the engine


def test_one_engine_feeds_the_next_without_a_copy(world, plan):
    with Engine.load(plan) as engine:
        first = engine.infer({"x": OnDevice(world, x())})
        world.calls.clear()
        second = engine.infer({"x": first["y"]})["y"]
        assert "cudaMemcpyAsync" not in world.calls
        np.testing.assert_array_equal(second.numpy(), 4 * x())


def test_an_input_is_let_go_when_the_run_is_done(world, plan):
    with Engine.load(plan) as engine:
        source = OnDevice(world, x())
        engine.infer({"x": source})
        buffer = source.buffer
        del source
        gc.collect()
        assert gc.get_referrers(buffer) in ([], [sys._getframe().f_locals])


def test_a_device_array_of_another_type_is_refused_and_let_go(world, plan):
    with Engine.load(plan) as engine:
        with pytest.raises(UsageError, match="x is float16, but the model takes float32; convert it first"):
            engine.infer({"x": OnDevice(world, x(dtype=np.float16))})
        gc.collect()
        assert world.alive().get("device", 0) == 0


def test_outputs_on_the_device_carry_their_stream(world, plan):
    with Engine.load(plan) as engine, engine.context() as context:
        context.set_inputs({"x": x()})
        context.enqueue()
        pending = context.device_outputs()["y"]
        assert pending.__cuda_array_interface__["stream"] == context.stream.handle
        np.testing.assert_array_equal(pending.numpy(), 2 * x())


# Contexts and threads


def test_a_context_in_steps(world, plan):
    with Engine.load(plan) as engine, engine.context() as context:
        with pytest.raises(UsageError, match="call set_inputs first"):
            context.enqueue()
        with pytest.raises(UsageError, match="there is no result"):
            context.outputs()
        context.set_inputs({"x": x()})
        with pytest.raises(UsageError, match="there is no result"):
            context.outputs()
        for _ in range(3):
            context.enqueue()
        np.testing.assert_array_equal(context.outputs()["y"], 2 * x())
        context.set_inputs({"x": x(5)})  # a larger one, while nothing waits
        context.enqueue()
        context.set_inputs({"x": x(6)})  # while a run is under way
        context.enqueue()
        np.testing.assert_array_equal(context.outputs()["y"], 2 * x(6))


def test_new_inputs_do_not_reach_a_run_under_way(world, plan):
    with Engine.load(plan) as engine, engine.context() as context:
        context.set_inputs({"x": x(seed=1)})
        context.enqueue()
        pending = context.device_outputs()["y"]
        context.set_inputs({"x": x(seed=2)})
        np.testing.assert_array_equal(pending.numpy(), 2 * x(seed=1))


def test_a_context_is_its_threads_own_and_of_its_block(world, plan):
    with Engine.load(plan) as engine:
        with (
            engine.context() as context,
            ThreadPoolExecutor(1) as pool,
            pytest.raises(UsageError, match="another thread's"),
        ):
            pool.submit(context.set_inputs, {"x": x()}).result()
        with pytest.raises(UsageError, match="was given back"):
            context.set_inputs({"x": x()})


def test_threads_share_at_most_as_many_contexts_as_are_allowed(world, plan):
    sizes = [1 + number % 8 for number in range(60)]
    with Engine.load(plan, contexts=3) as engine, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: engine.infer({"x": x(n, seed=n)})["y"], sizes))
        assert 1 <= engine.memory()["contexts"] <= 3
        assert world.objects["IExecutionContext"] == engine.memory()["contexts"]
    for size, result in zip(sizes, results, strict=True):
        np.testing.assert_array_equal(result, 2 * x(size, seed=size))


def test_one_thread_reuses_one_context(world, plan):
    with Engine.load(plan) as engine:
        for _ in range(5):
            engine.infer({"x": x()})
        assert engine.memory()["contexts"] == 1


def test_a_thread_that_would_wait_for_itself_is_told(world, plan):
    with (
        Engine.load(plan, contexts=1) as engine,
        engine.context(),
        pytest.raises(UsageError, match="this thread holds all 1 contexts"),
    ):
        engine.infer({"x": x()})


@pytest.mark.parametrize("contexts", [0, -1, 1.5, True])
def test_a_senseless_number_of_contexts_is_refused(world, plan, contexts):
    with pytest.raises(UsageError, match=r"contexts is .*; give at least 1"):
        Engine.load(plan, contexts=contexts)


def test_a_worker_runs_on_the_engines_device(monkeypatch, plan):
    world = fake_cuda.World(devices=2)
    fake_tensorrt.install(monkeypatch, world)
    with device.Device(1).current():
        engine = Engine.load(plan)
    seen = []

    def work():
        with engine.context() as context:
            context.set_inputs({"x": x()})
            seen.append(device.cuda.call("cudaGetDevice"))
        seen.append(device.cuda.call("cudaGetDevice"))

    with engine, ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert seen == [1, 0]


def test_closing_while_another_thread_runs_lets_it_end(world, plan):
    engine = Engine.load(plan)
    running, closed = threading.Event(), threading.Event()

    def work():
        with engine.context() as context:
            context.set_inputs({"x": x()})
            context.enqueue()
            running.set()
            closed.wait(30)
            return context.outputs()["y"]

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work)
        running.wait(30)
        engine.close()
        engine.close()
        assert world.objects["ICudaEngine"] == 1  # the run still needs it
        closed.set()
        np.testing.assert_array_equal(result.result(), 2 * x())
    assert world.alive() == {}
    for use in (lambda: engine.infer({"x": x()}), engine.memory, lambda: engine.layer_times({"x": x()})):
        with pytest.raises(UsageError, match="is closed; load it again"):
            use()


def test_closing_wakes_a_thread_that_waits_for_a_context(world, plan):
    engine = Engine.load(plan, contexts=1)
    with ThreadPoolExecutor(3) as pool, engine.context():
        waiting = [pool.submit(engine.infer, {"x": x()}) for _ in range(3)]
        while len(engine._pool._changed._waiters) < 3:
            time.sleep(0.001)
        engine.close()
        for each in waiting:
            with pytest.raises(UsageError, match="is closed"):
                each.result(30)
    assert world.alive() == {}


# Graphs


def graph_launches(world):
    return world.calls.count("cudaGraphLaunch")


def test_repeated_runs_become_a_graph_and_changed_ones_do_not_use_it(world, plan):
    with Engine.load(plan, contexts=1, cuda_graph=True) as engine:
        launches = []
        for rows in (2, 2, 2, 5, 5, 2, 2):
            np.testing.assert_array_equal(engine.infer({"x": x(rows, seed=rows)})["y"], 2 * x(rows, seed=rows))
            launches.append(graph_launches(world))
        assert launches == [0, 1, 2, 2, 3, 3, 4]
        assert world.calls.count("cudaGraphInstantiate") == 3
        assert world.calls.count("cudaGraphExecDestroy") == 2


def test_a_graph_reads_new_inputs(world, plan):
    with Engine.load(plan, cuda_graph=True) as engine:
        for seed in range(5):
            np.testing.assert_array_equal(engine.infer({"x": x(seed=seed)})["y"], 2 * x(seed=seed))
        assert graph_launches(world) == 4


def test_graphs_are_off_unless_asked_for_and_can_be_turned_off(world, plan):
    with Engine.load(plan) as engine, engine.context() as context:
        context.set_inputs({"x": x()})
        for _ in range(3):
            context.enqueue()
        assert graph_launches(world) == 0
        context.use_graph(True)
        context.enqueue()
        assert context.graph_in_use
        assert graph_launches(world) == 1
        context.use_graph(False)
        context.enqueue()
        assert graph_launches(world) == 1
        assert world.alive().get("execs", 0) == 0
        np.testing.assert_array_equal(context.outputs()["y"], 2 * x())


def test_a_profile_change_drops_the_graph(world, tmp_path):
    path = write_plan(tmp_path / "p.plan", ranges=TWO_PROFILES)
    with Engine.load(path, contexts=1, cuda_graph=True) as engine:
        for rows in (1, 1, 16, 16, 1, 1):
            np.testing.assert_array_equal(engine.infer({"x": x(rows)})["y"], 2 * x(rows))
        assert graph_launches(world) == 3


def test_a_graph_of_bound_arrays_goes_with_their_address(world, plan):
    one, other = OnDevice(world, x(seed=1)), OnDevice(world, x(seed=2))
    with Engine.load(plan) as engine, engine.context() as context:
        context.use_graph(True)
        launches = []
        for source in (one, one, other, other, one):
            context.set_inputs({"x": source})
            context.enqueue()
            np.testing.assert_array_equal(context.outputs()["y"], 2 * source.values)
            launches.append(graph_launches(world))
        assert launches == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("function", "reason"), [("positives", "depends on the data"), ("uncapturable", "TensorRT failed to run")]
)
def test_a_plan_that_cannot_be_captured_runs_without_and_says_why(world, tmp_path, function, reason):
    path = write_plan(tmp_path / "u.plan", function)
    with Engine.load(path) as engine, engine.context() as context:
        context.use_graph(True)
        context.set_inputs({"x": x() ** 2})
        for _ in range(4):
            context.enqueue()
        expected = x() ** 2 if function == "positives" else 2 * x() ** 2
        np.testing.assert_array_equal(context.outputs()["y"].ravel(), expected.ravel())
        assert not context.graph_in_use
        assert re.search(reason, context.graph_refusal)
        assert graph_launches(world) == 0


def test_a_capture_that_failed_is_not_tried_again(world, tmp_path):
    with Engine.load(write_plan(tmp_path / "u.plan", "uncapturable"), contexts=1, cuda_graph=True) as engine:
        for seed in range(5):
            np.testing.assert_array_equal(engine.infer({"x": x(seed=seed)})["y"], 2 * x(seed=seed))
    assert world.calls.count("cudaStreamBeginCapture") == 1


# Failures


@pytest.mark.parametrize("call", ["cudaStreamCreateWithFlags", "cudaMallocHost", "cudaMalloc", "cudaMemcpyAsync"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_step_that_fails_leaves_nothing_and_the_next_run_works(world, plan, call, after):
    with Engine.load(plan) as engine:
        world.fail[call] = (cudaError_t.cudaErrorMemoryAllocation, after)
        failed = False
        for _ in range(2):
            try:
                np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())
            except device.CudaError as error:
                assert str(error).startswith(f"{call} failed: cudaErrorMemoryAllocation")
                failed = True
        world.fail.clear()
        assert failed or call == "cudaStreamCreateWithFlags"
        np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())


def test_a_context_that_tensorrt_does_not_make_is_an_error(world, plan):
    with Engine.load(plan, contexts=1) as engine:
        world.fail["create_execution_context"] = (cudaError_t.cudaErrorMemoryAllocation, 1)
        with pytest.raises(AdapterError, match=r"\(out of memory for activations\); .* use fewer contexts"):
            engine.infer({"x": x()})
        np.testing.assert_array_equal(engine.infer({"x": x()})["y"], 2 * x())


def test_a_run_that_tensorrt_refuses_is_an_error_in_its_words(world, tmp_path):
    with Engine.load(write_plan(tmp_path / "f.plan", "fails")) as engine:
        with pytest.raises(AdapterError, match=r"failed to run .* on x \(2, 4\) \(the kernel cannot be launched\)"):
            engine.infer({"x": x()})
        assert engine.memory()["contexts"] == 0  # the context is not used again


def test_an_error_of_a_kernel_comes_up_at_the_end(world, plan):
    with Engine.load(plan) as engine:
        engine.infer({"x": x()})
        world.fail["cudaStreamSynchronize"] = (cudaError_t.cudaErrorIllegalAddress, 1)
        with pytest.raises(device.CudaError, match="cudaStreamSynchronize failed: cudaErrorIllegalAddress"):
            engine.infer({"x": x()})


# Measuring


def test_memory_is_told_by_purpose(world, plan):
    with Engine.load(plan) as engine:
        assert engine.memory() == {
            "weights": 1000, "context": 4096, "contexts": 0, "buffers": 0, "driver": 0, "used": 0
        }  # fmt: skip
        engine.infer({"x": x(2)})
        told = engine.memory()
        assert (told["contexts"], told["buffers"]) == (1, 2 * 2 * 4 * 4)
        assert told["used"] == 2 * (2 * 2 * 4 * 4)  # the stand-in counts pinned memory too


def test_layer_times_are_means_over_the_runs(world, plan):
    with Engine.load(plan, cuda_graph=True) as engine:
        assert engine.layer_times({"x": x()}, runs=3) == [("first", 0.5), ("second", 1.5)]
        with pytest.raises(UsageError, match="runs is 0"):
            engine.layer_times({"x": x()}, runs=0)
        assert engine.memory()["contexts"] == 0
