"""Takes a written file through the parity gate by every path it can run on, and judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from adapter_export import bodies, files, parity, probes, rounding
from adapter_export.plan import Plan
from adapter_export.report import Difference, Match, Parity
from adapter_export.sizes import UNSEEN, UNSEEN_DETECTOR
from adapter_infer.detectors.detector import Detector
from adapter_infer.metadata import IMAGE
from adapter_infer.spec import Preprocessing


def reference(model: nn.Module, plan: Plan, seed: int) -> list[parity.Case]:
    """What torch makes of the pictures that the file is to be compared on."""
    unseen = UNSEEN_DETECTOR if isinstance(model, Detector) else UNSEEN
    shapes = parity.shapes(plan.size, plan.form.batch, plan.form.size_divisor, unseen)
    # Without a normalisation of the model's own, pictures are brought to the usual range.
    preprocessing = plan.preprocessing or Preprocessing()
    return parity.reference(model, shapes, plan.output, preprocessing, plan.form.embed_preprocess, seed, plan.precision)


def run(
    place: files.Staging,
    plan: Plan,
    model: nn.Module,
    cases: Sequence[parity.Case],
    msda_nodes: int,
    chooser: bytes | None = None,
) -> Parity:
    """Compares the written file by every path; sessions one after the other, so that memory holds one.

    `chooser` is the part of a detector's graph behind its raw predictions. Errors: ParityError.
    """
    differences: list[Difference] = []
    matches: list[Match] = []
    unchecked: dict[str, str] = {}
    file, kind = place.model, plan.precision.coarsest
    if kind != "fp32":
        file = rounding.copy(place, plan.probes)

    def compare(file: Path, path: str, custom_ops: Path | None, optimise: bool = kind == "fp32") -> None:
        nonlocal chooser
        if not plan.probes:
            differences.extend(parity.compare(parity.Session(file, path, custom_ops, optimise), cases, plan.outputs))
            return
        shown = file if file.name.startswith("rounded-") else probes.show(file, plan.probes)
        session = parity.Session(shown, path, custom_ops, optimise)
        if isinstance(model, Detector):
            choosing = None if chooser is None else parity.Session(chooser, "drawn")
            chooser = None  # once is enough: it holds no weights and nothing that paths differ in
            # ONNX Runtime goes on with fp32 numbers where the file says fp16, and shows them rounded.
            exact = path != "as_written"
            found = parity.compare_detector(session, cases, model, plan.precision, choosing, exact)
            differences.extend(found[0])
            matches.extend(found[1])
        else:
            answers = [session.run((*plan.outputs, *plan.probes), {IMAGE: case.image}) for case in cases]
            del session  # its memory, before torch takes as much again
            differences.extend(parity.compare_queries(path, answers, cases, model, plan.outputs, plan.precision))
        if shown != file:
            shown.unlink()

    custom_ops: Path | None = None
    if not msda_nodes:
        compare(file, "plain", None)
    elif plan.flavour.carries_body:
        custom_ops, missing = parity.library()
        if custom_ops is None:
            unchecked["library"] = missing
        else:
            compare(file, "library", custom_ops)
        compare(file, "body", None)
    else:
        # ONNX Runtime has no such operator: a copy of the file with a body for it is compared instead, which checks
        # all but the plugin's own arithmetic.
        assert plan.flavour.operator is not None
        stand_in = files.with_functions(file, [bodies.body(plan.flavour.operator, plan.opset)])
        compare(stand_in, "stand_in", None)
        stand_in.unlink()
    if kind == "fp16" and (not msda_nodes or plan.flavour.carries_body):
        # ONNX Runtime computes what it has no fp16 kernel for in fp32; that flatters the file, but it must run.
        compare(place.model, "as_written", custom_ops, True)
    elif kind == "bf16":
        unchecked["as_written"] = "ONNX Runtime's CPU has no arithmetic in bf16"
    if file != place.model:
        file.unlink()
    result = Parity(tuple(differences), unchecked, None if kind == "fp32" else kind, tuple(matches))
    parity.judge(result.worst())
    return result
