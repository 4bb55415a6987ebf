"""The report that people read, from an invented set of results: verdicts first, every figure with its circumstances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapter_bench.gpu_check import goals, report, steps
from adapter_bench.gpu_check.workloads import WORKLOADS

REPORTS = Path(__file__).parents[2] / "bench" / "reports"
SMI = {"driver": "580.1", "sm_mhz": 1980.0, "sm_max_mhz": 1980.0, "memory_mhz": 2619.0, "celsius": 34.0, "watts": 70.0}
HOT = SMI | {"celsius": 51.0, "watts": 410.0}


def done(**data: Any) -> dict[str, Any]:
    return {"status": "ok", "reason": None, "seconds": 1.25, "data": data}


def times(median_us: float, spread: float = 0.01) -> dict[str, Any]:
    least, most = median_us * (1 - spread), median_us * (1 + spread)
    return {"median": median_us / 1e3, "min": least / 1e3, "max": most / 1e3, "variation": spread, "count": 3}


def timed(rival: str, injector_us: float, extractor_us: float, **more: Any) -> list[dict[str, Any]]:
    row = {"rival": rival, "dtype": "fp16", "l2": "cold", "form": "CUDA graph", "why": None, "calls": 28} | more
    pairs = zip(WORKLOADS, (injector_us, extractor_us), strict=False)
    return [row | {"workload": work.name, "ms": times(us, 0.03 if us > 100 else 0.01)} for work, us in pairs]


def model(variant: str, fps: float, **more: Any) -> dict[str, Any]:
    row = {"model": "B", "variant": variant, "batch": 1, "fps": fps, "form": "CUDA graph", "why": None}
    row |= {"ms": times(1e6 / fps), "weights_bytes": 267 * 2**20, "peak_bytes": 93 * 2**20, "paper_ratio": 0.9}
    return row | {"kernel_against_torch": 1.5e-3} | more


DOCUMENT: dict[str, Any] = {
    "schema": 1,
    "tool": "adapter-infer 1.2.3",
    "command": "gpu-check --out bench/reports",
    "device": "cuda",
    "quick": False,
    "started": "2026-11-22T10:00:00+00:00",
    "finished": "2026-11-22T10:08:00+00:00",
    "steps": {
        "circumstances": done(
            device={"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"},
            nvidia_smi=SMI,
            machine={"cpu": "A CPU", "usable_cores": 16, "system": "Linux 6 x86_64"},
            python="3.12.3",
            versions={"torch": "2.11.0", "numpy": "2.5.2"},
            cuda_of_torch="13.0",
            nvcc="release 13.0, V13.0.88",
            git={"commit": "0123abcd", "changed_files": 2},
        ),
        "build": done(library="lib.so"),
        "correctness": done(
            calls=1470,
            wrong_count=0,
            wrong=[],
            worst_share_of_value={"fp32": 2e-6, "fp16": 4.5e-4, "bf16": 3.5e-3},
            sizes=[{}] * 21,
            sizes_wrong=["one size: off by 1"],
        ),
        "sanitizer": {"status": "skipped", "reason": "compute-sanitizer is not installed", "seconds": 0.0, "data": {}},
        "bandwidth": done(
            copy_bytes_per_s=3.0e12,
            l2_bytes_per_s=5.5e12,
            l1_bytes_per_s=31e12,
            l1_peak_bytes_per_s=33.5e12,
            l2_buffer_bytes=6553600,
            sm_clock_hz=1.98e9,
            graph_node_us=1.234,
        ),
        "timing": done(
            rows=[
                *timed(goals.OURS, 3.5, 6.0),
                *timed(goals.NAIVE, 14.0, 30.0),
                *timed("torch grid_sample", 210.0, 480.0, form="one by one", why="not captured: it | syncs"),
                *timed(goals.OURS, 2.5, 5.0, l2="warm"),
            ],
            left_out={"deformops": "No module named 'deformops'"},
            before=SMI,
            after=HOT,
        ),
        "counters": done(
            rows=[
                {
                    "workload": WORKLOADS[0].name,
                    "dtype": "fp16",
                    "kernel": "fused",
                    "duration_us": 3.296,
                    "l1_hit_percent": 76.41,
                    "l2_throughput_percent": 41.25,
                    "dram_bytes": 5898240.0,
                    "registers": 56.0,
                }
            ]
        ),
        "models": done(
            rows=[model(goals.PLAIN, 400.0), model(goals.ADAPTER, 372.0)], dtype="float16", size=512, left_out={}
        ),
        "engines": {
            "status": "failed",
            "reason": "not done after 240 seconds, and was ended",
            "seconds": 240.1,
            "data": {},
        },
    },
}

GOLDEN = """\
# GPU check: NVIDIA H100 80GB HBM3, 2026-11-22

## Verdicts

6 met, 1 missed, 15 open (not measured). A missed goal is a finding and no error.

