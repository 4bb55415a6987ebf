"""Reads an mmcv-style dictionary key by key, so that nothing in it is silently ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from adapter_infer.errors import UnsupportedModel

# Entries that change neither a trained detector's forward pass nor its keys.
NO_EFFECT = frozenset(
    {
        "type",
        "train_cfg",
        "pretrained",
        "init_cfg",
        "with_cp",
        "drop_path",
        "dropout",
        "loss_weight",
        "stage_loss_weights",
    }
    | {"loss_cls", "loss_bbox", "loss_mask", "loss_seg", "loss_iou", "loss_dfl", "loss_centerness", "loss_feat"}
    | {"reg_decoded_bbox", "interleaved", "ignore_label"}
)
BATCH_NORMS = frozenset({"BN", "BN2d", "SyncBN", "MMSyncBN", "naiveSyncBN"})
MAX_SIZE = 2**16  # of any width or count; beyond it a configuration is broken or hostile
_REQUIRED = object()


class Settings:
    """A dictionary to be used up: leaving the `with` block refuses what was not read.

    Every error is an UnsupportedModel that names the key, its value and what is supported.
    """

    def __init__(self, config: Any, where: str) -> None:
        if not isinstance(config, Mapping):
            raise UnsupportedModel(f"{where} is {config!r}; supported: a dictionary of settings")
        self.config, self.where = config, where
        self.read: set[str] = set()

    def __enter__(self) -> Settings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        unread = sorted(set(map(str, self.config)) - self.read - NO_EFFECT)
        if kind is None and unread:
            settings = ", ".join(f"{key}={self.config[key]!r}" for key in unread)
            raise UnsupportedModel(f"{self.name} has unsupported settings: {settings}; known: {self._known()}")

    @property
    def name(self) -> str:
        """Where the dictionary stands and its type, for messages."""
        return f"{self.where} {self.config.get('type', '')}".strip()

    def _known(self) -> str:
        return ", ".join(sorted(self.read)) or "none"

    def kind(self, *supported: str) -> str:
        """`type`, which must be one of `supported`."""
        found = self.config.get("type")
        if found not in supported:
            raise UnsupportedModel(f"{self.where} has type={found!r}; supported: {', '.join(supported)}")
        return str(found)

    def has(self, key: str) -> bool:
        """Whether the entry is there and not None; either way it counts as read."""
        self.read.add(key)
        return self.config.get(key) is not None

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """An entry as it stands, `default` where it is missing."""
        self.read.add(key)
        if key not in self.config and default is _REQUIRED:
            raise UnsupportedModel(f"{self.name} lacks {key}, which is needed to build it")
        return self.config.get(key, default)

    def only(self, key: str, *supported: Any) -> None:
        """Refuses an entry that is there with another value than the supported ones."""
        value = self.take(key, supported[0])
        if value not in supported:
            raise UnsupportedModel(f"{self.name} has {key}={value!r}; supported: {' or '.join(map(repr, supported))}")

    def integer(self, key: str, default: Any = _REQUIRED, smallest: int = 1) -> int:
        """A whole number from `smallest` to 65536."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= MAX_SIZE:
            raise UnsupportedModel(
                f"{self.name} has {key}={value!r}; supported: integers from {smallest} to {MAX_SIZE}"
            )
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A number of at least 0 and below infinity."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise UnsupportedModel(f"{self.name} has {key}={value!r}; supported: numbers of at least 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or False."""
        self.only(key, default, not default)
        return bool(self.config.get(key, default))

    def numbers(self, key: str, default: Any = _REQUIRED, length: int | None = None) -> list[float]:
        """A list of positive numbers; of `length` entries where given."""
        value = self.take(key, default)
        fits = isinstance(value, Sequence) and not isinstance(value, str) and len(value) in {length or len(value)} - {0}
        if not fits or any(isinstance(x, bool) or not isinstance(x, (int, float)) or not 0 < x < 2**20 for x in value):
            wanted = "positive numbers" if length is None else f"{length} positive numbers"
            raise UnsupportedModel(f"{self.name} has {key}={value!r}; supported: a list of {wanted}")
        return list(value)

    def integers(self, key: str, length: int | None = None) -> list[int]:
        """A list of positive whole numbers; of `length` entries where given."""
        values = self.numbers(key, length=length)
        if any(not isinstance(value, int) or value > MAX_SIZE for value in values):
            raise UnsupportedModel(f"{self.name} has {key}={values!r}; supported: integers from 1 to {MAX_SIZE}")
        return [int(value) for value in values]

    def part(self, key: str) -> Settings:
        """A dictionary inside this one."""
        return Settings(self.take(key), f"{self.where}.{key}")

    def parts(self, key: str, count: int) -> list[Settings]:
        """`count` dictionaries: the entry is a list of them, or one that stands for all."""
        value = self.take(key)
        values = list(value) if isinstance(value, (list, tuple)) else [value] * count
        if len(values) != count:
            raise UnsupportedModel(f"{self.name} has {len(values)} entries in {key}; supported: {count}")
        return [Settings(entry, f"{self.where}.{key}[{i}]") for i, entry in enumerate(values)]

    def norm(self) -> tuple[bool, int | None]:
        """`norm_cfg` as (whether there is a norm, GroupNorm's groups or None for BatchNorm)."""
        if not self.has("norm_cfg"):
            return False, None
        with self.part("norm_cfg") as config:
            config.only("requires_grad", True, False)
            config.only("eps", 1e-5)
            if config.kind(*sorted(BATCH_NORMS), "GN") == "GN":
                return True, config.integer("num_groups")
        return True, None
