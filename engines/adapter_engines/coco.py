"""Results as COCO's tools read them: lists of detections, panoptic maps with their segments, and the numbering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapter_engines.detection import DetectionResult
from adapter_engines.inputs import Task
from adapter_engines.panoptic import Segment
from adapter_infer import datasets
from adapter_infer.errors import AdapterError

# COCO numbers 91 kinds of things and uses 80 of the numbers; of the stuff, the 53 classes left after merging.
_UNUSED_THINGS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
THINGS = tuple(number for number in range(1, 91) if number not in _UNUSED_THINGS)
STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154),
    *(155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)),
)
LARGEST_ID = 256**3 - 1  # of a segment in a PNG


def category_ids(names: Sequence[str] | None, count: int) -> tuple[int, ...]:
    """The category of each of `count` classes: COCO's own where `names` are COCO's, else the class index plus 1."""
    for kind, numbers in (("CocoDataset", THINGS), ("CocoPanopticDataset", THINGS + STUFF)):
        if count == len(numbers) and names is not None and tuple(names) == datasets.of_type(kind, count)[0]:
            return numbers
    return tuple(range(1, count + 1))


def image_ids(tasks: Sequence[Task]) -> list[int]:
    """The number in a picture's name, as COCO's files are named, if all have one of their own; else 1, 2, 3..."""
    stems = [task.picture.stem for task in tasks]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(tasks) + 1))


def detections(found: DetectionResult, categories: Sequence[int]) -> list[dict[str, Any]]:
    """One entry per object: category_id, bbox [x, y, width, height], score, and its mask as compressed RLE."""
    result = []
    for i, (box, score, label) in enumerate(zip(found.boxes.tolist(), found.scores, found.labels, strict=True)):
        x0, y0, x1, y1 = box
        entry: dict[str, Any] = {
            "category_id": categories[label],
            "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(float(score), 6),
        }
        if found.masks is not None:
            entry["segmentation"] = found.masks.rle(i).as_coco()
        result.append(entry)
    return result


def panoptic_image(index: np.ndarray, count: int) -> Image.Image:
    """The map (H, W) of places 0..count - 1 as COCO's PNG: id = R + 256 G + 65536 B, 1 for place 0, and 0 for `count`.

    Errors: AdapterError if there are more segments than ids.
    """
    if count > LARGEST_ID:
        raise AdapterError(f"{count} segments are more than a PNG can number ({LARGEST_ID})")
    ids = np.where(index < count, index + 1, 0).astype(np.uint32)
    return Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8))


def panoptic_segments(info: Sequence[Segment], index: np.ndarray, categories: Sequence[int]) -> list[dict[str, Any]]:
    """segments_info of one picture, in the numbering of `panoptic_image`."""
    return [
        {
            "id": k + 1,
            "category_id": categories[segment.label],
            "area": segment.area,
            "bbox": _bounds(index == k),
            "iscrowd": 0,
            "score": round(segment.score, 6),
        }
        for k, segment in enumerate(info)
    ]


def panoptic_document(
    pictures: Sequence[dict[str, Any]], names: Sequence[str], categories: Sequence[int], things: int
) -> dict[str, Any]:
    """The JSON beside the PNG files; `pictures` hold image_id, picture, size (height, width), png, segments_info."""
    return {
        "images": [
            {"id": each["image_id"], "file_name": Path(each["picture"]).name}
            | {"height": each["size"][0], "width": each["size"][1]}
            for each in pictures
        ],
        "annotations": [
            {"image_id": each["image_id"], "file_name": each["png"], "segments_info": each["segments_info"]}
            for each in pictures
        ],
        "categories": [
            {"id": number, "name": name, "isthing": int(i < things)}
            for i, (number, name) in enumerate(zip(categories, names, strict=True))
        ],
    }


def _bounds(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of the set pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
