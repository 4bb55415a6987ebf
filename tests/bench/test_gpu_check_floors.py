"""Floors and goals of the CUDA kernel: the counted figures, and verdicts that follow from measured times."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_bench.gpu_check import goals
from adapter_bench.gpu_check.workloads import (
    FORWARDS,
    WORKLOADS,
    Floors,
    Rates,
    adapter,
    allowed_ratio,
    pixel_decoder,
    sets_needed,
)

# The rates for which the table below was worked out: copy 4.3 TB/s, L2 5.7 TB/s, L1 128 bytes a clock of 132 SMs.
H200 = Rates(dram=4.3e12, l2=5.7e12, l1=128 * 132 * 1.98e9)
B512, B896 = adapter("B", 512, 768, 12), adapter("B", 896, 768, 12)
L512, L896 = adapter("L", 512, 1024, 16), adapter("L", 896, 1024, 16)
S512 = adapter("S", 512, 384, 6, ratio=1.0)

# work: Q*M, then MB of the value, of input and output, of the gather; then us at the copy, L2 and L1 rates
TABLE = [
    (B512[0], 12288, 4.13, 5.80, 37.7, 1.35, 6.6, 1.1),
    (B512[1], 64512, 0.79, 6.46, 66.1, 1.50, 11.6, 2.0),
    (L512[0], 16384, 5.5, 7.7, 50, 1.8, 8.8, 1.5),
    (L512[1], 86016, 1.05, 8.6, 88, 2.0, 15.5, 2.6),
    (B896[0], 37632, 12.6, 17.8, 116, 4.1, 20, 3.5),
    (B896[1], 197568, 2.4, 19.8, 202, 4.6, 35, 6.1),
    (L896[0], 50176, 16.9, 23.7, 154, 5.5, 27, 4.6),
    (L896[1], 263424, 3.2, 26.4, 270, 6.1, 47, 8.1),
    (S512[0], 6144, 4.1, 5.4, 38, 1.3, 6.6, 1.1),
    (pixel_decoder("M2F", 512, 256, 8), 43008, 2.8, 8.6, 132, 2.0, 23, 3.9),
    (pixel_decoder("M2F", 896, 1024, 32), 526848, 33.7, 105, 1618, 24.5, 284, 48),
]


@pytest.mark.parametrize(
    ("work", "rows", "value", "io", "gather", "dram", "l2", "l1"), TABLE, ids=lambda x: str(x)[:30]
)
def test_bytes_and_floors_are_the_ones_counted_by_hand(work, rows, value, io, gather, dram, l2, l1):
    assert work.q * work.m == rows
    assert work.s * work.m * work.d * 2 / 1e6 == pytest.approx(value, rel=0.02)
    assert work.io_bytes("fp16") / 1e6 == pytest.approx(io, rel=0.01)
    assert work.gather_bytes("fp16") / 1e6 == pytest.approx(gather, rel=0.01)
    floors = Floors.of(work, "fp16", H200)
    assert floors.dram == pytest.approx(dram, rel=0.02, abs=0.06)
    assert floors.l2 == pytest.approx(l2, rel=0.02)
    assert floors.l1 == pytest.approx(l1, rel=0.04)
    assert floors.bound == max(floors.dram, floors.l1)


def test_the_injector_of_b_at_512_to_the_byte():
    injector = B512[0]
    assert (injector.s, injector.q, injector.samples) == (5376, 1024, 147456)
    assert injector.gather_bytes("fp16") == 147456 * 4 * 32 * 2 == 37748736
    assert injector.io_bytes("fp16") == 2 * (5376 * 384 + 1024 * 384 + 3 * 147456) == 5799936
    assert injector.io_bytes("fp32") == 2 * injector.io_bytes("bf16")


def test_a_forward_pass_is_four_injectors_and_six_extractors():
    b, large, decoder = FORWARDS
    assert [(part.levels, part.calls) for part in b.parts] == [(3, 4), (1, 6)]
    floors = {
        forward.name: sum(part.calls * Floors.of(part, "fp16", H200).dram for part in forward.parts)
        for forward in FORWARDS
    }
    assert [round(value) for value in floors.values()] == [14, 59, 147]
    assert [forward.goal_us for forward in (b, large, decoder)] == [48, 200, 600]
    assert len(WORKLOADS) == 5


def test_one_level_may_take_three_times_its_floor_and_three_levels_twice():
    assert [allowed_ratio(work) for work in B512] == [2.0, 3.0]


def test_enough_sets_of_inputs_to_push_one_out_of_the_l2():
    assert sets_needed(B512[0], "fp16", 50 * 2**20) == 28  # 157 MB in steps of 5.8
    assert sets_needed(pixel_decoder("M2F", 896, 1024, 32), "fp16", 50 * 2**20) == 2
    assert sets_needed(B512[0], "fp16", 2**40) == 64
    assert sets_needed(B512[0], "fp16", 1) == 2


def results(times_us: dict[str, dict[str, float]], form: str = "CUDA graph", **more: Any) -> dict[str, Any]:
    """Results of the steps, as far as verdicts look at them: fp16 medians by rival and workload."""
    rows = [
        {"workload": work, "rival": rival, "dtype": "fp16", "l2": "cold", "ms": {"median": us / 1e3}, "form": form}
        for rival, of in times_us.items()
        for work, us in of.items()
    ]
    probe = {"copy_bytes_per_s": H200.dram, "l2_bytes_per_s": H200.l2, "l1_bytes_per_s": H200.l1}
    done = {"status": "ok", "reason": None}
    steps = {
        "circumstances": done | {"data": {"device": {"name": "NVIDIA H200"}}},
        "bandwidth": done | {"data": probe},
        "timing": done | {"data": {"rows": rows, "left_out": {"deformops": "not installed"}}},
    }
    return steps | more


def verdict(found: dict[str, Any], start: str) -> goals.Verdict:
    (one,) = [one for one in goals.verdicts(found) if one.goal.startswith(start)]
    return one


def test_a_call_is_judged_by_its_floor():
    injector, extractor = (work.name for work in WORKLOADS[:2])
    found = results({goals.OURS: {injector: 2.6, extractor: 6.0}})
    assert verdict(found, f"{injector}, one call").met is True  # 2 x 1.349 us
    assert verdict(found, f"{injector}, one call").found == "2.60 us, 1.93x of 1.35 us"
    assert verdict(found, f"{extractor}, one call").met is False  # 3 x 1.976 us is 5.93
    unmeasured = verdict(found, f"{WORKLOADS[2].name}, one call")
    assert (unmeasured.met, unmeasured.found) == (None, "not measured: left out")


def test_a_forward_pass_and_the_rivals_are_sums_over_its_calls():
    injector, extractor = (work.name for work in WORKLOADS[:2])
    ours, naive = {injector: 3.0, extractor: 5.0}, {injector: 9.0, extractor: 14.9}
    found = results({goals.OURS: ours, goals.NAIVE: naive})
    total = verdict(found, "ViT-Adapter-B 512, all 10 calls")
    assert (total.found, total.met) == ("42.0 us", True)
    assert total.wanted == "at most 48 us"
    against = verdict(found, "ViT-Adapter-B 512, against thread per channel")
    assert (against.found, against.met) == ("2.99x", False)  # 125.4 / 42
    absent = verdict(found, "ViT-Adapter-B 512, against deformops")
    assert (absent.found, absent.met) == ("not measured: not installed", None)


def test_a_rival_that_no_graph_holds_is_not_held_against_its_launches():
    times = {WORKLOADS[0].name: 100.0, WORKLOADS[1].name: 100.0}
    found = results({goals.OURS: dict.fromkeys(times, 10.0), goals.DEFORMOPS: times}, form="one by one")
    against = verdict(found, "ViT-Adapter-B 512, against deformops")
    assert against.met is None
    assert against.found.startswith("10.00x, but no CUDA graph holds it")


def test_on_another_gpu_the_goals_in_microseconds_say_where_they_come_from():
    found = results({})
    found["circumstances"]["data"]["device"]["name"] = "NVIDIA H100 80GB HBM3"
    assert verdict(found, "ViT-Adapter-B 512, all 10 calls").wanted == "at most 48 us (stated for the H200)"


def test_locality_needs_the_hit_rate_and_a_relaxed_l2():
    def counted(hits: float, load: float) -> bool | None:
        row = {"workload": WORKLOADS[0].name, "l1_hit_percent": hits, "l2_throughput_percent": load}
        step = {"status": "ok", "reason": None, "data": {"rows": [row]}}
        return verdict(results({}, counters=step), f"{WORKLOADS[0].name}, locality").met

    assert [counted(70.0, 80.0), counted(69.9, 40.0), counted(90.0, 80.1)] == [True, False, False]


def test_the_model_is_held_against_the_papers_share():
    rows = [
        {"model": "B", "variant": goals.PLAIN, "batch": 1, "fps": 200.0, "paper_ratio": 0.899},
        {"model": "B", "variant": goals.ADAPTER, "batch": 1, "fps": 180.0, "paper_ratio": 0.899},
        {"model": "B", "variant": goals.ADAPTER, "batch": 8, "fps": 1.0, "paper_ratio": 0.899},
    ]
    step = {"status": "ok", "reason": None, "data": {"rows": rows}}
    found = verdict(results({}, models=step), "ViT-Adapter-B UperNet")
    assert (found.found, found.met) == ("0.900", True)


def test_what_failed_is_missed_and_what_was_left_out_is_open():
    failed = {"status": "failed", "reason": "2 wrong", "data": {}}
    skipped = {"status": "skipped", "reason": "not installed", "data": {}}
    found = results({}, correctness=failed, sanitizer=skipped)
    assert (verdict(found, "the kernels give").met, verdict(found, "the kernels give").found) == (False, "2 wrong")
    assert verdict(found, "compute-sanitizer").found == "not measured: not installed"
    assert verdict(found, "compute-sanitizer").met is None
