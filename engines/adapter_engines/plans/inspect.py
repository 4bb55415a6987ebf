"""What a plan is: from its sidecar everywhere, from the engine itself where TensorRT and a GPU are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_engines import device
from adapter_engines.plans import layers, plugin, sidecar
from adapter_engines.plans.layers import Found
from adapter_engines.plans.profiles import KINDS
from adapter_engines.plans.sidecar import Sidecar
from adapter_engines.plans.toolkit import TENSORRT, Toolkit, toolkit
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError

if TYPE_CHECKING:
    from adapter_engines.plan_file import OpenPlan


@dataclass(frozen=True)
class Inspection:
    """`described` is the sidecar (None: there is none); `engine` what TensorRT says, None with the reason in `unseen`.

    `mismatch` says what does not fit, and `exit_code` with what the command ends: 3 where the sidecar is of another
    plan, 5 where plan and machine do not go together, 0 otherwise. `unchecked` says what could not be compared here.
    """

    path: Path
    file_bytes: int
    described: Sidecar | None
    engine: dict[str, Any] | None
    unseen: str | None
    mismatch: str | None
    unchecked: str | None
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path)}


def inspect(plan: str | Path, *, allow_embedded_code: bool = False) -> Inspection:
    """Looks at a plan; loads it only where nothing speaks against it.

    `allow_embedded_code` lets a plan that holds a plugin or a lean runtime be loaded, which runs that code.
    Errors: UsageError if there is no such file, EnvironmentMissing where neither sidecar nor engine can be read.
    """
    plan = Path(plan)
    if not plan.is_file():
        raise UsageError(f"{plan} is a folder; name the plan in it" if plan.is_dir() else f"there is no file {plan}")
    described = sidecar.read(plan)
    mismatch, unchecked, exit_code = None, None, 0
    if described is not None:
        mismatch = sidecar.content_mismatch(plan, described)
        exit_code = UnsupportedModel.exit_code if mismatch else 0
    if described is not None and mismatch is None:
        mismatch, unchecked = _environment(plan, described)
        exit_code = EnvironmentMissing.exit_code if mismatch else 0
    engine, unseen = (
        (None, "it was not loaded because of the mismatch") if mismatch else _engine(plan, allow_embedded_code)
    )
    if described is None and engine is None:
        raise EnvironmentMissing(
            f"{plan} has no {sidecar.path_of(plan).name} beside it, and cannot be loaded: {unseen}"
        )
    return Inspection(plan, plan.stat().st_size, described, engine, unseen, mismatch, unchecked, exit_code)


def layers_of(plan: Path) -> Found | None:
    """The layers of a plan that was just built here, None where it holds no details. Errors: AdapterError."""
    from adapter_engines.plan_file import open_plan

    opened = open_plan(plan, allow_embedded_code=True)
    try:
        return _layers(opened)
    finally:
        opened.close()


def _environment(plan: Path, described: Sidecar) -> tuple[str | None, str | None]:
    """(what differs from the build, why it could not be compared)."""
    try:
        tools = toolkit(described.toolkit)
    except AdapterError as error:
        return None, str(error)
    gpu = None
    if device.unusable() is None:
        info = device.Device().info()
        gpu = {"name": info.name, "compute_capability": info.compute_capability}
    return sidecar.environment_mismatch(plan, described, tools, _library(tools, described), gpu), None


def _library(tools: Toolkit, described: Sidecar) -> Path | None:
    """The installed plugin library that matches, the preferred one if none does, None without any."""
    from adapter_infer.files import sha256

    try:
        candidates = plugin.libraries(tools)
    except EnvironmentMissing:
        return None
    return next((each for each in candidates if sha256(each) == described.plugin_sha256), candidates[0])


def _engine(plan: Path, allow_embedded_code: bool) -> tuple[dict[str, Any] | None, str | None]:
    """(what the engine says, why it says nothing)."""
    from adapter_engines.plan_file import open_plan

    try:
        opened = open_plan(plan, allow_embedded_code=allow_embedded_code)
    except AdapterError as error:
        return None, str(error)
    try:
        return _facts(opened), None
    finally:
        opened.close()


def _facts(opened: OpenPlan) -> dict[str, Any]:
    found = _layers(opened)
    inputs, outputs = (
        [{"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in tensors]
        for tensors in (opened.inputs, opened.outputs)
    )
    return {
        "toolkit": f"{TENSORRT} {opened.toolkit.version}",
        "inputs": inputs,
        "outputs": outputs,
        "profiles": _profiles(opened),
        "layers": None if found is None else found.summary(),
        "precision": None if found is None else found.precision,
        "memory": _memory(opened.engine),
    }


def _profiles(opened: OpenPlan) -> list[sidecar.Shapes]:
    dynamic = [tensor for tensor in opened.inputs if -1 in tensor.shape]
    return [
        {each.name: dict(zip(KINDS, map(list, each.ranges[i]), strict=True)) for each in dynamic}
        for i in range(opened.engine.num_optimization_profiles if dynamic else 0)
    ]


def _memory(engine: Any) -> dict[str, int]:
    """Bytes of device memory as the engine gives them; what its version of TensorRT does not know is left out."""
    names = {"context": "device_memory_size_v2", "streamable_weights": "streamable_weights_size"}
    return {key: int(getattr(engine, name)) for key, name in names.items() if hasattr(engine, name)}


def _layers(opened: OpenPlan) -> Found | None:
    form = opened.toolkit.module.LayerInformationFormat.JSON
    return layers.in_engine(opened.engine.create_engine_inspector().get_engine_information(form))
