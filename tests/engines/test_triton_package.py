"""Triton's model repository: its configuration is parsed by protobuf's own text format, and nothing is overwritten."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import adapter_plugins
from adapter_engines.plan_cli import main
from adapter_engines.plans import sidecar, triton
from adapter_engines.plans.triton import package
from adapter_infer.errors import EnvironmentMissing, UsageError
from engines import detector_files
from engines.plan_files import described

# Field numbers, names and types of Triton's model_config.proto, as far as they are used here.
SCALARS = {"string": 9, "int32": 5, "int64": 3, "uint64": 4}
ENUMS = {
    "DataType": [
        "INVALID",
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "STRING",
        "BF16",
    ],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
}
MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "ModelInput": [("name", 1, "string", False), ("data_type", 2, "DataType", False), ("dims", 4, "int64", True)],
    "ModelTensorReshape": [("shape", 1, "int64", True)],
    "ModelOutput": [
        ("name", 1, "string", False),
        ("data_type", 2, "DataType", False),
        ("dims", 3, "int64", True),
        ("reshape", 5, "ModelTensorReshape", False),
    ],
    "ModelInstanceGroup": [("count", 2, "int32", False), ("kind", 4, "Kind", False), ("profile", 5, "string", True)],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, "int32", True),
        ("max_queue_delay_microseconds", 2, "uint64", False),
    ],
    "ModelOperations": [("op_library_filename", 1, "string", True)],
    "ModelConfig": [
        ("name", 1, "string", False),
        ("platform", 2, "string", False),
        ("max_batch_size", 4, "int32", False),
        ("input", 5, "ModelInput", True),
        ("output", 6, "ModelOutput", True),
        ("instance_group", 7, "ModelInstanceGroup", True),
        ("default_model_filename", 8, "string", False),
        ("dynamic_batching", 11, "ModelDynamicBatching", False),
        ("backend", 17, "string", False),
        ("model_operations", 18, "ModelOperations", False),
    ],
}


def message_type():
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="triton", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value if name == "Kind" else f"TYPE_{value}", number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            made = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in SCALARS:
                made.type = SCALARS[kind]
            else:
                made.type, made.type_name = (14 if kind in ENUMS else 11), f".triton.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.ModelConfig"))


def parsed(folder: Path):
    return text_format.Parse((folder / "config.pbtxt").read_text(), message_type()())


@pytest.fixture
def plugins(monkeypatch, tmp_path: Path) -> SimpleNamespace:
    """The two plugin libraries of TensorRT 10."""
    made = SimpleNamespace(plain=tmp_path / "libmsda_trt10.so", static=tmp_path / "libmsda_trt10_static.so")
    made.plain.write_bytes(b"plain")
    made.static.write_bytes(b"registers itself")

    def library(major: int, self_registering: bool = False) -> Path:
        assert major == 10
        return made.static if self_registering else made.plain

    monkeypatch.setattr(adapter_plugins, "tensorrt_plugin", library)
    return made


@pytest.fixture
def plan(tmp_path: Path, plugins) -> Path:
    """A dynamic plan with two profiles and the plugin outside."""
    path = tmp_path / "upernet.plan"
    path.write_bytes(b"ftrt a plan")
    shapes = [
        {"min": [1, 3, 64, 64], "opt": [opt, 3, 64, 96], "max": [most, 3, 128, 128]} for opt, most in ((1, 2), (4, 8))
    ]
    sidecar.write(
        path,
        described(
            path,
            profiles=[{"image": each} for each in shapes],
            inputs=[{"name": "image", "dtype": "float32", "shape": [-1, 3, -1, -1]}],
            outputs=[{"name": "logits", "dtype": "float16", "shape": [-1, 150, -1, -1]}],
            plugin_sha256=hashlib.sha256(b"plain").hexdigest(),
            plugin_layers=10,
        ),
    )
    return path


def test_a_dynamic_plan_is_described_without_its_batch(plan: Path, tmp_path: Path, plugins) -> None:
    made = package(plan, tmp_path / "models")
    config = parsed(made.folder)
    assert made.folder == tmp_path / "models/upernet" and config.name == "upernet"
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert config.max_batch_size == 8
    (image,), (logits,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", ENUMS["DataType"].index("FP32"), [3, -1, -1])
    assert (logits.name, logits.data_type, list(logits.dims)) == (
        "logits",
        ENUMS["DataType"].index("FP16"),
        [150, -1, -1],
    )
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (ENUMS["Kind"].index("KIND_GPU"), 1, ["0", "1"])
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert (made.folder / "1" / config.default_model_filename).read_bytes() == plan.read_bytes()


def test_the_plugin_lies_beside_it_and_the_command_loads_it(plan: Path, tmp_path: Path, plugins) -> None:
    made = package(plan, tmp_path / "models")
    assert made.library is not None and made.library.read_bytes() == b"registers itself"
    assert made.command == (
        f"tritonserver --model-repository={tmp_path}/models "
        f"--backend-config=tensorrt,plugins={tmp_path}/models/upernet/plugins/libmsda_trt10_static.so"
    )
    assert not parsed(made.folder).HasField("model_operations"), "that field is for ONNX Runtime"
    elsewhere = package(plan, tmp_path / "others", server_path="/models")
    assert "--model-repository=/models --backend-config=tensorrt,plugins=/models/upernet/plugins/" in elsewhere.command


def test_an_embedded_plugin_needs_no_library(plan: Path, tmp_path: Path, plugins) -> None:
    changed = described(plan, plugin_sha256="0" * 64, plugin_layers=10, plugin_embedded=True, version_compatible=True)
    sidecar.write(plan, changed)
    made = package(plan, tmp_path / "models")
    assert made.library is None and "--backend-config=tensorrt,version-compatible=true" in made.command
    config = parsed(made.folder)
    assert config.max_batch_size == 0 and list(config.input[0].dims) == [1, 3, 64, 64], "a fixed batch is spelt out"
    assert not config.HasField("dynamic_batching") and not config.instance_group[0].profile


def test_versions_are_added_and_never_overwritten(plan: Path, tmp_path: Path, plugins) -> None:
    assert package(plan, tmp_path / "models").version == 1
    assert package(plan, tmp_path / "models").version == 2
    assert package(plan, tmp_path / "models", version=7).version == 7
    assert package(plan, tmp_path / "models").version == 8
    kept = tmp_path / "models/upernet/2/model.plan"
    kept.write_bytes(b"kept")
    with pytest.raises(UsageError, match=r"upernet/2 exists and is not overwritten"):
        package(plan, tmp_path / "models", version=2)
    assert kept.read_bytes() == b"kept"
    left = sorted(path.name for path in (tmp_path / "models/upernet").iterdir())
    assert left == ["1", "2", "7", "8", "config.pbtxt", "plugins"]


def test_a_model_with_other_settings_is_refused_under_the_name(plan: Path, tmp_path: Path, plugins) -> None:
    package(plan, tmp_path / "models")
    with pytest.raises(UsageError, match=r"config\.pbtxt describes another model or other settings"):
        package(plan, tmp_path / "models", max_batch=4)
    assert sorted(path.name for path in (tmp_path / "models/upernet").iterdir()) == ["1", "config.pbtxt", "plugins"]


@pytest.mark.parametrize("limit", [0, 9])
def test_a_batch_the_plan_does_not_take_is_refused(plan: Path, tmp_path: Path, plugins, limit: int) -> None:
    with pytest.raises(UsageError, match=f"--max-batch is {limit}, but .* takes 1 to 8"):
        package(plan, tmp_path / "models", max_batch=limit)


def test_plans_that_cannot_be_served_are_refused(plan: Path, tmp_path: Path, plugins) -> None:
    whole = sidecar.read(plan)
    assert whole is not None
    plugins.plain.write_bytes(b"another build")
    with pytest.raises(EnvironmentMissing, match="built with another plugin"):
        package(plan, tmp_path / "models")
    sidecar.write(plan, described(plan, weights_stripped=True))
    with pytest.raises(UsageError, match="refit"):
        package(plan, tmp_path / "models")
    sidecar.write(plan, described(plan, toolkit="tensorrt_rtx"))
    with pytest.raises(UsageError, match="Triton has no backend for"):
        package(plan, tmp_path / "models")
    plan.write_bytes(b"changed")
    with pytest.raises(UsageError, match="SHA-256"):
        package(plan, tmp_path / "models")
    sidecar.path_of(plan).unlink()
    with pytest.raises(UsageError, match=r"no upernet\.plan\.json beside it"):
        package(plan, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["a/b", "..", "a b"])
def test_names_that_leave_the_repository_are_refused(plan: Path, tmp_path: Path, plugins, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a model"):
        package(plan, tmp_path / "models", name=name)


def test_an_onnx_file_with_its_weights_and_library_runs_from_the_repository(make_toy, tmp_path: Path) -> None:
    toy = make_toy(batch=None, size=(64, 64))
    onnx.save(
        onnx.load(toy.path), tmp_path / "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    made = package(tmp_path / "big.onnx", tmp_path / "models", max_batch=4)
    config = parsed(made.folder)
    assert (config.backend, config.platform, config.max_batch_size) == ("onnxruntime", "onnxruntime_onnx", 4)
    assert list(config.input[0].dims) == [3, 64, 64] and list(config.output[0].dims) == [5, 64, 64]
    assert config.instance_group[0].kind == ENUMS["Kind"].index("KIND_CPU")
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert made.library is None and made.command == f"tritonserver --model-repository={tmp_path}/models"
    session = ort.InferenceSession(str(made.folder / "1/model.onnx"), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"image": x})[0], toy.expected(x), rtol=1e-3, atol=1e-4)


def test_an_onnx_file_with_our_operator_names_the_library(make_msda, msda_feeds, tmp_path: Path) -> None:
    try:
        adapter_plugins.library(adapter_plugins.ORT_CPU)
    except EnvironmentMissing as error:
        pytest.skip(str(error))
    made = package(make_msda(), tmp_path / "models")
    (named,) = parsed(made.folder).model_operations.op_library_filename
    assert Path(named) == made.library == tmp_path / "models/msda/plugins/libmsda_ort_cpu.so"
    options = ort.SessionOptions()
    options.register_custom_ops_library(named)
    feeds = msda_feeds()
    (output,) = ort.InferenceSession(str(made.folder / "1/model.onnx"), options).run(None, feeds)
    np.testing.assert_allclose(output, feeds["value"].reshape(1, 6, 8), rtol=1e-6)


def test_the_command_says_how_to_start(plan: Path, tmp_path: Path, plugins, capsys) -> None:
    assert main(["package", str(plan), "--triton", str(tmp_path / "models"), "--name", "seg"]) == 0
    printed = capsys.readouterr().out
    assert "models/seg, version 1" in printed and "--backend-config=tensorrt,plugins=" in printed
    assert (
        main(["package", str(plan), "--triton", str(tmp_path / "models"), "--name", "seg", "--model-version", "1"]) == 2
    )


def test_no_field_is_written_that_triton_does_not_have() -> None:
    """The parser above knows only Triton's own names, so a misspelt one is caught."""
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch: 3", message_type()())
    assert set(triton.TYPES.values()) <= set(ENUMS["DataType"])


def test_a_detector_has_two_inputs_and_one_number_a_picture(tmp_path: Path) -> None:
    """Triton wants a dimension where the model gives a number: a reshape takes it away."""
    model = detector_files.detector(tmp_path / "detector.onnx", batch=None, size=(96, 160))
    config = parsed(package(model, tmp_path / "models", max_batch=4).folder)
    assert config.max_batch_size == 4
    assert [(each.name, list(each.dims)) for each in config.input] == [("image", [3, 96, 160]), ("image_size", [2])]
    assert config.input[1].data_type == ENUMS["DataType"].index("INT64")
    outputs = {each.name: each for each in config.output}
    assert [list(outputs[name].dims) for name in ("boxes", "labels", "masks")] == [[4, 4], [4], [4, 28, 28]]
    assert list(outputs["count"].dims) == [1] and outputs["count"].HasField("reshape")
    assert not outputs["count"].reshape.shape and not outputs["boxes"].HasField("reshape")
    fixed = detector_files.detector(tmp_path / "fixed.onnx", size=(96, 160))
    outputs = {each.name: each for each in parsed(package(fixed, tmp_path / "models").folder).output}
    assert list(outputs["count"].dims) == [1] and not outputs["count"].HasField("reshape")
