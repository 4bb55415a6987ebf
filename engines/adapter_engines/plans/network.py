"""Parses an ONNX file into a strongly typed TensorRT network, and makes sure that the plugin is where it belongs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from adapter_engines.plans import layers
from adapter_engines.plans.source import Source, content
from adapter_engines.plans.toolkit import Toolkit
from adapter_infer.errors import AdapterError, UnsupportedModel

PLUGIN_LAYER = "PLUGIN_V3"


@dataclass(frozen=True)
class Network:
    """A parsed network, with the objects that must live as long as it does, and what it is made of."""

    builder: Any
    definition: Any
    parser: Any
    logger: Any
    types: Counter[str]  # layer type -> count
    plugin_layers: int


def logger(toolkit: Toolkit) -> Any:
    """A TensorRT logger that keeps warnings and errors, in `lines`, instead of printing them."""
    trt = toolkit.module

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.lines.append((severity.name, " ".join(message.split())))

    return Collector()


def parse(toolkit: Toolkit, source: Source, with_plugin: bool) -> Network:
    """The network of `source`; with the plugin, its function bodies are hidden from the parser.

    TensorRT 10.1 prefers a body to a plugin, later versions the plugin; so that the version does not decide, the bodies
    are taken out, and the plugin layers are counted. Errors: UnsupportedModel if the parser refuses the file,
    AdapterError if the network has not as many plugin layers as it should.
    """
    trt = toolkit.module
    log = logger(toolkit)
    builder = trt.Builder(log)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # TensorRT 11 knows no other
    definition = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    if definition is None:
        raise AdapterError(f"{toolkit.title} cannot make a network: {complaint(log)}")
    trt.init_libnvinfer_plugins(log, "")
    parser = trt.OnnxParser(definition, log)
    with content(source.path, without=source.bodies if with_plugin else frozenset()) as data:
        parsed = parser.parse(data, str(source.path))
    if not parsed or parser.num_errors:
        whole = source.metadata is not None and source.metadata.output == "detections"
        way_out = "; the part before the selection may build (adapter-export --output dense)" if whole else ""
        raise UnsupportedModel(
            f"{toolkit.title} does not take {source.path}: {_errors(parser) or complaint(log)}{way_out}"
        )
    types = Counter(layer.type.name for layer in layers.of(definition))
    network = Network(builder, definition, parser, log, types, types[PLUGIN_LAYER])
    _check_plugins(toolkit, source, network, with_plugin)
    return network


def _check_plugins(toolkit: Toolkit, source: Source, network: Network, with_plugin: bool) -> None:
    wanted = source.msda_nodes if with_plugin or not source.ours else 0
    if network.plugin_layers == wanted:
        return
    if with_plugin:
        raise AdapterError(
            f"{source.path} has {wanted} MSDA nodes, but {toolkit.title} made {network.plugin_layers} plugin layers of "
            "them; report this with the TensorRT version, or build with --without-plugin"
        )
    raise AdapterError(
        f"{network.plugin_layers} plugin layers are in the network although it was to be built without; the plugin is "
        "loaded in this process, build without it in another one"
    )


def _errors(parser: Any) -> str:
    """The parser's errors: each once, with the node it is about."""
    found: list[tuple[str, str]] = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        text = " ".join(error.desc().split())
        if text not in [known for known, _ in found]:
            found.append((text, error.node_name() if hasattr(error, "node_name") else ""))
    return "; ".join(f"{text} (node {node})" if node else text for text, node in found[:3])


def complaint(log: Any) -> str:
    """The last errors that TensorRT has logged, or that it has logged none."""
    lines = [message for severity, message in log.lines if severity != "WARNING"]
    return "; ".join(lines[-3:])[:600] or "it gave no reason"
