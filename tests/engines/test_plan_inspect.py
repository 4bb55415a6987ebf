"""`adapter-engine inspect`: what the sidecar and the engine say, and what of the two does not fit this machine."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from adapter_engines.plan_cli import main
from adapter_engines.plans import layers, sidecar
from adapter_infer.errors import AdapterError
from adapter_infer.files import sha256
from engines import fake_cuda, fake_tensorrt
from engines.fake_tensorrt import write_plan, write_sidecar
from engines.plan_files import described

PROFILES = [[(1, 4), (2, 4), (8, 4)], [(1, 4), (16, 4), (32, 4)]]
#: The inspector's answer in the form of TensorRT 10: format and type in one text.
TEN = {
    "Layers": [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "image", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "a", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        },
        {
            "Name": "msda",
            "LayerType": "PluginV3",
            "Inputs": [],
            "Outputs": [{"Name": "b", "Format/Datatype": "Row major linear BFloat16"}],
        },
        {
            "Name": "shapes",
            "LayerType": "ShapeHostToDevice",
            "Inputs": [],
            "Outputs": [{"Name": "c", "Format/Datatype": "Row major linear INT64"}],
        },
        {"Name": "signal", "LayerType": "Signal", "Inputs": [], "Outputs": []},
    ],
    "Bindings": ["image", "logits"],
}
#: The same in the form of TensorRT 11.
ELEVEN = {
    "Layers": [
        {
            "Name": "conv",
            "LayerType": "conv",
            "Inputs": [{"Name": "image", "Format": "LINEAR", "Datatype": "Float"}],
            "Outputs": [{"Name": "a", "Format": "HWC8", "Datatype": "Half"}],
        },
        {"Name": "msda", "LayerType": "PluginV3", "Outputs": [{"Name": "b", "Format": "LINEAR", "Datatype": "FP32"}]},
    ],
    "I/O Tensors": [],
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "libmsda_trt10.so"
    path.write_bytes(b"a plugin library")
    return path


@pytest.fixture
def world(monkeypatch, plugin):
    made = fake_cuda.World()
    module = fake_tensorrt.install(monkeypatch, made, plugin)
    module.LayerInformationFormat = type("LayerInformationFormat", (), {"JSON": 1})

    def inspector(engine):
        return type("Inspector", (), {"get_engine_information": lambda self, form: json.dumps(TEN)})()

    monkeypatch.setattr(fake_tensorrt.ICudaEngine, "create_engine_inspector", inspector, raising=False)
    yield made
    gc.collect()
    made.check()


def inspected(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_sidecar_and_engine_are_shown(world, tmp_path: Path, capsys) -> None:
    plan = write_plan(tmp_path / "m.plan", ranges=PROFILES)
    write_sidecar(plan)
    code, out, err = inspected(capsys, plan, "--json", tmp_path / "found.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    engine = found["engine"]
    assert engine["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]
    assert engine["profiles"] == [
        {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}},
        {"x": {"min": [1, 4], "opt": [16, 4], "max": [32, 4]}},
    ]
    assert engine["layers"] == {
        "source": "engine",
        "count": 4,
        "plugin": 1,
        "by_type": {"CaskConvolution": 1, "PluginV3": 1, "ShapeHostToDevice": 1, "Signal": 1},
    }
    assert engine["precision"] == {"fp16": 0.25, "bf16": 0.25, "int64": 0.25, "unknown": 0.25}
    assert engine["memory"] == {"context": 4096}
    assert found["mismatch"] is None and found["described"]["toolkit"] == "tensorrt"
    assert "loaded here" in out and "1 PluginV3" in out


def test_a_plan_without_sidecar_is_shown_by_its_engine(world, tmp_path: Path, capsys) -> None:
    code, out, _ = inspected(capsys, write_plan(tmp_path / "m.plan"))
    assert code == 0 and "there is no m.plan.json beside it" in out and "fp16 25.0%" in out


def test_a_sidecar_of_another_plan_ends_with_3(world, tmp_path: Path, capsys) -> None:
    plan = write_plan(tmp_path / "m.plan")
    write_sidecar(plan)
    write_plan(plan, "positives")
    code, out, err = inspected(capsys, plan)
    assert code == 3 and "has the SHA-256" in err and err.count("\n") == 1
    assert "not loaded: it was not loaded because of the mismatch" in out


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"toolkit_version": "10.9.0"}, "built with tensorrt 10.9.0, and here is 10.14.1.48"),
        ({"gpu": {"name": "NVIDIA L4", "compute_capability": "8.9"}}, "built for compute capability 8.9 (NVIDIA L4)"),
        ({"plugin_sha256": "a" * 64, "plugin_layers": 3}, "built with the plugin aaaaaaaaaaaaaaaa"),
    ],
)
def test_what_does_not_fit_this_machine_ends_with_5(world, tmp_path: Path, capsys, changed, says: str) -> None:
    plan = write_plan(tmp_path / "m.plan")
    sidecar.write(plan, described(plan, **({"gpu": {"name": "Pretended GPU", "compute_capability": "9.0"}} | changed)))
    code, out, err = inspected(capsys, plan)
    assert code == 5 and says in err and says in out


def test_the_installed_plugin_is_recognised(world, tmp_path: Path, plugin: Path, capsys) -> None:
    plan = write_plan(tmp_path / "m.plan", plugin=True)
    gpu = {"name": "Pretended GPU", "compute_capability": "9.0"}
    sidecar.write(plan, described(plan, gpu=gpu, plugin_sha256=sha256(plugin), plugin_layers=1))
    assert inspected(capsys, plan)[0] == 0


def test_a_plan_with_code_is_loaded_only_when_it_is_trusted(world, tmp_path: Path, capsys) -> None:
    plan = write_plan(tmp_path / "m.plan", code=True)
    gpu = {"name": "Pretended GPU", "compute_capability": "9.0"}
    sidecar.write(plan, described(plan, gpu=gpu, plugin_embedded=True, version_compatible=True))
    code, out, _ = inspected(capsys, plan)
    assert code == 0 and "not loaded: " in out and "code" in out
    code, out, _ = inspected(capsys, plan, "--allow-embedded-code")
    assert code == 0 and "loaded here" in out


def test_without_a_gpu_the_sidecar_is_shown(monkeypatch, tmp_path: Path, capsys) -> None:
    fake_tensorrt.install(monkeypatch, fake_cuda.World(devices=0), None)
    plan = tmp_path / "m.plan"
    plan.write_bytes(b"a plan")
    sidecar.write(plan, described(plan))
    code, out, err = inspected(capsys, plan)
    assert (code, err) == (0, "")
    assert "TensorRT 10.14.1.48 on NVIDIA H100 (9.0)" in out and "fp16 75.0%, fp32 25.0% of layers" in out
    assert "image float32 1x3x64x64" in out and "not compared: a test" in out and "not loaded: " in out


def test_with_neither_sidecar_nor_gpu_there_is_nothing_to_say(monkeypatch, tmp_path: Path, capsys) -> None:
    fake_tensorrt.install(monkeypatch, fake_cuda.World(devices=0), None)
    (tmp_path / "m.plan").write_bytes(b"a plan")
    code, out, err = inspected(capsys, tmp_path / "m.plan")
    assert code == 5 and out == "" and "has no m.plan.json beside it, and cannot be loaded" in err


def test_no_plan_and_a_folder_are_told_apart(tmp_path: Path, capsys) -> None:
    assert inspected(capsys, tmp_path / "no.plan")[0] == 2
    code, _, err = inspected(capsys, tmp_path)
    assert code == 2 and "is a folder" in err


def test_types_are_read_in_both_forms() -> None:
    ten, eleven = layers.in_engine(json.dumps(TEN)), layers.in_engine(json.dumps(ELEVEN))
    assert ten is not None and ten.precision == {"fp16": 0.25, "bf16": 0.25, "int64": 0.25, "unknown": 0.25}
    assert eleven is not None and eleven.precision == {"fp16": 0.5, "fp32": 0.5}
    assert (ten.plugin, eleven.plugin) == (1, 1)


def test_names_alone_are_no_details() -> None:
    assert layers.in_engine('{"Layers": ["conv + relu", "msda"]}') is None
    assert layers.in_engine('{"Layers": []}') is None
    with pytest.raises(AdapterError, match="cannot be read"):
        layers.in_engine("")
