"""The parity gate: torch against ONNX Runtime, on seeded pictures, through the library and through the function body.

The reference is the model as it was loaded, in eager fp32, with the reference arithmetic of MSDA, run before anything
is traced. A graph with a baked size does not fail, it lies; so a dynamic export is compared at sizes and batches that
the exporter never saw. How far an output may be from torch is said in `tolerance`, what holds for detectors in
`detector_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from adapter_export import detector_checks, detector_steps, matching, pictures, prepare, query_steps
from adapter_export.precision import Precision
from adapter_export.report import Difference, Match
from adapter_export.sizes import UNSEEN, Size
from adapter_export.tolerance import Array, Gap, Noise, gap, labels_gap, noises, pooled
from adapter_infer.detectors.detector import Detector
from adapter_infer.errors import EnvironmentMissing, ParityError
from adapter_infer.metadata import IMAGE, IMAGE_SIZE
from adapter_infer.spec import Preprocessing

FP32 = Precision()
DRAWS = 2  # of class logits, for every case
Found = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """One comparison: what the graph is fed, and what torch makes of it (maps, or logits also where labels are out).

    `noises` has one entry an output; none where everything is fp32. Of a detector `expected` and `noises` are what
    stands before any choice, and `detections` what torch finds in the end. Of a Mask2Former they are empty, since what
    torch makes depends on what the graph decides; it is given the normalised `picture` then.
    """

    image: Array
    expected: tuple[Array, ...]
    noises: tuple[Noise, ...] = ()
    image_size: Array | None = None
    detections: Found = field(default_factory=dict)
    picture: Array | None = None


def shapes(
    size: Size | None, batch: int | None, divisor: int, unseen: Sequence[Size] = UNSEEN
) -> list[tuple[int, int, int]]:
    """(N, H, W) of each comparison; None means dynamic. A dynamic export is traced at batch 2, so 1 and 3 are new."""
    sizes = [size] if size is not None else [(h * divisor, w * divisor) for h, w in unseen]
    if batch is not None:
        return [(batch, *each) for each in sizes] * (2 if size is not None and batch == 1 else 1)
    if len(sizes) == 1:
        return [(1, *sizes[0]), (3, *sizes[0])]
    return [(3 if i == 0 else 1, *each) for i, each in enumerate(sizes)]


def image_sizes(n: int, h: int, w: int, seed: int) -> Array:
    """(N, 2) int64: the seeded height and width of each picture inside its padding, of which there is always some."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(h - h // 4, h, n), rng.integers(w - w // 4, w, n)], 1).astype(np.int64)


@torch.no_grad()
def reference(
    model: nn.Module,
    wanted: Sequence[tuple[int, int, int]],
    output: str,
    preprocessing: Preprocessing,
    as_pixels: bool,
    seed: int = 0,
    precision: Precision = FP32,
) -> list[Case]:
    """What `model` makes of seeded pictures of these (N, H, W); `as_pixels`: the graph normalises them itself.

    Errors: ParityError where the model leaves the range of the half type it is to be written in.
    """
    cases = []
    for i, (n, h, w) in enumerate(wanted):
        kinds = pictures.KINDS[i % 2 :] + pictures.KINDS[: i % 2]
        raw = pictures.pixels(n, h, w, kinds, seed + i)
        image = pictures.normalise(raw, preprocessing)
        if output == "detections":
            size = image_sizes(n, h, w, seed + i)
            cases.append(_detector_case(model, raw if as_pixels else None, image, size, precision))
            continue
        if output != "features" and query_steps.names(model):
            cases.append(Case(raw if as_pixels else image, (), picture=image))
            continue
        kind = "logits" if output == "labels" else output

        def run(image: torch.Tensor, kind: str = kind) -> tuple[torch.Tensor, ...]:
            return prepare.outputs(model, kind, image)

        given = torch.from_numpy(image)
        expected = tuple(each.numpy() for each in run(given))
        moves = noises(model, run, (given,), expected, precision)
        if output == "dense" and moves:
            moves = _pooled(model, expected, moves)
        cases.append(Case(raw if as_pixels else image, expected, moves))
    return cases


