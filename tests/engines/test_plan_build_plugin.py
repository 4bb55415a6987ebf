"""The plugin in a build: loaded once, checked, and counted in the network; and how a stripped plan gets its weights."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from adapter_engines.plans import network, plugin, refit, source
from adapter_engines.plans import toolkit as toolkits
from adapter_engines.plans.network import Network
from adapter_engines.plans.options import BuildOptions, check_toolkit
from adapter_engines.plans.toolkit import Toolkit
from adapter_infer.errors import AdapterError, EnvironmentMissing, UsageError
from engines import plan_files
from engines.plan_files import described, tools


class Registry:
    """A plugin registry that takes a library, refuses it, or takes it without registering anything."""

    def __init__(self, answer: object, registers: bool = True) -> None:
        self.all_creators: list[SimpleNamespace] = []
        self.loaded: list[str] = []
        self._answer, self._registers = answer, registers

    def load_library(self, path: str) -> object:
        self.loaded.append(path)
        if self._registers:
            self.register()
        return self._answer

    def register(self) -> None:
        self.all_creators += [
            SimpleNamespace(name=name, plugin_version="1", plugin_namespace="adapter_infer")
            for name in plugin.OPERATORS
        ]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libmsda_trt10.so"
    path.write_bytes(b"a plugin")
    return path


@pytest.fixture
def with_registry(monkeypatch):
    monkeypatch.setattr(plugin, "_loaded", {})

    def make(registry: Registry) -> Toolkit:
        return Toolkit(SimpleNamespace(get_plugin_registry=lambda: registry), "tensorrt", "10.14.1.48", 10)

    return make


def test_a_library_is_loaded_once(with_registry, library: Path, tmp_path: Path) -> None:
    registry = Registry(object())
    kit = with_registry(registry)
    assert plugin.load(kit, library) == plugin.load(kit) == plugin.load(kit, library) == library
    assert registry.loaded == [str(library)] and plugin.registered(kit)
    with pytest.raises(EnvironmentMissing, match=r"already loaded in this process; load .*other\.so in another one"):
        plugin.load(kit, tmp_path / "other.so")


@pytest.mark.parametrize(
    ("answer", "registers", "says"),
    [(None, True, "was not taken"), (object(), False, "registers no MSDeformAttn and no MultiScaleDeformableAtt")],
)
def test_a_silent_refusal_is_noticed(with_registry, library: Path, answer, registers: bool, says: str) -> None:
    with pytest.raises(EnvironmentMissing, match=f"{says}.*build it against this TensorRT's headers"):
        plugin.load(with_registry(Registry(answer, registers)), library)


def test_a_missing_library_is_said(with_registry, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match=r"there is no plugin library .*no\.so"):
        plugin.load(with_registry(Registry(object())), tmp_path / "no.so")


def test_what_another_has_registered_is_not_registered_again(with_registry, library: Path) -> None:
    """A second registration leaves TensorRT with creators of an unloaded library."""
    registry = Registry(object())
    registry.register()
    with pytest.raises(EnvironmentMissing, match="another library has registered"):
        plugin.load(with_registry(registry), library)
    assert registry.loaded == []


def test_the_best_fitting_plugin_is_taken_for_tensorrt_rtx(monkeypatch, library: Path) -> None:
    def only_ten(major: int, self_registering: bool = False) -> Path:
        if major != 10:
            raise EnvironmentMissing(f"no plugin for {major}")
        return library

    monkeypatch.setattr("adapter_plugins.tensorrt_plugin", only_ten)
    assert plugin.libraries(tools("tensorrt_rtx", "1.7.1")) == [library]
    with pytest.raises(EnvironmentMissing, match="no plugin for 11"):
        plugin.libraries(tools(version="11.1.0"))


@pytest.mark.parametrize(
    ("nodes", "found", "with_plugin", "fine"),
    [(10, 10, True, True), (10, 9, True, False), (10, 0, True, False), (10, 0, False, True), (10, 10, False, False)],
)
def test_plugin_layers_are_counted(make_msda, nodes: int, found: int, with_plugin: bool, fine: bool) -> None:
    model = source.Source(Path("m.onnx"), "", source.read(make_msda()).file, None, nodes)
    parsed = Network(None, None, None, None, Counter(), found)
    if fine:
        network._check_plugins(tools(), model, parsed, with_plugin)
        return
    with pytest.raises(AdapterError, match=f"{found} plugin layers"):
        network._check_plugins(tools(), model, parsed, with_plugin)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("tensorrt", BuildOptions(embed_plugin=True), "version compatible plans only; add --version-compatible"),
        ("tensorrt", BuildOptions(compute_capability="8.9"), "--compute-capability goes with --toolkit tensorrt_rtx"),
        ("tensorrt_rtx", BuildOptions(hardware_compatible=True), "--hardware-compatible is TensorRT's"),
        ("tensorrt_rtx", BuildOptions(version_compatible=True), "--version-compatible is TensorRT's"),
    ],
)
def test_what_a_toolkit_does_not_have_is_refused(name: str, options: BuildOptions, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_toolkit(options, tools(name))


def test_other_versions_of_tensorrt_are_refused(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(EnvironmentMissing, match=r"TensorRT 8\.6\.1 is not supported; install 10 or 11"):
        toolkits.toolkit()
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.1.0.2"))
    assert (toolkits.toolkit().major, toolkits.toolkit().plugin_majors) == (11, (11,))
    with pytest.raises(UsageError, match="there is no toolkit 'trt'"):
        toolkits.toolkit("trt")


def test_a_refitted_plan_is_serialised_with_its_weights(make_msda, tmp_path: Path) -> None:
    """The functions are hidden from the refitter as they were from the parser, and the flag that drops weights goes."""
    calls: list[object] = []
    settings = SimpleNamespace(clear_flag=lambda flag: calls.append(("clear", flag)))
    engine = SimpleNamespace(
        create_serialization_config=lambda: settings,
        serialize_with_config=lambda given: b"whole" if given is settings else b"",
    )

    class ParserRefitter:
        def __init__(self, refitter: object, log: object) -> None:
            pass

        def refit_from_bytes(self, data: bytes, path: str) -> bool:
            calls.append((len(onnx.ModelProto.FromString(bytes(data)).functions), path))
            return True

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, log: object) -> None:
            pass

        def deserialize_cuda_engine(self, content: bytes) -> object:
            calls.append((bytes(content), self.engine_host_code_allowed))
            return engine

    class Logger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

        def __init__(self) -> None:
            self.lines: list[str] = []

    module = SimpleNamespace(
        ILogger=Logger,
        Runtime=Runtime,
        Refitter=lambda engine, log: SimpleNamespace(refit_cuda_engine=lambda: True),
        OnnxParserRefitter=ParserRefitter,
        SerializationFlag=SimpleNamespace(EXCLUDE_WEIGHTS="weights"),
    )
    model, stripped = source.read(make_msda()), tmp_path / "m.plan"
    stripped.write_bytes(b"stripped")
    kit = Toolkit(module, "tensorrt", "10.14.1.48", 10)
    assert (
        refit._refitted(kit, stripped, model, described(stripped, plugin_sha256="a" * 64, plugin_layers=1)) == b"whole"
    )
    assert calls == [(b"stripped", False), (0, str(model.path)), ("clear", "weights")]


@pytest.mark.skipif(bool(plan_files.missing()), reason=plan_files.missing() or "-")
def test_what_cannot_run_here_is_spelt_as_nvidia_spells_it() -> None:
    """In a process of its own: the bindings stay as they are first loaded."""
    program = """
