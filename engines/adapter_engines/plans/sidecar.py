"""What is known of a plan, kept in OUT.plan.json beside it, so that the plan itself stays what TensorRT wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer.errors import UnsupportedModel
from adapter_infer.files import replacing, sha256

if TYPE_CHECKING:
    from adapter_engines.plans.toolkit import Toolkit

FORMAT = 1
FIRST_COMPATIBLE = 8  # hardware compatible plans run on this major compute capability (Ampere) and later ones

Shapes = dict[str, dict[str, list[int]]]  # input -> {"min": shape, "opt": shape, "max": shape}


@dataclass(frozen=True)
class Sidecar:
    """One plan: what it was built from and with, what was found in it, and how it was checked.

    `toolkit` is "tensorrt" or "tensorrt_rtx"; `gpu` {"name", "compute_capability" as "9.0"} of the building machine,
    None where it had none. `precision` is the share of layers per type, found in the `precision_source` ("engine", or
    "network" where the engine could not be inspected). `profiles` hold the shapes of dynamic inputs. `parity` says
    {"done": True, ...figures} or {"done": False, "reason": ...}. `props` are the ONNX file's metadata_props, which
    adapter_infer.metadata.from_props reads. `layers` counts them: {"source", "count", "plugin", "by_type"}.
    `inputs` and `outputs` list {"name", "dtype", "shape" (-1: dynamic)}. `options` is what the build was asked for.
    """

    plan_sha256: str
    onnx_sha256: str
    checkpoint_sha256: str | None
    plugin_sha256: str | None
    plugin_embedded: bool
    toolkit: str
    toolkit_version: str
    gpu: dict[str, str] | None
    precision: dict[str, float]
    profiles: list[Shapes]
    parity: dict[str, Any] | None
    hardware_compatible: bool
    version_compatible: bool
    weights_stripped: bool
    props: dict[str, str]
    layers: dict[str, Any]
    precision_source: str = "engine"
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    plugin_layers: int = 0
    format: int = FORMAT


def path_of(plan: Path) -> Path:
    """OUT.plan.json for OUT.plan."""
    return plan.with_name(plan.name + ".json")


def read(plan: Path) -> Sidecar | None:
    """The sidecar of `plan`, None where there is none. Errors: UnsupportedModel on a damaged or a newer one."""
    path = path_of(plan)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path} cannot be read ({error}); build the plan again") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise UnsupportedModel(f"{path} is no description of a plan; build the plan again with adapter-engine")
    if content["format"] > FORMAT:
        raise UnsupportedModel(
            f"{path} is of format {content['format']}, and this version reads up to {FORMAT}; upgrade adapter-infer"
        )
    known = {each.name for each in fields(Sidecar)}
    try:
        return Sidecar(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        raise UnsupportedModel(f"{path} is damaged ({error}); build the plan again") from error


def write(plan: Path, sidecar: Sidecar) -> None:
    """Writes the sidecar of `plan`, whole or not at all. Errors: AdapterError."""
    with replacing(path_of(plan)) as stream:
        stream.write((json.dumps(asdict(sidecar), indent=2, ensure_ascii=False) + "\n").encode())


def mismatch(
    plan: Path,
    sidecar: Sidecar,
    toolkit: Toolkit,
    plugin: Path | None,
    gpu: Mapping[str, Any] | None,
) -> str | None:
    """Why `plan` must not be loaded here, None if it may be.

    `plugin` is the library that is loaded (None: none is), `gpu` {"name", "compute_capability"} of the device (None:
    not compared). Reads the whole plan to compare its hash.
    """
    return (
        content_mismatch(plan, sidecar)
        or environment_mismatch(plan, sidecar, toolkit, plugin, gpu)
        or _needs_refit(plan, sidecar)
    )


def content_mismatch(plan: Path, sidecar: Sidecar) -> str | None:
    """Whether the sidecar describes another plan than the one it stands beside, in one sentence."""
    found = sha256(plan)
    if found == sidecar.plan_sha256:
        return None
    return (
        f"{plan} has the SHA-256 {found[:16]}..., but {path_of(plan).name} describes {sidecar.plan_sha256[:16]}...; "
        "copy both files again, or build the plan again"
    )


def environment_mismatch(
    plan: Path, sidecar: Sidecar, toolkit: Toolkit, plugin: Path | None, gpu: Mapping[str, Any] | None
) -> str | None:
    """How TensorRT, the plugin or the GPU here differ from those of the build, in one sentence."""
    return (
        _toolkit_differs(plan, sidecar, toolkit)
        or _plugin_differs(plan, sidecar, plugin)
        or _gpu_differs(plan, sidecar, gpu)
    )


def _toolkit_differs(plan: Path, sidecar: Sidecar, toolkit: Toolkit) -> str | None:
    if sidecar.toolkit != toolkit.name:
        return (
            f"{plan} was built for {sidecar.toolkit}, and here runs {toolkit.name}; build it again with {toolkit.name}"
        )
    if sidecar.toolkit_version == toolkit.version:
        return None
    if sidecar.version_compatible and _release(toolkit.version) >= _release(sidecar.toolkit_version):
        return None
    way_out = (
        "a version compatible plan runs on the same or a later version; upgrade"
        if sidecar.version_compatible
        else "build it again here, or with --version-compatible"
    )
    return (
        f"{plan} was built with {sidecar.toolkit} {sidecar.toolkit_version}, and here is {toolkit.version}; {way_out}"
    )


def _plugin_differs(plan: Path, sidecar: Sidecar, plugin: Path | None) -> str | None:
    if not sidecar.plugin_layers or sidecar.plugin_embedded or sidecar.plugin_sha256 is None:
        return None
    if plugin is None:
        return (
            f"{plan} has {sidecar.plugin_layers} plugin layers, and no plugin library is loaded; "
            "`python -m adapter_plugins` says why it is missing"
        )
    found = sha256(plugin)
    if found == sidecar.plugin_sha256:
        return None
    return (
        f"{plan} was built with the plugin {sidecar.plugin_sha256[:16]}..., but {plugin.name} here is {found[:16]}...; "
        "build the plan again with this plugin, or install the one it was built with"
    )


def _gpu_differs(plan: Path, sidecar: Sidecar, gpu: Mapping[str, Any] | None) -> str | None:
    if gpu is None or sidecar.gpu is None:
        return None
    built, here = str(sidecar.gpu["compute_capability"]), str(gpu["compute_capability"])
    if built == here:
        return None
    if sidecar.hardware_compatible and int(here.partition(".")[0]) >= FIRST_COMPATIBLE:
        return None
    way_out = (
        "hardware compatible plans need compute capability 8.0 or more"
        if sidecar.hardware_compatible
        else "build it again here, or with --hardware-compatible"
    )
    return (
        f"{plan} was built for compute capability {built} ({sidecar.gpu['name']}), and this {gpu['name']} has {here}; "
        f"{way_out}"
    )


def _needs_refit(plan: Path, sidecar: Sidecar) -> str | None:
    if not sidecar.weights_stripped:
        return None
    return f"{plan} holds no weights (--strip-weights); fill them in with `adapter-engine refit`"


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.14.1.48.post1" gives (10, 14, 1, 48)."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
