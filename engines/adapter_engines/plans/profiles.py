"""Optimization profiles: the ranges of batch and size a plan is built for, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapter_engines.plans.sidecar import Shapes
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.metadata import IMAGE, IMAGE_SIZE, InputForm, Metadata

Size = tuple[int, int]
KINDS = ("min", "opt", "max")


@dataclass(frozen=True)
class Range:
    """What is asked of one profile: batches, and (height, width) in pixels. None: not said."""

    min_batch: int | None = None
    opt_batch: int | None = None
    max_batch: int | None = None
    min_size: Size | None = None
    opt_size: Size | None = None
    max_size: Size | None = None

    @property
    def batches(self) -> tuple[int | None, int | None, int | None]:
        """min, opt, max."""
        return self.min_batch, self.opt_batch, self.max_batch

    @property
    def sizes(self) -> tuple[Size | None, Size | None, Size | None]:
        """min, opt, max."""
        return self.min_size, self.opt_size, self.max_size


def ranges(options: dict[str, Sequence]) -> list[Range]:
    """Ranges from the lists of an option's occurrences: the n-th belongs to profile n, a single one to all.

    Errors: UsageError where options given several times disagree in number.
    """
    given = {name: list(values) for name, values in options.items() if values}
    count = max((len(values) for values in given.values()), default=1)
    for name, values in given.items():
        if len(values) not in (1, count):
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} is given {len(values)} times, but another option {count} times; give each once for all "
                f"profiles, or {count} times"
            )
    return [
        Range(**{name: values[min(i, len(values) - 1)] for name, values in given.items()})  # type: ignore[arg-type]
        for i in range(count)
    ]


def shapes(metadata: Metadata | None, asked: Sequence[Range]) -> list[Shapes]:
    """The shapes of the dynamic inputs for each profile, [] for a file without dynamic axes.

    A detector's `image_size` goes with the batch of `image`.

    Of a batch, the least is 1 where it is not said; of a size, least and most are the optimum. The optimum is the most
    (or else the least) that is said. Errors: UsageError on what the model does not take, or is missing.
    """
    if metadata is None:
        if any(range_ != Range() for range_ in asked):
            raise UsageError(
                "the file has no metadata of adapter-export that says which of its axes are batch, height and width; "
                "leave out batch and size options"
            )
        return []
    form = metadata.input
    made = [_profile(form, each, metadata.output == "detections") for each in asked]
    if form.batch is not None and form.height is not None:
        if len(made) > 1:
            raise UsageError(f"{len(made)} profiles are asked for, but the file has no dynamic axis; leave them out")
        return []
    return made


def check_static(name: str, shape: Sequence[int]) -> None:
    """Errors: UnsupportedModel if an input that no profile covers has a dynamic axis."""
    if -1 in tuple(shape):
        raise UnsupportedModel(
            f"input {name} {tuple(shape)} has dynamic axes that the file's metadata does not describe; "
            "export the model with adapter-export"
        )


def _profile(form: InputForm, asked: Range, sized: bool) -> Shapes:
    batches = _batches(form, asked)
    sizes = _sizes(form, asked)
    made: dict[str, list[int]] = {}
    for kind, batch, size in zip(KINDS, batches, sizes, strict=True):
        made[kind] = [batch, *size, 3] if form.embed_preprocess else [batch, 3, *size]
    if sized and form.batch is None:
        return {IMAGE: made, IMAGE_SIZE: {kind: [batch, 2] for kind, batch in zip(KINDS, batches, strict=True)}}
    return {IMAGE: made}


def _batches(form: InputForm, asked: Range) -> tuple[int, int, int]:
    least, best, most = asked.batches
    if form.batch is not None:
        if asked.batches != (None, None, None):
            raise UsageError(
                f"the file's batch is fixed at {form.batch}; leave out --min-batch, --opt-batch and --max-batch, "
                "or export with --batch dynamic"
            )
        return form.batch, form.batch, form.batch
    for kind, batch in zip(KINDS, asked.batches, strict=True):
        if batch is not None and batch < 1:
            raise UsageError(f"--{kind}-batch is {batch}; give at least 1")
    best = best or most or least
    if best is None:
        raise UsageError("the file's batch is dynamic; say with --max-batch (and --opt-batch) what the plan is for")
    most = most or best
    least = least or 1
    if not least <= best <= most:
        raise UsageError(f"batches are min {least}, opt {best}, max {most}; they must not fall")
    return least, best, most


def _sizes(form: InputForm, asked: Range) -> tuple[Size, Size, Size]:
    least, best, most = asked.sizes
    if form.height is not None and form.width is not None:
        if asked.sizes != (None, None, None):
            raise UsageError(
                f"the file's size is fixed at {form.height}x{form.width}; leave out --min-size, --opt-size and "
                "--max-size, or export with --dynamic-size"
            )
        return ((form.height, form.width),) * 3
    for kind, size in zip(KINDS, asked.sizes, strict=True):
        if size is not None:
            _check_size(f"--{kind}-size", size, form.size_divisor)
    best = best or most or least
    if best is None:
        raise UsageError(
            "the file's size is dynamic; say with --opt-size (and --min-size, --max-size) what the plan is for"
        )
    least, most = least or best, most or best
    if any(not a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
        text = ", ".join(f"{kind} {h}x{w}" for kind, (h, w) in zip(KINDS, (least, best, most), strict=True))
        raise UsageError(f"sizes are {text}; neither height nor width may fall")
    return least, best, most


def _check_size(option: str, size: Size, divisor: int) -> None:
    height, width = size
    if height < 1 or width < 1 or height % divisor or width % divisor:
        way_out = " ".join(str(max(divisor, -(-side // divisor) * divisor)) for side in size)
        raise UsageError(
            f"{option} {height} {width} is not a multiple of {divisor}, which the model's coarsest level needs; "
            f"give {way_out}"
        )
