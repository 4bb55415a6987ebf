"""Segmenting pictures with an engine: the model's own configuration is followed, or it is said why it cannot be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from adapter_engines import Engine
from adapter_engines.label_maps import labels_of_logits, nearest
from adapter_engines.preprocessing import prepare
from adapter_engines.segmentation import Segmenter, segment
from adapter_engines.sliding import slide
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.spec import Inference, Preprocessing

SCALE = Preprocessing(scale=(160, 64))
SLIDE = Inference("slide", (64, 64), (43, 43))


def test_whole_pictures_give_the_labels_of_the_resized_logits(make_toy, picture):
    toy, image = make_toy(batch=None, size=None), picture(90, 120)
    expected = labels_of_logits(toy.expected(prepare(image, SCALE)[None])[0], (90, 120))
    with Engine.load(toy.path, threads=1) as engine:
        result = Segmenter(engine)(image)
        np.testing.assert_array_equal(segment(engine, image), result.labels)
    assert len(np.unique(expected)) > 2
    assert np.mean(result.labels == expected) > 0.999
    assert (result.network_size, result.windows) == ((64, 96), 1)
    assert set(result.seconds) == {"preprocess", "network", "postprocess"}


@pytest.mark.parametrize("batch", [1, 3, None])
def test_windows_slide_as_configured_whatever_the_batch(make_toy, picture, batch):
    """Also with a fixed batch that the number of windows (4) does not fill."""
    toy, image = make_toy(batch=batch, inference=SLIDE), picture(90, 220)
    logits = slide(toy.expected, prepare(image, SCALE), SLIDE.crop, SLIDE.stride)
    with Engine.load(toy.path, threads=1) as engine:
        result = Segmenter(engine)(image)
    assert (result.network_size, result.windows) == ((64, 160), 4)
    assert np.mean(result.labels == labels_of_logits(logits, (90, 220))) > 0.999
    assert np.mean(labels_of_logits(toy.expected(prepare(image, SCALE)[None])[0], (90, 220)) != result.labels) > 0.01


def test_an_embedded_normalisation_gives_the_same_labels(make_toy, picture):
    image = picture(90, 220)
    with Engine.load(make_toy("a.onnx", batch=None, size=None, inference=SLIDE).path) as engine:
        expected = segment(engine, image)
    with Engine.load(make_toy("b.onnx", batch=None, size=None, inference=SLIDE, embed=True).path) as engine:
        assert engine.inputs[0].dtype == "uint8"
        assert np.mean(segment(engine, image, batch=2) == expected) > 0.999


def test_a_graph_of_labels_gives_them_at_the_pictures_size(make_toy, picture):
    toy, image = make_toy(batch=None, size=None, output="labels"), picture(90, 120)
    labels = toy.expected(prepare(image, SCALE)[None])[0].argmax(0).astype(np.uint8)
    with Engine.load(toy.path) as engine:
        result = segment(engine, image)
    assert result.dtype == np.uint8
    assert np.mean(result == nearest(labels, (90, 120))) > 0.999


def test_a_picture_smaller_than_the_crop_is_one_smaller_window(make_toy, picture):
    toy = make_toy(batch=None, size=None, inference=Inference("slide", (96, 96), (64, 64)))
    with Engine.load(toy.path) as engine:
        result = Segmenter(engine)(picture(64, 300))
    assert (result.network_size, result.windows) == ((64, 160), 2)


def test_one_segmenter_serves_many_threads(make_toy, picture):
    images = [picture(60 + 9 * i, 100 + 7 * i, seed=i) for i in range(12)]
    with Engine.load(make_toy(batch=None, size=None, inference=SLIDE).path, threads=1) as engine:
        segmenter = Segmenter(engine)
        expected = [segmenter(image).labels for image in images]
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda image: segmenter(image).labels, images))
    for result, one in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, one)


@pytest.mark.parametrize(
    ("toy", "options", "message"),
    [
        ({}, {"mode": "tile"}, "no mode 'tile'; choose auto, whole, slide"),
        ({}, {"batch": 0}, "batch is 0"),
        ({"batch": 2}, {"batch": 3}, "batch 3 was asked, but .* was exported for batch 2"),
        ({}, {"crop": (64, 64)}, "a crop and a stride belong to sliding windows"),
        ({}, {"mode": "slide"}, "does not say which stride to slide with"),
        ({"size": None}, {"mode": "slide", "stride": (32, 32)}, "does not say which crop"),
        ({"size": None}, {"mode": "slide", "crop": (60, 64), "stride": (30, 30)}, "crop 60x64 is not a multiple of 32"),
        ({}, {"mode": "slide", "stride": (65, 10)}, "windows of 64 pixels cannot be 65 apart"),
        ({"inference": Inference("slide", (96, 96), (64, 64))}, {}, "takes 64x64 only, but the windows are 96x96"),
        ({"inference": SLIDE, "output": "labels"}, {}, "averaged as logits, but .* gives labels"),
        ({"inference": SLIDE}, {"stretch": True}, "stretch is for a file of fixed size that is run whole"),
        ({"size": None}, {"stretch": True}, "stretch is for a file of fixed size that is run whole"),
    ],
)
def test_what_a_file_cannot_do_is_refused_before_the_first_picture(make_toy, toy, options, message):
    with Engine.load(make_toy(**toy).path) as engine, pytest.raises(UsageError, match=message):
        Segmenter(engine, **options)


@pytest.mark.parametrize(
    ("toy", "message"),
    [
        ({"metadata": False}, "does not say how pictures are to be fed; make it with adapter-export"),
        ({"preprocessing": None}, "does not say how pictures were normalised"),
        ({"declared_output": "features"}, "gives features, not a segmentation; export it with --output logits"),
        ({"inference": Inference("tiles")}, "run in mode 'tiles', which is unknown"),
        ({"preprocessing": Preprocessing(mean=(0, 0))}, "gives no three means and deviations"),
        ({"preprocessing": Preprocessing(pad=True)}, "pads its pictures as mmdet does"),
    ],
)
def test_files_that_do_not_say_enough_are_refused(make_toy, toy, message):
    with Engine.load(make_toy(**toy).path) as engine, pytest.raises(UnsupportedModel, match=message):
        Segmenter(engine)


def test_the_head_of_a_split_model_is_refused_with_its_tokens_named(make_toy):
    toy = make_toy(batch=None, size=None)
    graph = onnx.load(toy.path)
    graph.graph.input.append(onnx.helper.make_tensor_value_info("tokens_1", onnx.TensorProto.FLOAT, [1, 4, 8]))
    onnx.save(graph, toy.path)
    with (
        Engine.load(toy.path, threads=1) as engine,
        pytest.raises(UnsupportedModel, match=r"head of a split model and takes tokens_1 .* --backbone"),
    ):
        Segmenter(engine)


def test_a_fixed_size_refuses_other_pictures_or_stretches_them(make_toy, picture):
    toy, image = make_toy(size=(64, 96)), picture(90, 220)
    with Engine.load(toy.path) as engine:
        with pytest.raises(AdapterError, match="it is 64x160 after preprocessing, but the file takes 64x96 only"):
            segment(engine, image)
        stretched = segment(engine, image, stretch=True)
    expected = labels_of_logits(toy.expected(prepare(image, SCALE, stretch_to=(64, 96))[None])[0], (90, 220))
    assert np.mean(stretched == expected) > 0.999


def test_a_fixed_window_refuses_pictures_smaller_than_it(make_toy, picture):
    toy = make_toy(inference=SLIDE)
    with (
        Engine.load(toy.path) as engine,
        pytest.raises(AdapterError, match=r"it is 32x160 .* smaller than .* 64x64 windows"),
    ):
        segment(engine, picture(20, 200))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)), r"float64 \(8, 8, 3\); give a numpy array \(height, width, 3\) of uint8"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), "is empty"),
        ([[1]], "is list"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(make_toy, image, message):
    with Engine.load(make_toy().path) as engine, pytest.raises(UsageError, match=message):
        segment(engine, image)


def test_classes_without_names_are_numbered(make_toy):
    with Engine.load(make_toy(names=("sky", "tree")).path) as engine:
        assert Segmenter(engine).class_names == ("sky", "tree", "class 2", "class 3", "class 4")


def in_fp16(path):
    """The model in the file, made to take and give fp16, as --io-precision fp16 writes it."""
    model = onnx.load(path)
    graph, half = model.graph, onnx.TensorProto.FLOAT16
    image, output = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {image: "image_fp32", output: "output_fp32"}.get(name, name)
    graph.node.insert(0, onnx.helper.make_node("Cast", [image], ["image_fp32"], to=onnx.TensorProto.FLOAT))
    graph.node.append(onnx.helper.make_node("Cast", ["output_fp32"], [output], to=half))
    graph.input[0].type.tensor_type.elem_type = graph.output[0].type.tensor_type.elem_type = half
    onnx.save(model, path)


def test_a_model_with_fp16_inputs_and_outputs_segments_as_the_fp32_one(make_toy, picture):
    toy, image = make_toy(batch=None, inference=SLIDE), picture(90, 220)
    with Engine.load(toy.path, threads=1) as engine:
        expected = Segmenter(engine)(image).labels
    in_fp16(toy.path)
    with Engine.load(toy.path, threads=1) as engine:
        assert engine.inputs[0].dtype == engine.outputs[0].dtype == "float16"
        labels = Segmenter(engine)(image).labels
    assert len(np.unique(expected)) > 2
    assert np.mean(labels == expected) > 0.99


def test_a_bf16_model_is_refused_on_a_cpu_with_the_ways_out(make_toy):
    path = make_toy().path
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "adapter_infer.precision":
            entry.value = "bf16"
    onnx.save(model, path)
    with pytest.raises(EnvironmentMissing, match="bf16, in which ONNX Runtime does not compute on a CPU; build a plan"):
        Engine.load(path)
