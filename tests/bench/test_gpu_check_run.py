"""The check as a whole: steps that fail, turns, what it says without a GPU, and its code rehearsed on the CPU."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import cuda_stand_in
from adapter_bench.gpu_check import __main__ as command
from adapter_bench.gpu_check import build, clock, correctness, native, rivals, steps, timing, work
from adapter_bench.gpu_check.steps import Context, Step
from adapter_bench.gpu_check.workloads import ADAPTER_B, adapter
from adapter_infer.errors import AdapterError

TINY = adapter(ADAPTER_B, 64, 768, 12)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    """The CUDA library's C interface with the CPU kernel behind it: device memory is ordinary memory."""
    return cuda_stand_in.build(tmp_path_factory)


@pytest.fixture
def library(stand_in) -> native.Library:
    return native.Library(stand_in)


def context(folder: Path, **changed: Any) -> Context:
    return Context(
        **({"device": "cpu", "quick": True, "folder": str(folder), "earlier": {}, "limit_s": 60.0} | changed)
    )


# --- steps ---


def step(name: str, *needs: str, limit_s: float = 100.0) -> Step:
    return Step(name, f"what {name} does", "x:y", limit_s, needs)


def run(chosen: list[Step], outcomes: dict[str, str], tmp_path: Path, budget_s: float = 1000.0, takes: float = 1.0):
    """Results, what was executed, and what was said; every step takes `takes` seconds of a clock that stands still."""
    now, executed, said = [0.0], [], []

    def execute(one: Step, told: Context) -> dict[str, Any]:
        executed.append((one.name, told))
        now[0] += takes
        status = outcomes.get(one.name, steps.OK)
        return {"status": status, "reason": None if status == steps.OK else "because", "data": {"of": one.name}}

    results = steps.run_all(chosen, context(tmp_path), execute, said.append, budget_s, lambda: now[0])
    return results, executed, said


def test_a_failing_step_stops_only_what_needs_it(tmp_path):
    chosen = [step("a"), step("b", "a"), step("c"), step("d", "b")]
    results, executed, said = run(chosen, {"a": steps.FAILED}, tmp_path)
    assert [name for name, _ in executed] == ["a", "c"]
    assert [results[name]["status"] for name in "abcd"] == ["failed", "skipped", "ok", "skipped"]
    assert results["b"]["reason"] == "needs a, which did not go well"
    assert "[3/4] c: what c does" in said


def test_steps_are_told_what_the_earlier_ones_found(tmp_path):
    _, executed, _ = run([step("a"), step("b")], {}, tmp_path)
    assert executed[1][1].earlier == {"a": {"of": "a"}}


def test_what_no_longer_fits_is_left_out_and_says_how_to_run_it(tmp_path):
    results, executed, _ = run([step("a"), step("b"), step("c")], {}, tmp_path, budget_s=100.0, takes=60.0)
    assert [name for name, _ in executed] == ["a", "b"]
    assert executed[1][1].limit_s == 40.0
    assert results["c"] == {
        "status": "skipped",
        "reason": "too little is left of the 100 seconds; run it with --only c",
        "data": {},
        "seconds": 0.0,
    }


def test_one_step_alone_brings_what_it_needs():
    assert [one.name for one in steps.with_needs(("counters",))] == ["circumstances", "build", "counters"]
    assert [one.name for one in steps.with_needs(("timing",))] == ["circumstances", "build", "bandwidth", "timing"]
    assert [one.name for one in steps.with_needs(("bandwidth",))] == ["circumstances", "bandwidth"]
    assert [one.name for one in steps.with_needs(steps.NAMES)] == list(steps.NAMES)


def test_whatever_a_step_raises_becomes_its_result(tmp_path, monkeypatch):
    def broken(told: Context) -> dict[str, Any]:
        raise RuntimeError("CUDA error:\n an illegal memory access")

    def absent(told: Context) -> dict[str, Any]:
        raise steps.Skip("it is not installed")

    def wrong(told: Context) -> dict[str, Any]:
        return {"rows": [1], "failed": "one row is wrong"}

    found = []
    for body in (broken, absent, wrong):
        monkeypatch.setattr(work, "bandwidth", body)
        found.append(steps.here(Step("bandwidth", "", "work:bandwidth", 1.0), context(tmp_path)))
    assert found[0] == {"status": "failed", "reason": "RuntimeError: CUDA error: an illegal memory access", "data": {}}
    assert found[1] == {"status": "skipped", "reason": "it is not installed", "data": {}}
    assert found[2] == {"status": "failed", "reason": "one row is wrong", "data": {"rows": [1]}}


def test_a_step_in_its_own_process_gives_its_result_or_is_ended(tmp_path):
    (circumstances,) = [one for one in steps.STEPS if one.name == "circumstances"]
    result = steps.in_child(circumstances, context(tmp_path))
    assert result["status"] == "ok"
    assert result["data"]["versions"]["torch"] == torch.__version__
    assert result["data"]["git"]["commit"] is None or len(result["data"]["git"]["commit"]) == 40
    ended = steps.in_child(circumstances, context(tmp_path, limit_s=0.01))
    assert ended["reason"] == "not done after 0 seconds, and was ended"


