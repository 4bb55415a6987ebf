"""The default number of threads: physical cores, the process's CPU set, the container's quota."""

from __future__ import annotations

import pytest

from adapter_engines import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up /sys of 8 CPUs on 4 cores, all of them allowed."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for cpu in range(8):
        topology = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "fs/cgroup/cpu").mkdir(parents=True)
    return tmp_path


def test_hyper_threads_of_one_core_count_once(machine):
    assert threads.available(machine) == 4


def test_only_allowed_cpus_count(machine, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {1, 5, 6})
    assert threads.available(machine) == 2


def test_without_a_topology_every_cpu_counts(tmp_path, machine):
    assert threads.available(tmp_path / "nothing") == 8


@pytest.mark.parametrize(("text", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4)])
def test_the_quota_of_a_container_limits(machine, text, expected):
    (machine / "fs/cgroup/cpu.max").write_text(text)
    assert threads.available(machine) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 4)])
def test_the_older_interface_of_quotas_limits_too(machine, quota, expected):
    (machine / "fs/cgroup/cpu/cpu.cfs_quota_us").write_text(quota)
    (machine / "fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000")
    assert threads.available(machine) == expected
