"""What a report says of the machine, and when it doubts it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapter_bench import machine

STEADY: dict[str, Any] = {
    "governor": "performance",
    "usable_cores": 4,
    "quota_cores": None,
    "memory_bytes": 8 << 30,
    "memory_available_bytes": 4 << 30,
}


def test_the_record_names_what_figures_depend_on() -> None:
    found = machine.describe()
    assert found["cpu"] == machine.device() != ""
    assert 1 <= found["usable_cores"] <= found["cores"]
    assert 0 < found["memory_available_bytes"] <= found["memory_bytes"]
    assert len(found["load_average"]) == 3
    assert 0 <= found["other_cores"] <= found["cores"] + 0.5
    assert isinstance(found["gpu"], (dict, str))
    assert found.keys() >= {"governor", "quota_cores", "mhz", "git", "isa", "system", "python"}


def test_governors_of_all_cores_are_read(tmp_path: Path) -> None:
    assert machine.governor(tmp_path) is None
    for core, name in enumerate(["performance", "powersave", "performance"]):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert machine.governor(tmp_path) == "performance+powersave"


@pytest.mark.parametrize(("text", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("nonsense", None)])
def test_a_containers_share_of_the_cores(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert machine.quota_cores(tmp_path) == cores


def test_a_share_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    assert machine.quota_cores(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.quota_cores(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert machine.quota_cores(tmp_path) == 0.5


def test_memory_that_can_be_had(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemAvailable:   42 kB\n")
    assert machine.available_memory(tmp_path / "meminfo") == 42 * 1024
    assert machine.available_memory(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"governor": None}, None),
        ({"governor": "powersave"}, "frequency governor is powersave"),
        ({"quota_cores": 1.5}, "1.5 of 4 cores"),
        ({"quota_cores": 4.0}, None),
        ({"memory_available_bytes": 512 << 20}, "512 of 8,192 MiB of memory were free"),
        ({"memory_available_bytes": None}, None),
    ],
)
def test_doubts_are_told_only_where_there_is_a_reason(change: dict[str, Any], words: str | None) -> None:
    found = machine.doubts(STEADY | change)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_git_state_is_that_of_the_code_and_not_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "adapter_infer"
    package.mkdir()
    source = package / "__init__.py"
    source.write_text("")

    class Spec:
        origin = str(source)

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    monkeypatch.setattr(machine.util, "find_spec", lambda name: Spec)
    assert machine.git_state() is None
    git("init")
    git("commit", "--allow-empty", "-m", "one")
    assert machine.git_state() is None  # installed below it, not part of it
    git("add", ".")
    git("commit", "-m", "two")
    state = machine.git_state()
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["changed_files"] == 0
    source.write_text("changed")
    assert machine.git_state() == state | {"changed_files": 1}


class Clock:
    """A processor's accounts: what the system, this process and its children used, in seconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.own, self.children, self.others = 10.0, 1.0, 2.0, 50.0
        self.file = folder / "stat"
        monkeypatch.setattr(machine, "_STAT", self.file)
        monkeypatch.setattr(machine.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            machine.os,
            "times",
            lambda: SimpleNamespace(user=self.own, system=0.5, children_user=self.children, children_system=0.25),
        )
        self.write()

    def write(self) -> None:
        tick = os.sysconf("SC_CLK_TCK")
        stolen, waiting = self.others / 2, 1000
        user = self.own + self.children + self.others / 2
        fields = [user, 0, 0.75, 5000, waiting, 0, 0, stolen]
        self.file.write_text(f"cpu  {' '.join(str(round(each * tick)) for each in fields)} 0 0\ncpu0 1 2 3\n")


def test_other_programs_are_told_from_this_one_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch)
    others = machine.OtherPrograms()
    clock.now, clock.own, clock.children, clock.others = 20.0, 9.0, 12.0, 55.0
    clock.write()
    assert others.cores() == 0.5  # half of it stolen by the host; waiting and idling are nobody's
    clock.file.unlink()
    assert others.cores() is None
    assert machine.OtherPrograms().cores() is None


@pytest.mark.parametrize(
    ("found", "remark"),
    [
        ({"other_cores": 0.3, "usable_cores": 4}, None),
        ({"other_cores": None, "usable_cores": 4}, None),
        (
            {"other_cores": 0.5, "usable_cores": 4},
            "or the host, kept 0.5 of 4 cores busy before the start",
        ),
        ({"other_cores": 0, "other_cores_meanwhile": 1.24, "usable_cores": 2}, "kept 1.2 of 2 cores busy meanwhile"),
        ({}, None),
    ],
)
def test_work_of_others_is_remarked_on(found: dict[str, Any], remark: str | None) -> None:
    said = machine.disturbance(found)
    assert said == remark if remark is None else remark in str(said)
    if "usable_cores" in found:
        assert machine.doubts(STEADY | found) == ([] if said is None else [said])
