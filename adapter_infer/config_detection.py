"""From the model dictionary of an mmdet configuration to a ModelSpec's `detector`. Imports no torch.

What only training needs goes; what is left and unknown is refused where the model is built (`detectors.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_infer.config_parts import Config, check_numbers, is_count, mapping, plain
from adapter_infer.detectors import DETECTORS
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import class_count, detection_head

SUPPORTED = (*DETECTORS, "Mask2Former")
MAX_NECKS = 8

# Of the whole model, and of any part of it.
_NOT_THE_DETECTOR = {"backbone", "data_preprocessor", "use_grid_mask"}
_TRAINING = {"train_cfg", "pretrained", "init_cfg", "with_cp", "stage_loss_weights", "reg_decoded_bbox", "ignore_label"}


def detector(config: Config, model: Config, source: str) -> dict[str, Any]:
    """The detector without its backbone; test settings may stand in the model or, in older files, beside it.

    Errors: UnsupportedModel where its class is not supported, a value is not spelled out or beyond any model, or the
    classes are not counted.
    """
    kind = plain(model.get("type"), "model.type")
    if kind not in SUPPORTED:
        raise UnsupportedModel(
            f"model type {kind!r} of {source} is not supported (supported: {', '.join(SUPPORTED)}); "
            "its backbone alone is exported with --output features"
        )
    found = {str(key): _without_training(value, f"model.{key}") for key, value in model.items() if _is_part(str(key))}
    if not found.get("test_cfg"):
        beside = mapping(config.get("test_cfg"))
        found["test_cfg"] = None if "type" in beside else _without_training(beside, "test_cfg")  # 3.x has a loop there
    if not found["test_cfg"]:
        raise UnsupportedModel(f"{source} has no model.test_cfg, which says how {kind} selects its detections")
    if kind.endswith("Aug") and isinstance(found["test_cfg"], dict):
        found["test_cfg"].pop("aug", None)  # how the results of several runs are merged
    if isinstance(found.get("neck"), list) and len(found["neck"]) > MAX_NECKS:
        raise UnsupportedModel(f"model.neck of {source} has {len(found['neck'])} parts, beyond any model ({MAX_NECKS})")
    check_numbers(found, "model", source)
    _check_classes(found, source)
    return found


def _is_part(key: str) -> bool:
    return key not in _NOT_THE_DETECTOR | _TRAINING


def _without_training(value: Any, key: str) -> Any:
    """A plain value without what only training needs.

    A classification loss decides between sigmoid and softmax; one that differs from the head's usual one is kept, for
    the builder to refuse.
    """
    if isinstance(value, (list, tuple)):
        return [_without_training(item, key) for item in value]
    if not isinstance(value, Mapping):
        return plain(value, key)
    kept = {
        str(name): _without_training(item, f"{key}.{name}")
        for name, item in value.items()
        if name not in _TRAINING and not str(name).startswith("loss_")
    }
    softmax = str(value.get("type")).endswith(("BBoxHead", "Mask2FormerHead"))
    sigmoid = mapping(value.get("loss_cls")).get("use_sigmoid", not softmax)
    return kept if sigmoid is not softmax else kept | {"loss_cls": {"use_sigmoid": plain(sigmoid, f"{key}.loss_cls")}}


def _check_classes(found: dict[str, Any], source: str) -> None:
    try:
        head = detection_head(found)
        count = class_count(head)
    except (LookupError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"{source} does not say how many classes its {found['type']} has ({error!r})") from None
    names = ("num_things_classes", "num_stuff_classes") if "num_things_classes" in head else ("num_classes",)
    if not is_count(count) or any(type(head[name]) is not int or head[name] < 0 for name in names):
        raise UnsupportedModel(f"the class count of {source} is {[head[name] for name in names]!r:.80}")