| goal | wanted | found |  |
| --- | --- | --- | --- |
| the kernels give exact arithmetic's results | no error | 1470 small calls and 21 of models' sizes | met |
| compute-sanitizer finds nothing | no error | not measured: compute-sanitizer is not installed | open |
| ViT-Adapter-B 512 injector, one call, fp16, cold L2 | at most 2x its floor | 3.50 us, 1.81x of 1.93 us | met |
| ViT-Adapter-B 512 extractor, one call, fp16, cold L2 | at most 3x its floor | 6.00 us, 2.78x of 2.15 us | met |
| ViT-Adapter-L 896 injector, one call, fp16, cold L2 | at most 2x its floor | not measured: left out | open |
| ViT-Adapter-L 896 extractor, one call, fp16, cold L2 | at most 3x its floor | not measured: left out | open |
| Mask2Former C=1024 896, one call, fp16, cold L2 | at most 2x its floor | not measured: left out | open |
| ViT-Adapter-B 512, all 10 calls of a forward pass, fp16 | at most 48 us (stated for the H200) | 50.0 us | MISSED |
| ViT-Adapter-L 896, all 10 calls of a forward pass, fp16 | at most 200 us (stated for the H200) | not measured: left out | open |
| Mask2Former C=1024 896, all 6 calls of a forward pass, fp16 | at most 600 us (stated for the H200) | not measured: left out | open |
| ViT-Adapter-B 512, against thread per channel, fp16 | at least 3x faster | 4.72x | met |
| ViT-Adapter-L 896, against thread per channel, fp16 | at least 3x faster | not measured: left out | open |
| Mask2Former C=1024 896, against thread per channel, fp16 | at least 3x faster | not measured: left out | open |
| ViT-Adapter-B 512, against deformops, fp16 | at least 1.3x faster | not measured: No module named 'deformops' | open |
| ViT-Adapter-L 896, against deformops, fp16 | at least 1.3x faster | not measured: No module named 'deformops' | open |
| Mask2Former C=1024 896, against deformops, fp16 | at least 1.3x faster | not measured: No module named 'deformops' | open |
| ViT-Adapter-B 512 injector, locality | L1 hits at least 70 %, L2 at most 80 % of its peak | 76.4 %, 41.2 % | met |
| ViT-Adapter-B 512 extractor, locality | L1 hits at least 70 %, L2 at most 80 % of its peak | not measured: left out | open |
| ViT-Adapter-L 896 injector, locality | L1 hits at least 70 %, L2 at most 80 % of its peak | not measured: left out | open |
| ViT-Adapter-L 896 extractor, locality | L1 hits at least 70 %, L2 at most 80 % of its peak | not measured: left out | open |
| Mask2Former C=1024 896, locality | L1 hits at least 70 %, L2 at most 80 % of its peak | not measured: left out | open |
| ViT-Adapter-B UperNet beside its plain ViT, batch 1 | at least 0.900 of its FPS (the paper's, with Semantic FPN) | 0.930 | met |

## Steps

| step | result | seconds | reason |
| --- | --- | --- | --- |
| circumstances | ok | 1.2 |  |
| build | ok | 1.2 |  |
| correctness | ok | 1.2 |  |
| sanitizer | skipped | 0.0 | compute-sanitizer is not installed |
| bandwidth | ok | 1.2 |  |
| timing | ok | 1.2 |  |
| counters | ok | 1.2 |  |
| models | ok | 1.2 |  |
| engines | failed | 240.1 | not done after 240 seconds, and was ended |

## Correctness

Largest difference from exact arithmetic over the cases, as a share of the largest value: fp32 2.0e-06, fp16 4.5e-04, bf16 3.5e-03.

- one size: off by 1

## Measured ceilings

|  |  |
| --- | --- |
| device copy, bytes read and written | 3.00 TB/s |
| reads from L2 (6.2 MiB) | 5.50 TB/s |
| reads from L1 | 31.00 TB/s |
| L1 by 128 bytes a clock at 1.98 GHz | 33.50 TB/s |
| from one empty kernel of a CUDA graph to the next | 1.23 us |

## The op

Microseconds of one call as median (least to most), and in how many times the floor that is. The floor is the larger of two: value, samples and output once through the measured copy bandwidth, four corners of every sample through the measured L1 bandwidth. Rivals include what they need to get from offsets and logits to their own inputs. Times are a call's share of a CUDA graph's replay, what lies between two kernels included. The third column is what the gathers take if none of them hits the L1.

### fp16, L2 cold: inputs rotate

| call | floor | all from L2 | this kernel | thread per channel | torch grid_sample |
| --- | --- | --- | --- | --- | --- |
| ViT-Adapter-B 512 injector | 1.93 (DRAM) | 6.86 | 3.50 (3.46 to 3.54), 1.8x | 14.0 (13.9 to 14.1), 7.2x | 210 (204 to 216), 108.6x |
| ViT-Adapter-B 512 extractor | 2.15 (DRAM) | 12.0 | 6.00 (5.94 to 6.06), 2.8x | 30.0 (29.7 to 30.3), 13.9x | 480 (466 to 494), 222.8x |

### fp16, L2 warm: one set of inputs

| call | floor | all from L2 | this kernel |
| --- | --- | --- | --- |
| ViT-Adapter-B 512 injector | 1.93 (DRAM) | 6.86 | 2.50 (2.48 to 2.52), 1.3x |
| ViT-Adapter-B 512 extractor | 2.15 (DRAM) | 12.0 | 5.00 (4.95 to 5.05), 2.3x |

### All calls of a forward pass, fp16, L2 cold, microseconds

| forward pass | this kernel | thread per channel | torch grid_sample |
| --- | --- | --- | --- |
| ViT-Adapter-B 512 | 50.0 | 236, 4.7x ours | 3720, 74.4x ours |

- 2 of 8 timings varied by more than 2.5 % (std / mean)
- deformops: No module named 'deformops'
- torch grid_sample: not captured: it | syncs

## Counters of the kernel (ncu, fp16)

| call | time, us | L1 hits, % | L2 hits, % | L1 load, % | L2 load, % | SM load, % | active warps, % | DRAM bytes | registers |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| ViT-Adapter-B 512 injector | 3.30 | 76.4 | - | - | 41.2 | - | - | 5,898,240 | 56 |

## Whole models: UperNet, PyTorch float16, 512x512, random weights

Made once, as in an export of fixed size: level sizes, reference points, the resized position embedding.

| model | variant | ms, median (least to most) | images/s | of plain ViT | weights | peak besides | run as |
| --- | --- | --- | --- | --- | --- | --- | --- |
| B, batch 1 | plain ViT | 2.500 (2.475 to 2.525) | 400.0 | 1.000 | 267 MiB | 93 MiB | CUDA graph |
| B, batch 1 | ViT-Adapter, kernel | 2.688 (2.661 to 2.715) | 372.0 | 0.930 | 267 MiB | 93 MiB | CUDA graph |

- B, batch 1: with and without the kernel outputs differ by 1.5e-03 (relative)

## Circumstances

- `gpu-check --out bench/reports`, adapter-infer 1.2.3, 2026-11-22T10:00:00+00:00 to 2026-11-22T10:08:00+00:00
- GPU at the start: 1980 MHz, of at most 1980 MHz, memory 2619 MHz, 34 C, 70 W
- GPU around timing: 1980 MHz, of at most 1980 MHz, memory 2619 MHz, 34 C, 70 W; then 1980 MHz, of at most 1980 MHz, memory 2619 MHz, 51 C, 410 W
- driver 580.1; nvcc: release 13.0, V13.0.88; CUDA of torch 13.0
- A CPU, 16 cores, Linux 6 x86_64, Python 3.12.3, torch 2.11.0, numpy 2.5.2
- commit 0123abcd, 2 files changed since
"""  # noqa: E501


def test_the_report_reads_as_written():
    assert report.markdown(DOCUMENT) == GOLDEN


def test_committed_reports_can_be_made_again_from_their_figures():
    found = [path for path in REPORTS.glob("nvidia-*.json") if "onnxruntime" not in path.name]
    assert found
    for path in found:
        document = json.loads(path.read_text())
        assert report.markdown(document).rstrip() == path.with_suffix(".md").read_text().rstrip()
        assert [vars(verdict) for verdict in goals.verdicts(document["steps"])] == document["verdicts"]


def test_runtimes_say_how_they_ran_and_what_share_of_the_plain_vits_speed_they_keep():
    one = {"runtime": {"version": "1.31.1"}, "precision": "fp16", "latency_ms": {"median": 5.185}, "fps": 192.6}
    ran = {
        "ONNX Runtime": one | {"ratio_fps": 0.634, "cuda_graph": {"in_use": True, "refusal": None}},
        "TensorRT": one | {"runtime": {"version": "10.14"}, "ratio_fps": None},
    }
    text = report.markdown(DOCUMENT | {"steps": DOCUMENT["steps"] | {"engines": done(ran=ran, left_out={})}})
    assert "| ONNX Runtime 1.31.1 | fp16 | 5.185 | 192.6 | 0.634 | CUDA graph |" in text
    assert "| TensorRT 10.14 | fp16 | 5.185 | 192.6 | - | one by one |" in text


def test_its_files_are_named_by_gpu_and_day():
    assert report.name(DOCUMENT) == "nvidia-h100-80gb-hbm3-2026-11-22"


def test_nothing_but_a_failed_start_can_be_reported_too():
    failed = {"status": steps.FAILED, "reason": "no driver", "seconds": 0.1, "data": {}}
    text = report.markdown(DOCUMENT | {"steps": {"circumstances": failed}})
    assert text.startswith("# GPU check: no GPU, 2026-11-22\n")
    assert "| circumstances | failed | 0.1 | no driver |" in text
    assert "not measured: step timing was not asked for" in text


def test_results_survive_json():
    assert report.markdown(json.loads(json.dumps(DOCUMENT))) == report.markdown(DOCUMENT)