def test_numbers_that_json_cannot_hold_become_none():
    assert steps.finite({"a": [1.5, float("nan")], "b": {"c": float("inf")}, "d": 3}) == {
        "a": [1.5, None],
        "b": {"c": None},
        "d": 3,
    }


# --- the command ---


def test_without_a_gpu_one_sentence_says_what_is_missing(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert command.main(["--out", str(tmp_path)]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-check: this machine lacks ")
    assert "NVIDIA GPU" in line
    assert "rehearse with --device cpu" in line
    assert list(tmp_path.iterdir()) == []


def test_help_opens_without_anything_heavy():
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "import adapter_bench.gpu_check.__main__ as m\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'onnx', 'safetensors'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--only" in done.stdout


def test_a_rehearsal_writes_both_reports(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path), "--device", "cpu", "--only", "circumstances", "bandwidth"]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.partition("-2")[0] for name in names] == ["cpu-rehearsal", "cpu-rehearsal"]
    document = json.loads((tmp_path / names[0]).read_text())
    assert document["steps"]["bandwidth"]["reason"] == "there is no GPU to measure"
    assert "A rehearsal without a GPU" in (tmp_path / names[1]).read_text()
    assert "[2/2] bandwidth" in capsys.readouterr().out


# --- timing ---


def test_rivals_take_turns_and_each_turn_opens_with_a_run_that_does_not_count():
    log: list[str] = []

    def replay(name: str, calls: int) -> clock.Replay:
        return clock.Replay(lambda: log.append(name), (print,) * calls, "CUDA graph")

    milliseconds = {"a": 4.0, "b": 30.0}

    def watch(run: Any) -> float:
        run()
        return milliseconds[log[-1]]

    timings = clock.take_turns({"a": replay("a", 8), "b": replay("b", 10)}, watch, rounds=2, turn_ms=10.0, least=2)
    assert "".join(log) == ("a" + "aaa" + "b" + "bb") * 2
    assert timings["a"].samples == [0.5] * 6
    assert timings["b"].samples == [3.0] * 4
    assert (timings["a"].turns, timings["b"].turns) == ([3, 3], [2, 2])
    assert timings["a"].figures()["median"] == 0.5


def test_a_replay_keeps_its_calls_so_that_no_graph_writes_to_freed_memory(monkeypatch):
    class Call:
        def __call__(self) -> None:
            pass

    monkeypatch.setattr(clock, "_captured", lambda run: lambda: None)  # a graph holds addresses, no Python object
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    call = Call()
    alive = weakref.ref(call)
    replay = clock.replay([call], "cuda")
    del call
    gc.collect()
    assert (replay.form, alive()) == ("CUDA graph", replay.calls[0])


def test_all_rivals_are_timed_and_one_that_fails_is_left_out(library):
    def broken(one: rivals.Inputs) -> Any:
        raise RuntimeError("no kernel image")

    found, missing = rivals.available(library)
    assert list(found)[:2] == [rivals.OURS, rivals.OURS_ON_DEVICE]
    assert "msda_cuda_run_naive" in missing[rivals.NAIVE]
    settings = timing.Settings("cpu", 1, dtypes=("fp16", "fp32"), rounds=1, turn_ms=0.0)
    timings = timing.measure(found | {"broken": broken}, TINY[:1], settings, lambda text: None)
    timed = [(row["dtype"], row["l2"], row["rival"]) for row in timings.rows]
    assert timed == [
        *(("fp16", "cold", name) for name in found),
        *(("fp16", "warm", name) for name in found),
        *(("fp32", "cold", name) for name in found),
    ]
    assert timings.left_out == {
        f"broken, {TINY[0].name} {dtype}": "RuntimeError: no kernel image" for dtype in ("fp16", "fp32")
    }
    ours = [row["difference_of_value"] for row in timings.rows if row["rival"] == rivals.OURS]
    assert max(ours) < 1e-3
    assert min(row["ms"]["median"] for row in timings.rows) > 0


def test_the_naive_kernel_gets_what_it_takes(library, monkeypatch):
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(native.Library, "has_naive", True)
    monkeypatch.setattr(native.Library, "enqueue", lambda self, *arguments: asked.append(arguments))
    found, _ = rivals.available(library)
    one = rivals.inputs(TINY[0], "fp16", "cpu")
    found[rivals.NAIVE](one)()
    ((function, problem, levels, stream),) = asked
    assert (function, stream) == ("msda_cuda_run_naive", 0)
    assert (problem.reference_points, problem.position_type, problem.weight_type) == (None, 1, 1)
    assert (levels.type, levels.level_start_index) == (3, one.levels.level_start_index.data_ptr())


@pytest.mark.parametrize("work", TINY, ids=["injector", "extractor"])
def test_the_rivals_written_here_compute_the_op(work, library):
    one = rivals.inputs(work, "fp32", "cpu")
    truth = rivals.exact(one)
    found, _ = rivals.available(library)
    for name, bind in found.items():
        gap = float((bind(one)() - truth).abs().max())
        assert gap < 2e-5, f"{name} differs by {gap}"