from adapter_engines.plans.toolkit import toolkit
kit = toolkit("tensorrt_rtx"); trt = kit.module
assert kit.name == "tensorrt_rtx" and kit.major == 1 and kit.title.startswith("TensorRT-RTX 1."), kit
for name in ("Refitter.refit_cuda_engine", "OnnxParserRefitter.refit_from_bytes", "SerializationFlag.EXCLUDE_WEIGHTS",
             "ICudaEngine.create_serialization_config", "ICudaEngine.serialize_with_config",
             "ICudaEngine.device_memory_size_v2",
             "ICudaEngine.streamable_weights_size", "ISerializationConfig.clear_flag", "LayerInformationFormat.JSON",
             "EngineInspector.get_engine_information", "BuilderFlag.REFIT_IDENTICAL", "BuilderFlag.STRIP_PLAN",
             "BuilderFlag.WEIGHT_STREAMING", "BuilderFlag.VERSION_COMPATIBLE", "HardwareCompatibilityLevel.AMPERE_PLUS",
             "ProfilingVerbosity.LAYER_NAMES_ONLY", "MemoryPoolType.WORKSPACE", "IBuilderConfig.plugins_to_serialize"):
    owner, _, member = name.partition(".")
    assert hasattr(getattr(trt, owner), member), name
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
