"""From ONNX Runtime's profile to the parts of the model: which module each of its nodes comes from.

The exporter names nodes after their modules ("backbone.blocks.3.attn.qkv/MatMul"). ONNX Runtime's optimiser keeps such
names, appends to them, or names a node after the tensor that it computes ("conv2d_7_nchwc"); what it adds (copies into
another layout, reshapes around a Gemm) has names of its own. The optimised graph, which the session saves, tells
between which nodes those stand.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

# Part of the model: what the module paths of its nodes begin with. The first that fits counts.
PARTS = {
    "preprocessing": r"preprocess",
    "patch_embedding": r"backbone\.(patch_embed|visual_embed|pos_embed)",
    "spatial_prior": r"backbone\.(spm|level_embed)",
    "injectors": r"backbone\.(interactions\.\d+\.injector|injectors)",
    "extractors": r"backbone\.interactions\.\d+\.(extractor|extra_extractors)",
    "vit_blocks": r"backbone\.(blocks|layers|interactions)",
    "maps": r"backbone",
    "neck": r"neck",
    "head": r"(decode|rpn|roi|bbox|mask|panoptic)_head",
}
OTHER = "other"
_ADDED = re.compile(r"(/MatMulAddFusion|/GemmTransposeFusion|_nchwc|_token_\d+|_transposed?)+$")


def part_of(scope: str) -> str | None:
    """The part that a module path belongs to, None where it names no module of the model."""
    if not scope:
        return None
    return next((part for part, pattern in PARTS.items() if re.match(rf"{pattern}(\.|$)", scope)), None)


class PartMap:
    """The part of each node of a session, by the node's name in the profile.

    `exported` is the file that the session opened, `optimised` what ONNX Runtime made of it.
    """

    def __init__(self, exported: Path, optimised: Path) -> None:
        self._named: dict[str, str] = {}  # original nodes, and the tensors that they compute
        for node in onnx.load(str(exported), load_external_data=False).graph.node:
            part = part_of(_scope(node.name))
            if part is not None:
                self._named |= {node.name: part} | {name: part for name in node.output if name}
        self.parts = self._around(onnx.load(str(optimised), load_external_data=False))

    def _own(self, node: onnx.NodeProto) -> str | None:
        """By the node's own name, or the tensors it computes."""
        bare = _ADDED.sub("", node.name)
        for name in (node.name, bare, *node.output, *(_ADDED.sub("", name) for name in node.output)):
            if name in self._named:
                return self._named[name]
        return part_of(_scope(bare))

    def _around(self, model: onnx.ModelProto) -> dict[str, str]:
        """A node without a part of its own belongs to those that read it, as what prepares their input, otherwise to
        the one that it reads."""
        nodes = list(model.graph.node)
        found: dict[int, str] = {i: part for i, node in enumerate(nodes) if (part := self._own(node)) is not None}
        makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
        readers: dict[str, list[int]] = {}
        for i, node in enumerate(nodes):
            for name in node.input:
                readers.setdefault(name, []).append(i)
        missing = [i for i in range(len(nodes)) if i not in found]
        while missing:
            settled = {}
            for i in missing:
                before = [found[makers[name]] for name in nodes[i].input if makers.get(name, i) in found]
                after = [found[j] for name in nodes[i].output for j in readers.get(name, ()) if j in found]
                takes_in = re.match(r"gemm_input|ReorderInput", nodes[i].name) is not None
                first, second = (after, before) if takes_in else (before, after)
                if first or second:
                    settled[i] = Counter(first or second).most_common(1)[0][0]
            if not settled:
                break
            found |= settled
            missing = [i for i in missing if i not in settled]
        return {node.name: found[i] for i, node in enumerate(nodes) if i in found}


def _scope(name: str) -> str:
    scope, slash, _ = name.partition("/")
    return scope if slash else ""


def node_times(profile: Path, skip: int = 0) -> tuple[dict[str, float], int]:
    """Milliseconds by node, over all runs of the profile but the first `skip`, and how many runs those are."""
    events: list[dict[str, Any]] = json.loads(profile.read_text())
    begins = sorted(event["ts"] for event in events if event.get("name") == "model_run")[skip:]
    times: dict[str, float] = defaultdict(float)
    for event in events if begins else ():
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begins[0]:
            times[event["name"].removesuffix("_kernel_time")] += event["dur"] / 1e3
    return dict(times), len(begins)


def by_part(times: Mapping[str, float], parts: Mapping[str, str]) -> dict[str, float]:
    """Milliseconds by part; what belongs to none is `OTHER`."""
    total: dict[str, float] = defaultdict(float)
    for name, time in times.items():
        total[parts.get(name, OTHER)] += time
    return dict(total)