# --- correctness ---


def test_the_library_is_checked_over_the_table_in_every_way(library, monkeypatch):
    cases = correctness.cases_module()
    few = [
        case for case in cases.CASES if case.name in {"plain", "batch3", "no_query", "offsets_nonfinite", "logits_nan"}
    ]
    monkeypatch.setattr(cases, "CASES", few)
    found = correctness.over_the_table(correctness.by_library(library), "cpu")
    assert found["calls"] == 2 * 5 * 5 * 3  # ops, types, cases, places of the level sizes
    assert found["wrong"] == []
    assert 0 < found["worst_share_of_value"]["fp16"] < 1e-3


def test_wrong_numbers_and_unwritten_outputs_are_found(library, monkeypatch):
    cases = correctness.cases_module()
    monkeypatch.setattr(cases, "CASES", [case for case in cases.CASES if case.name == "plain"])
    right = correctness.by_library(library)

    def wrong(op: str, tensors: dict[str, Any], place: str) -> Any:
        output = right(op, tensors, place)
        if place == "host" and op == "fused":
            output[0, 3] = output[0, 3] + 0.1
        return output

    found = correctness.over_the_table(wrong, "cpu")
    assert found["wrong_count"] == 5  # types
    assert "fused fp32/fp32 plain, sizes on host: off by" in found["wrong"][0]

    monkeypatch.setattr(native.Call, "__call__", lambda self: self.output)
    assert correctness.over_the_table(right, "cpu")["wrong_count"] == 2 * 5 * 3


def test_real_sizes_are_held_against_fp32_arithmetic(library):
    found, _ = rivals.available(library)
    result = correctness.at_real_sizes(found[rivals.OURS], "cpu", TINY, batches=(1, 2))
    assert len(result["sizes"]) == 2 * 2 * 3
    assert result["sizes_wrong"] == []

    def nan(one: rivals.Inputs) -> Any:
        return lambda: torch.full_like(rivals.exact(one), float("nan"))

    assert len(correctness.at_real_sizes(nan, "cpu", TINY[:1], batches=(1,))["sizes_wrong"]) == 3


def test_a_refusal_of_the_library_reaches_the_caller(library):
    one = rivals.inputs(TINY[0], "fp32", "cpu")
    with pytest.raises(AdapterError, match="msda_set_levels"):
        library.fused(one.value, one.levels.spatial_shapes + 1, one.reference_points, one.samples)
    with pytest.raises(AdapterError, match="not contiguous"):
        library.fused(one.value.transpose(1, 2), one.levels.spatial_shapes, one.reference_points, one.samples)


# --- rehearsals and the programs ---


def test_whole_models_are_rehearsed(tmp_path, monkeypatch, capsys):
    data = work.whole_models(context(tmp_path))
    assert [row["variant"] for row in data["rows"]] == [
        "plain ViT",
        "ViT-Adapter, kernel",
        "ViT-Adapter, torch grid_sample",
    ]
    assert all(row["ms"]["count"] >= 3 and row["fps"] > 0 for row in data["rows"])
    assert data["rows"][1]["kernel_against_torch"] < 1e-5
    assert data["warnings"] == []
    assert "failed" not in data


@pytest.mark.parametrize("name", ["bandwidth", "sanitizer", "counters", "runtimes"])
def test_what_only_a_gpu_can_do_is_skipped_in_a_rehearsal(tmp_path, name):
    with pytest.raises(steps.Skip, match="there is no GPU"):
        getattr(work, name)(context(tmp_path))


def test_the_drivers_arguments_are_the_workload():
    assert work.driver_arguments(TINY[0]) == ["run", "fp16", "12", "32", "4", "8x8,4x4,2x2", "4x4", "3"]


def test_the_programs_of_the_check_compile(tmp_path, stand_in):
    try:
        build.nvcc()
    except AdapterError as error:
        pytest.skip(str(error))
    library = tmp_path / build.LIBRARY
    library.symlink_to(stand_in)
    driver = build.program(build.DRIVER, tmp_path / "driver", "9.0", [library])
    probe = build.program(build.PROBE, tmp_path / "probe", "9.0")
    usage = subprocess.run([driver], capture_output=True, text=True, check=False)
    assert (usage.returncode, usage.stderr[:12]) == (2, "driver small")
    if not torch.cuda.is_available():
        done = subprocess.run([probe], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("probe: cudaGetDeviceProperties: ")


def test_a_program_that_does_not_compile_gives_the_compilers_words(tmp_path):
    try:
        build.nvcc()
    except AdapterError as error:
        pytest.skip(str(error))
    source = tmp_path / "wrong.cu"
    source.write_text("int main() { return missing; }\n")
    with pytest.raises(AdapterError, match=r'nvcc failed: .*identifier "missing" is undefined'):
        build.program(source, tmp_path / "wrong", "9.0")
