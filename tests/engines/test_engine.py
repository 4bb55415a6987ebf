"""Engine: what it loads, what it refuses and how, that it runs what was asked and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import adapter_plugins
from adapter_engines import Engine
from adapter_engines.engine import TensorInfo
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.metadata import InputForm
from adapter_infer.spec import Inference
from engines import detector_files


@pytest.fixture
def cpu_library():
    try:
        return adapter_plugins.library("msda_ort_cpu")
    except EnvironmentMissing as error:
        pytest.skip(str(error))


def test_a_loaded_file_tells_its_inputs_outputs_and_metadata(make_toy):
    toy = make_toy(batch=None, size=None, inference=Inference("slide", (64, 64), (43, 43)))
    with Engine.load(toy.path, threads=1) as engine:
        assert engine.inputs == (TensorInfo("image", ("batch", 3, "height", "width"), "float32"),)
        assert engine.outputs == (TensorInfo("logits", ("batch", 5, "height", "width"), "float32"),)
        assert engine.metadata.model.inference == Inference("slide", (64, 64), (43, 43))
        assert engine.metadata.input == InputForm(None, None, None)
        assert (engine.provider, engine.threads, engine.library) == ("cpu", 1, None)


def test_a_file_of_another_maker_runs_and_has_no_metadata(make_toy):
    toy = make_toy(metadata=False)
    x = np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)
    with Engine.load(toy.path) as engine:
        assert engine.metadata is None
        np.testing.assert_allclose(engine.infer({"image": x})["logits"], toy.expected(x), atol=1e-5)


def test_arrays_that_are_not_contiguous_give_the_same_result(make_toy):
    toy = make_toy(batch=2)
    x = np.random.default_rng(1).normal(size=(64, 128, 3, 2)).astype(np.float32).transpose(3, 2, 0, 1)[..., ::2]
    with Engine.load(toy.path) as engine:
        np.testing.assert_allclose(engine.infer({"image": x})["logits"], toy.expected(x), atol=1e-5)


def image(height=64, width=64, dtype=np.float32):
    return np.zeros((1, 3, height, width), dtype)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "the model's inputs are image, but nothing was fed"),
        ({"x": image()}, "the model's inputs are image, but x was fed"),
        ({"image": image(), "mask": image()}, "but image, mask was fed"),
        ([image()], "feeds is a list; give a mapping"),
        ({"image": image().tolist()}, "image is a list; give a numpy array of float32"),
        ({"image": image(dtype=np.float64)}, "image is float64, but the model takes float32; convert it with .astype"),
        ({"image": image().astype(">f4")}, "image is >f4"),
        ({"image": image()[0]}, r"image \(3, 64, 64\) has 3 dimensions"),
        ({"image": image()[:, :1]}, "has 1 along dimension 1, but the model takes .* feed 3"),
        ({"image": image()[:0]}, "is empty along dimension 0"),
        ({"image": image(64, 500)}, "64x500 is not a multiple of 32, .* pad to 64x512"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_before_the_run(make_toy, feeds, message):
    with Engine.load(make_toy(batch=None, size=None).path) as engine, pytest.raises(UsageError, match=message):
        engine.infer(feeds)


SIZES = [
    ([[0, 128]], "image_size [0, 128] of picture 0 is not within 1x1 to 96x160"),
    ([[96, 161]], "of picture 0 is not within"),
    ([[96, 160], [97, 1]], "image_size [97, 1] of picture 1"),
    ([[-1, 5]], "give height and width of the picture without its padding"),
]


@pytest.mark.parametrize(("sizes", "message"), SIZES)
@pytest.mark.parametrize("embed", [False, True])
def test_a_picture_larger_than_its_image_is_refused(tmp_path, sizes, message, embed):
    path = detector_files.detector(tmp_path / "d.onnx", batch=None, embed=embed)
    shape = (len(sizes), 96, 160, 3) if embed else (len(sizes), 3, 96, 160)
    feeds = {"image": np.zeros(shape, np.uint8 if embed else np.float32), "image_size": np.array(sizes)}
    with Engine.load(path) as engine:
        with pytest.raises(UsageError, match=re.escape(message)):
            engine.infer(feeds)
        edges = np.tile([[96, 160]], (len(sizes), 1))
        assert engine.infer(feeds | {"image_size": edges})["boxes"][0, 1].tolist() == [0, 0, 160, 96]
        with pytest.raises(UsageError, match="image_size is int32, but the model takes int64"):
            engine.infer(feeds | {"image_size": edges.astype(np.int32)})


def test_a_wrong_fixed_size_names_the_size_that_fits(make_toy):
    with Engine.load(make_toy().path) as engine, pytest.raises(UsageError, match=r"has 96 along dimension 2.* feed 64"):
        engine.infer({"image": image(96, 64)})


def test_a_closed_engine_says_so(make_toy):
    engine = Engine.load(make_toy().path)
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="is closed; load it again"):
        engine.infer({"image": image()})


def test_threads_that_call_at_once_get_their_own_results(make_toy):
    toy = make_toy(batch=None, size=None)
    rng = np.random.default_rng(3)
    images = [rng.normal(size=(1 + i % 3, 3, 32 * (1 + i % 2), 64)).astype(np.float32) for i in range(40)]
    with Engine.load(toy.path, threads=1) as engine, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda x: engine.infer({"image": x})["logits"], images))
    for x, result in zip(images, results, strict=True):
        np.testing.assert_allclose(result, toy.expected(x), atol=1e-5)


def test_closing_while_another_thread_runs_lets_it_end(make_toy):
    toy = make_toy(size=(512, 512))
    engine = Engine.load(toy.path, threads=1)
    x = np.ones((1, 3, 512, 512), np.float32)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.infer, {"image": x})
        engine.close()
        try:
            result = running.result()["logits"]
        except UsageError:
            return  # close came first
    np.testing.assert_allclose(result, toy.expected(x), atol=1e-4)


@pytest.mark.parametrize("threads", [0, -1, 5000, True, 1.5, "2"])
def test_a_senseless_number_of_threads_is_refused(make_toy, threads):
    with pytest.raises(UsageError, match=r"threads is .*; give a whole number from 1 to 1024"):
        Engine.load(make_toy().path, threads=threads)


def test_the_number_of_threads_told_is_the_one_set(make_toy, monkeypatch):
    seen = []
    create = onnxruntime.InferenceSession

    def spy(path, options, **kwargs):
        seen.append(options.intra_op_num_threads)
        return create(path, options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    path = make_toy().path
    assert [Engine.load(path, threads=3).threads, Engine.load(path).threads] == seen
    assert seen[0] == 3
    assert 1 <= seen[1] <= len(os.sched_getaffinity(0))


def test_an_unknown_provider_is_a_wrong_argument(make_toy):
    with pytest.raises(UsageError, match="no provider 'gpu'; choose cpu or cuda"):
        Engine.load(make_toy().path, provider="gpu")


def test_a_provider_that_is_not_installed_is_an_error_not_another_provider(make_toy):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    with pytest.raises(EnvironmentMissing, match="has no CUDAExecutionProvider; install onnxruntime-gpu"):
        Engine.load(make_toy().path, provider="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error_not_another_provider(make_toy, monkeypatch):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    # An onnxruntime-gpu without a GPU behaves like this: it lists the provider, and makes a session without it.
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(EnvironmentMissing, match="CUDAExecutionProvider did not start"):
        Engine.load(make_toy().path, provider="cuda")


def test_the_library_runs_where_it_covers_the_node(make_msda, msda_feeds, cpu_library):
    feeds = msda_feeds()
    with Engine.load(make_msda()) as engine:
        assert engine.library == cpu_library
        np.testing.assert_allclose(engine.infer(feeds)["output"], feeds["value"].reshape(1, 6, 8), atol=1e-5)


def test_the_body_runs_where_no_library_is_wanted(make_msda, msda_feeds):
    feeds = msda_feeds()
    with Engine.load(make_msda(), library=None) as engine:
        assert engine.library is None
        np.testing.assert_array_equal(engine.infer(feeds)["output"], 2 * feeds["value"].reshape(1, 6, 8))


def test_the_body_runs_where_the_library_lacks_the_element_type(make_msda, msda_feeds):
    feeds = msda_feeds(np.float64)
    with Engine.load(make_msda(element=TensorProto.DOUBLE)) as engine:
        assert engine.library is None
        np.testing.assert_array_equal(engine.infer(feeds)["output"], 2 * feeds["value"].reshape(1, 6, 8))


def test_a_library_asked_for_is_not_replaced_by_the_body(make_msda, msda_feeds, cpu_library):
    with Engine.load(make_msda(), library=cpu_library) as engine:
        assert engine.library == cpu_library
    with pytest.raises(UnsupportedModel, match=r"libmsda_ort_cpu.so registered; .*library=None runs the bodies"):
        Engine.load(make_msda(element=TensorProto.DOUBLE), library=cpu_library)


def test_the_body_runs_where_no_library_was_built(make_msda, msda_feeds, monkeypatch):
    def missing(name):
        raise EnvironmentMissing(f"{name} was not built")

    monkeypatch.setattr(adapter_plugins, "library", missing)
    feeds = msda_feeds()
    with Engine.load(make_msda()) as engine:
        assert engine.library is None
        np.testing.assert_array_equal(engine.infer(feeds)["output"], 2 * feeds["value"].reshape(1, 6, 8))
    with pytest.raises(EnvironmentMissing, match=r"needs adapter_infer.MSDeformAttn, which ONNX Runtime does not have"):
        Engine.load(make_msda("bare.onnx", body=False))


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_library_that_is_none_is_an_error(make_msda, tmp_path, content):
    library = tmp_path / "library.so"
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(EnvironmentMissing, match=r"library\.so"):
        Engine.load(make_msda(), library=library)


def test_weights_in_a_file_beside_the_model_are_found_and_missed(tmp_path):
    weight = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [300])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
    with Engine.load(path) as engine:
        np.testing.assert_array_equal(engine.infer({"x": np.ones(300, np.float32)})["y"], np.arange(300) + 1)
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"m\.onnx\.data has 1000 bytes, but m\.onnx needs 1200"):
        Engine.load(path)
    data.unlink()
    with pytest.raises(UsageError, match=r"keeps its weights in .*m\.onnx\.data, which is not there"):
        Engine.load(path)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("no.onnx", None, UsageError, "there is no file"),
        ("empty.onnx", b"", UnsupportedModel, "is empty"),
        ("junk.onnx", b"hello world, this is no model", UnsupportedModel, "is not an ONNX file"),
        ("page.onnx", b"<!DOCTYPE html><html>404</html>", UnsupportedModel, "is not an ONNX file"),
        ("lfs.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", UnsupportedModel, "Git LFS pointer"),
        ("zero.onnx", bytes(1000), UnsupportedModel, "is not an ONNX file"),
    ],
)
def test_a_file_that_is_no_model_is_refused_in_one_sentence(tmp_path, name, content, kind, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=message):
        Engine.load(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        Engine.load(tmp_path)


def test_a_file_cut_short_anywhere_is_refused(make_toy, tmp_path):
    content = make_toy().path.read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(1, len(content), 37):
        cut.write_bytes(content[:length])
        try:
            Engine.load(cut).close()
        except UnsupportedModel as error:
            assert str(cut) in str(error)
        else:  # cut between two fields behind the graph: what is left is a whole model without (all) metadata
            assert length > content.index(b"adapter_infer.")


def test_damaged_bytes_never_crash_the_reader(make_toy, tmp_path):
    content = make_toy().path.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.onnx"
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        with suppress(AdapterError):
            Engine.load(path, threads=1).close()


@pytest.mark.parametrize(("field", "value"), [("ir_version", 99), ("opset", 999)])
def test_a_file_too_new_for_this_onnxruntime_names_the_way_out(make_toy, field, value):
    toy = make_toy()
    model = onnx.load(toy.path)
    if field == "opset":
        model.opset_import[0].version = value
    else:
        model.ir_version = value
    onnx.save(model, toy.path)
    with pytest.raises(EnvironmentMissing, match=r"is too new for onnxruntime .*, upgrade onnxruntime"):
        Engine.load(toy.path)


def test_a_file_for_tensorrt_is_refused(make_toy):
    with pytest.raises(UnsupportedModel, match=r"--op tensorrt.* export it with --op fused"):
        Engine.load(make_toy(op="tensorrt").path)


def test_damaged_metadata_is_refused(make_toy):
    toy = make_toy()
    model = onnx.load(toy.path)
    for entry in model.metadata_props:
        if entry.key == "adapter_infer.input":
            entry.value = "{not json"
    onnx.save(model, toy.path)
    with pytest.raises(UnsupportedModel, match="metadata is damaged"):
        Engine.load(toy.path)


def test_errors_fit_on_one_line(make_toy, tmp_path):
    with pytest.raises(AdapterError) as caught:
        Engine.load(make_toy().path, library="/nowhere/library.so")
    assert "\n" not in str(caught.value)


WRITTEN = {"logits": "grey_labels.png", "detections": "detections.json", "panoptic": "grey_panoptic.png"}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_service_can_embed_it_without_torch_or_onnx(make_toy, tmp_path, kind):
    """The whole way from a picture to its results, in a process where importing torch, onnx or cv2 fails."""
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    if kind == "logits":
        model = make_toy().path
    else:
        maker = detector_files.detector if kind == "detections" else detector_files.mask2former
        model = maker(tmp_path / "model.onnx")
    program = """
import sys
for name in ("torch", "onnx", "cv2", "torchvision", "scipy", "pycocotools"):
    sys.modules[name] = None
from adapter_engines.cli import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = [str(model), str(tmp_path / "grey.png"), "--out", str(tmp_path / "out")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / WRITTEN[kind]).is_file()
