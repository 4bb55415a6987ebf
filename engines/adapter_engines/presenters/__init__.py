"""The kinds of models that adapter-run runs, each behind the face of Presenter."""

from __future__ import annotations

from adapter_engines.engine import Engine
from adapter_engines.presenters.base import Choices, Presenter, check_choices

__all__ = ["Choices", "Presenter", "presenter"]


def presenter(engine: Engine, asked: Choices) -> Presenter:
    """What runs `engine` over pictures, as its metadata says.

    Errors: UsageError on what was asked and does not apply to such a model; otherwise as Segmenter, Detector and
    PanopticSegmenter.
    """
    kind = _kind(engine)
    check_choices(kind, engine.path, asked)
    return kind(engine, asked)


def _kind(engine: Engine) -> type[Presenter]:
    from adapter_engines.presenters.detection import DetectionPresenter
    from adapter_engines.presenters.panoptic import PanopticPresenter
    from adapter_engines.presenters.semantic import SemanticPresenter

    kinds: dict[str, type[Presenter]] = {"detection": DetectionPresenter, "panoptic": PanopticPresenter}
    task = "semantic" if engine.metadata is None else engine.metadata.model.task
    return kinds.get(task, SemanticPresenter)  # which says what is wrong with files of no kind
