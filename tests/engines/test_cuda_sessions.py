"""Which library a session on the CUDA provider gets, and what happens where that library cannot serve it.

No GPU: the name "cuda" stands for the CPU's provider, and the library is the stand-in that holds the ops for both.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import adapter_plugins
import cuda_stand_in
from adapter_engines import sessions
from adapter_engines.engine import Engine
from adapter_infer.errors import EnvironmentMissing, UnsupportedModel


@pytest.fixture
def stand_in(tmp_path_factory):
    return cuda_stand_in.build(tmp_path_factory)


@pytest.fixture
def asked(monkeypatch, stand_in) -> list[str]:
    """The libraries that were asked for; each is the stand-in."""
    names: list[str] = []

    def library(name):
        names.append(name)
        return stand_in

    monkeypatch.setattr(adapter_plugins, "library", library)
    monkeypatch.setitem(sessions.EXECUTION_PROVIDERS, "cuda", "CPUExecutionProvider")
    return names


@pytest.mark.parametrize(("provider", "name"), [("cpu", "msda_ort_cpu"), ("cuda", "msda_ort_cuda")])
def test_each_provider_gets_its_own_library(asked, stand_in, make_msda, msda_feeds, provider, name):
    feeds = msda_feeds()
    with Engine.load(make_msda(), provider=provider) as engine:
        assert (asked, engine.library) == ([name], stand_in)
        # a node left to the CPU runs the operator, which gives value; the body would give twice that
        np.testing.assert_allclose(engine.infer(feeds)["output"], feeds["value"].reshape(1, 6, 8), atol=1e-6)


def test_a_model_without_our_operators_asks_for_no_library(asked, make_toy):
    with Engine.load(make_toy().path, provider="cuda") as engine:
        assert (asked, engine.library) == ([], None)


def test_the_body_runs_where_the_cuda_library_was_not_built(asked, monkeypatch, make_msda, msda_feeds):
    def missing(name):
        raise EnvironmentMissing(f"{name} was not built")

    monkeypatch.setattr(adapter_plugins, "library", missing)
    feeds = msda_feeds()
    with Engine.load(make_msda(), provider="cuda") as engine:
        assert engine.library is None
        np.testing.assert_array_equal(engine.infer(feeds)["output"], 2 * feeds["value"].reshape(1, 6, 8))


def test_the_body_runs_where_the_cuda_library_lacks_the_element_type(asked, make_msda):
    with Engine.load(make_msda(element=TensorProto.DOUBLE), provider="cuda") as engine:
        assert (asked, engine.library) == (["msda_ort_cuda"], None)


def test_a_cuda_library_asked_for_is_not_replaced_by_the_body(asked, stand_in, make_msda):
    with pytest.raises(UnsupportedModel, match=r"libcuda_stand_in\.so registered; .*library=None runs the bodies"):
        Engine.load(make_msda(element=TensorProto.DOUBLE), provider="cuda", library=stand_in)
    assert asked == []
