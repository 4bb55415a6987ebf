"""Where the time goes: patch embedding, ViT blocks, spatial prior, injectors, extractors, neck, head."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapter_bench.measure import Rules, measure
from adapter_bench.suites import profile
from adapter_bench.suites.layout import Column, Data, Row, Suite
from adapter_bench.suites.work import data, exported, parse
from adapter_infer import presets
from adapter_infer.errors import AdapterError, EnvironmentMissing

PRESETS = {
    False: {
        "ViT-B, Semantic FPN": "semfpn_vit_base_512_ade20k",
        "ViT-Adapter-B, Semantic FPN": "semfpn_vit_adapter_base_512_ade20k",
        "ViT-Adapter-B, UperNet": "upernet_augreg_adapter_base_512_160k_ade20k",
        "ViT-L, Semantic FPN": "semfpn_vit_large_512_ade20k",
        "ViT-Adapter-L, Semantic FPN": "semfpn_vit_adapter_large_512_ade20k",
    },
    True: {
        "ViT-T, Semantic FPN": "semfpn_vit_tiny_512_ade20k",
        "ViT-Adapter-T, Semantic FPN": "semfpn_vit_adapter_tiny_512_ade20k",
        "ViT-Adapter-T, UperNet": "upernet_deit_adapter_tiny_512_160k_ade20k",
    },
}
SIDE = {False: 512, True: 512}
TITLES = {
    "preprocessing": "preprocessing",
    "patch_embedding": "patch embedding",
    "vit_blocks": "ViT blocks",
    "spatial_prior": "spatial prior",
    "injectors": "injectors",
    "extractors": "extractors",
    "maps": "the four maps, and what joins the parts",
    "neck": "neck",
    "head": "head",
    profile.OTHER: "other nodes",
}
SHARE = "share_"
TOLERANCE = 0.05  # of the measured time that the parts' sum may miss
RUNS = {False: 20, True: 5}
WARMUP = 2
REMARKS = (
    "Shares are of the wall time of a profiled run; what they leave of 100 % is the runtime's own time between nodes.",
    "Nodes that the runtime adds (copies into another layout) count to the part whose data they move.",
)


def suite(name: str, quick: bool) -> Suite:
    columns = [Column("wall_ms", "wall time of a profiled run", "ms", "lower")]
    columns += [Column(SHARE + part, title, "%") for part, title in TITLES.items()]
    columns += [Column("sum", "all parts", "%"), Column("plain_ms", "median latency without profiling", "ms", "lower")]
    side = SIDE[quick]
    rows = [
        Row(
            title,
            f"{side}x{side}",
            "adapter_bench.suites.parts:profiled",
            {"spec": data(presets.spec(preset)), "size": [side, side], "runs": RUNS[quick]},
        )
        for title, preset in PRESETS[quick].items()
    ]
    return Suite(name, "Where the time goes", tuple(columns), tuple(rows), REMARKS)


def profiled(folder: str, rules: Data, threads: int | None, spec: Data, size: list[int], runs: int) -> Data:
    """A row: shares of the wall time by part. Errors: AdapterError where they miss the wall time by more than 5 %."""
    path = exported(parse(spec), folder, size=(size[0], size[1]))
    wall, times = take(path, (1, 3, *size), threads, runs, Rules.of(**rules))
    values: Data = {SHARE + part: 100 * ms / wall["profiled_ms"] for part, ms in times.items()}
    values["sum"] = check_sum(sum(times.values()), wall["profiled_ms"])
    values |= {"wall_ms": wall["profiled_ms"], "plain_ms": wall["plain_ms"]}
    return {"values": values, "results": []}


def check_sum(parts_ms: float, wall_ms: float) -> float:
    """The parts' sum in percent of the wall time. Errors: AdapterError where that is not 100 % within 5 %."""
    share = parts_ms / wall_ms
    if abs(share - 1) > TOLERANCE:
        raise AdapterError(
            f"the profile's nodes took {parts_ms:.2f} ms of {wall_ms:.2f} ms measured ({share:.1%}); more than "
            f"{TOLERANCE:.0%} apart says that the runtime or other programs took the rest: take a larger model, or an "
            "idle machine"
        )
    return 100 * share


def take(
    path: Path, shape: tuple[int, ...], threads: int | None, runs: int, rules: Rules
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of a run: with profiling (the mean) and without (the median); and of the former by part."""
    from adapter_bench import bare

    image = bare.noise(shape, "float32")
    with tempfile.TemporaryDirectory(prefix="adapter-bench-") as place:
        plain = _session(path, threads)
        name = plain.get_inputs()[0].name
        trial = measure({"plain": (shape[0], _run(plain, name, image))}, rules)["plain"]
        del plain
        options: dict[str, Any] = {"optimised": Path(place) / "optimised.onnx", "profile": Path(place) / "profile"}
        session = _session(path, threads, **options)
        walls = []
        run = _run(session, name, image)
        for _ in range(WARMUP + runs):
            begin = time.perf_counter()
            run()
            walls.append(1e3 * (time.perf_counter() - begin))
        times, counted = profile.node_times(Path(session.end_profiling()), WARMUP)
        parts = profile.PartMap(path, options["optimised"]).parts
    profiled_ms = sum(walls[WARMUP:]) / counted
    by_part = {part: ms / counted for part, ms in profile.by_part(times, parts).items()}
    return {"profiled_ms": profiled_ms, "plain_ms": trial.summary().median}, by_part


def _run(session: Any, name: str, image: Any) -> Callable[[], object]:
    return lambda: session.run(None, {name: image})


def _session(path: Path, threads: int | None, optimised: Path | None = None, profile: Path | None = None) -> Any:
    """As `adapter_engines.sessions` opens one, with the optimised graph saved and the profiler on where named."""
    import onnxruntime

    import adapter_plugins
    from adapter_engines.threads import chosen

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = chosen(threads)
    options.log_severity_level = 4
    with suppress(EnvironmentMissing):  # without the library function bodies run, as everywhere
        options.register_custom_ops_library(str(adapter_plugins.library(adapter_plugins.ORT_CPU)))
    if optimised is not None and profile is not None:
        options.optimized_model_filepath = str(optimised)
        # Weights in a file of their own: only the nodes are read.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
