"""ONNX files on "cuda": arrays on the GPU in and out, CUDA graphs, and that everything is given back."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from adapter_engines import Engine, device
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from engines import fake_ort_cuda, fake_tensorrt


@pytest.fixture
def world(monkeypatch):
    with fake_tensorrt.installed(monkeypatch) as made:
        yield made


@pytest.fixture
def made(monkeypatch, world):
    return fake_ort_cuda.install(monkeypatch, world)


def picture(seed=0, batch=1, side=64):
    return np.random.default_rng(seed).normal(size=(batch, 3, side, side)).astype(np.float32)


class Held:
    """An array of another library on the GPU, with `__cuda_array_interface__`."""

    def __init__(self, world, values):
        self.buffer = device.DeviceBuffer(values.nbytes)
        world.view(self.buffer.pointer, values.nbytes, "device", "test")[:] = values.view(np.uint8).ravel()
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.buffer.pointer, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }


@pytest.mark.parametrize("graph", [False, True])
def test_arrays_on_the_gpu_stay_there_and_give_the_numbers_of_numpy(world, made, make_toy, graph):
    toy = make_toy()
    with Engine.load(toy.path) as engine:
        wanted = [engine.infer({"image": picture(seed)})["logits"] for seed in range(3)]
    with Engine.load(toy.path, provider="cuda", cuda_graph=graph) as engine:
        found = [engine.infer({"image": Held(world, picture(seed))})["logits"] for seed in range(3)]
        on_host = engine.infer({"image": picture(2)})["logits"]
        assert all(isinstance(array, device.DeviceArray) for array in found)
        for array, truth in zip(found, wanted, strict=True):  # each its own, whatever ran after it
            np.testing.assert_array_equal(array.numpy(), truth)
        np.testing.assert_array_equal(on_host, wanted[2])
        del found, array
    assert made[0].graphs is graph


def test_a_graph_is_recorded_once_for_each_set_of_shapes_and_launched_from_then_on(world, made, make_toy):
    with Engine.load(make_toy(batch=None).path, provider="cuda", cuda_graph=True) as engine:
        for batch in (1, 2, 1, 2):
            engine.infer({"image": picture(batch=batch)})
    (session,) = made
    assert (sorted(session.recorded), session.plain) == (["1", "2"], 2)  # a plain run tells each one's output shapes
    assert session.launches == 6  # one that records, and one for each call


def test_bound_inputs_run_as_often_as_wanted_with_the_graph_and_without(world, made, make_toy):
    with Engine.load(make_toy().path, provider="cuda", cuda_graph=True) as engine:
        wanted = engine.infer({"image": picture()})["logits"]
        with engine.bound({"image": picture()}) as bound, engine.bound({"image": picture()}, graph=False) as plain:
            for run in (bound, plain, bound):
                run.run()
                np.testing.assert_array_equal(run.numpy()["logits"], wanted)
            assert (bound.graph, plain.graph) == (True, False)


def test_threads_take_turns_where_graphs_are_launched(world, made, make_toy):
    toy, found = make_toy(), {}
    with Engine.load(toy.path, provider="cuda", cuda_graph=True) as engine:
        engine.infer({"image": picture()})

        def work(seed):
            found[seed] = engine.infer({"image": picture(seed)})["logits"]

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Engine.load(toy.path) as engine:
        for seed, array in found.items():
            np.testing.assert_array_equal(array, engine.infer({"image": picture(seed)})["logits"])
    assert len(found) == 6


def test_a_model_that_no_graph_can_hold_is_refused_with_the_way_out(world, made, make_toy):
    with Engine.load(make_toy().path, provider="cuda", cuda_graph=True) as engine:
        made[0].uncapturable = True
        with pytest.raises(UnsupportedModel, match=r"cannot be run as a CUDA graph.*load it without cuda_graph.*901"):
            engine.infer({"image": picture()})


def test_a_run_that_fails_names_the_file_and_the_shapes_in_one_line(world, made, make_toy):
    toy = make_toy()
    with Engine.load(toy.path, provider="cuda") as engine:
        made[0].fails = True
        with pytest.raises(AdapterError) as raised:
            engine.infer({"image": Held(world, picture())})
    assert str(raised.value).startswith(f"ONNX Runtime failed to run {toy.path} on image [1, 3, 64, 64]: CUDA failure")
    assert "\n" not in str(raised.value)


def test_feeds_are_checked_before_anything_is_copied(world, made, make_toy):
    with Engine.load(make_toy().path, provider="cuda", cuda_graph=True) as engine:
        for wrong, words in (
            (Held(world, picture(side=32)), "has 32 along dimension 2"),
            (Held(world, picture().astype(np.float64)), "image is float64, but the model takes float32"),
            (picture()[0], "has 3 dimensions"),
        ):
            with pytest.raises(UsageError, match=words):
                engine.infer({"image": wrong})
        assert made[0].plain == made[0].launches == 0


def test_what_does_not_apply_is_refused(world, made, make_toy):
    path = make_toy().path
    with pytest.raises(UsageError, match=r"cuda_graph does not apply to provider cpu; .* take provider cuda"):
        Engine.load(path, cuda_graph=True)
    with Engine.load(path) as engine:
        with pytest.raises(UsageError, match="image is a Held; give a numpy array of float32"):
            engine.infer({"image": Held(world, picture())})
        with pytest.raises(UsageError, match="load it with provider cuda"), engine.bound({"image": picture()}):
            pass
    with (
        Engine.load(path, provider="cuda") as engine,
        pytest.raises(UsageError, match="load it with cuda_graph=True"),
        engine.bound({"image": picture()}, graph=True),
    ):
        pass
    engine.close()
    with pytest.raises(UsageError, match="is closed; load it again"), engine.bound({"image": picture()}):
        pass


def test_without_cuda_bindings_the_way_out_is_named(monkeypatch, made, make_toy):
    import sys

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with (
        Engine.load(make_toy().path, provider="cuda") as engine,
        pytest.raises(EnvironmentMissing, match="pip install cuda-bindings"),
        engine.bound({"image": picture()}),
    ):
        pass