def _detector_case(model: nn.Module, raw: Array | None, image: Array, size: Array, precision: Precision) -> Case:
    assert isinstance(model, Detector)
    for picture, (h, w) in zip(image, size, strict=True):
        picture[:, h:] = 0
        picture[:, :, w:] = 0
    given = torch.from_numpy(image)

    def run(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(detector_steps.dense(model, image).values())

    steps = {name: each.numpy() for name, each in detector_steps.detect(model, given, torch.from_numpy(size)).items()}
    expected = tuple(steps[name] for name in detector_steps.dense_names(model))
    found = {name: steps[name] for name in model.output_names if name != "masks"}
    moves = noises(model, run, (given,), expected, precision)
    if moves:
        moves = _pooled(model, expected, moves)
    return Case(image if raw is None else raw, expected, moves, size, found)


def _pooled(model: nn.Module, expected: Sequence[Array], moves: Sequence[Noise]) -> tuple[Noise, ...]:
    assert isinstance(model, Detector)
    names = detector_steps.dense_names(model)
    sizes = {name: array.size for name, array in zip(names, expected, strict=True)}
    return tuple(pooled(dict(zip(names, moves, strict=True)), sizes).values())


def library() -> tuple[Path | None, str]:
    """ONNX Runtime's custom-op library, or why there is none."""
    import adapter_plugins

    try:
        return adapter_plugins.library(adapter_plugins.ORT_CPU), ""
    except EnvironmentMissing as error:
        return None, str(error)


class Session:
    """A model in ONNX Runtime; `path` names the way it is run in messages.

    `custom_ops` is registered where given; otherwise functions run by their bodies. `optimise` False: as the graph
    stands. Errors: ParityError where the runtime refuses the file or a run.
    """

    def __init__(self, model: Path | bytes, path: str, custom_ops: Path | None = None, optimise: bool = True) -> None:
        import onnxruntime as ort

        self.path = path
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, and need not be printed as well
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            if custom_ops is not None:
                options.register_custom_ops_library(str(custom_ops))
            content = model if isinstance(model, bytes) else str(model)
            self.session: Any = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise ParityError(f"ONNX Runtime refuses the exported graph ({path}): {_first_line(error)}") from error

    def run(self, outputs: Sequence[str], inputs: Found) -> list[Array]:
        """These outputs for these inputs, which may hold more than the model takes and are cast to its types."""
        feeds = {}
        for entry in self.session.get_inputs():
            given = inputs[entry.name]
            feeds[entry.name] = given.astype(np.float16) if entry.type == "tensor(float16)" else given
        try:
            return self.session.run(list(outputs), feeds)
        except Exception as error:
            shape = "x".join(map(str, inputs[IMAGE].shape))
            message = f"the exported graph fails on input {shape} ({self.path}): {_first_line(error)}"
            raise ParityError(message) from error


def compare(session: Session, cases: Sequence[Case], outputs: Sequence[str]) -> Iterator[Difference]:
    """One Difference an output and case."""
    for case in cases:
        got = session.run(outputs, {IMAGE: case.image})
        yield from _compared(session.path, case, outputs, got)


def _compared(path: str, case: Case, names: Sequence[str], got: Sequence[Array]) -> Iterator[Difference]:
    moves = case.noises or (None,) * len(names)
    for name, array, expected, moved in zip(names, got, case.expected, moves, strict=True):
        measure = labels_gap if name == "labels" else gap
        yield measure(array, expected, moved).named(path, name, case.image.shape)


@torch.no_grad()
def compare_queries(
    path: str,
    answers: Sequence[Sequence[Array]],
    cases: Sequence[Case],
    model: nn.Module,
    outputs: Sequence[str],
    precision: Precision,
) -> Iterator[Difference]:
    """One Difference an output, a step and case; `answers` are a Mask2Former's outputs and steps for each case.

    Torch computes what the graph should have, looking where the graph looked.
    """
    steps = query_steps.names(model)
    kind = "queries" if len(outputs) > 1 else "logits"
    for case, got in zip(cases, answers, strict=True):
        assert case.picture is not None
        decided = [torch.from_numpy(each.astype(np.float32, copy=False)) for each in got[len(outputs) :]]

        def run(image: torch.Tensor, decided: Sequence[torch.Tensor] = decided) -> tuple[torch.Tensor, ...]:
            made: Any = model.queries if kind == "queries" else model
            with query_steps.watched(model, decided) as own:
                found = made(image)
            return (*(found if kind == "queries" else (found,)), *own)

        given = torch.from_numpy(case.picture)
        expected = tuple(each.numpy() for each in run(given))
        moves = noises(model, run, (given,), expected, precision)
        judged = Case(case.image, expected, moves)
        yield from _compared(path, judged, (*outputs, *steps), got)


def compare_detector(
    session: Session,
    cases: Sequence[Case],
    model: nn.Module,
    precision: Precision,
    chooser: Session | None = None,
    exact: bool = True,
) -> tuple[list[Difference], list[Match]]:
    """One Difference a step and case, and how far the detections agree; `session` shows the steps as outputs.

    `chooser` is the part of the graph behind the raw predictions; it is run on drawn ones too. `exact` False: what the
    runtime shows of a step is not, to the last bit, what it goes on with, so that only the dense steps are compared.
    """
    assert isinstance(model, Detector)
    names = (*model.output_names, *detector_steps.names(model))
    differences: list[Difference] = []
    matches = []
    for i, case in enumerate(cases):
        assert case.image_size is not None
        inputs = {IMAGE: case.image, IMAGE_SIZE: case.image_size}
        found = dict(zip(names, session.run(names, inputs), strict=True))
        dense = detector_steps.dense_names(model)
        differences += _compared(session.path, case, dense, [found[name].astype(np.float32) for name in dense])
        matches.append(matching.match(session.path, case.image.shape, found, case.detections))
        if not exact:
            continue
        graph = detector_checks.Graph(model, found, case.image_size, precision)
        steps = list(detector_checks.networks(graph)) + list(detector_checks.choices(graph))
        differences += _named(session.path, steps, case)
        for draw in range(0 if chooser is None else DRAWS):
            made = detector_checks.drawn(model, found, DRAWS * i + draw)
            assert chooser is not None
            differences += _named(chooser.path, _chosen(chooser, made, inputs, graph), case)
    return differences, matches


def _chosen(chooser: Session, made: Found, inputs: Found, graph: detector_checks.Graph) -> list[tuple[str, Gap]]:
    starts, inner = detector_checks.drawn_names(graph.model)
    names = [name for name in (*graph.model.output_names, *inner) if name != "masks"]
    given = {name: made[name].astype(np.float32) for name in starts}
    found = given | dict(zip(names, chooser.run(names, given | inputs), strict=True))
    case = detector_checks.Graph(graph.model, found, inputs[IMAGE_SIZE], FP32)
    return list(detector_checks.choices(case))


def _named(path: str, gaps: Sequence[tuple[str, Gap]], case: Case) -> list[Difference]:
    """The worst gap of each step."""
    worst: dict[str, Difference] = {}
    for name, each in gaps:
        difference = each.named(path, name, case.image.shape)
        if name not in worst or difference.share > worst[name].share:
            worst[name] = difference
    return list(worst.values())


def judge(worst: Difference | None) -> None:
    """Errors: ParityError that names the worst output where it is beyond its tolerance."""
    if worst is None or worst.share <= 1.0:
        return
    shape = "x".join(map(str, worst.input_shape))
    where = f"at input {shape} through the {worst.path} path"
    if worst.reason:
        raise ParityError(
            f"parity failed: {worst.output} are not what torch chooses {where}: {worst.reason}; no file was kept"
        )
    by_rms = worst.rms_limit is not None and worst.rms / worst.rms_limit > worst.largest / worst.limit
    amount, limit = (worst.rms, worst.rms_limit) if by_rms else (worst.largest, worst.limit)
    raise ParityError(
        f"parity failed: output {worst.output} differs from torch by {amount:.3g}{' in root mean square' * by_rms} "
        f"{where}, more than the tolerance of {limit:.3g}; no file was kept"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
