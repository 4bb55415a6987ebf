"""What NVIDIA's tools print, as recorded: nvidia-smi, ncu, compute-sanitizer, ptxas."""

from __future__ import annotations

import pytest

from adapter_bench import smi
from adapter_bench.gpu_check import build, tools

SMI = "NVIDIA H100 80GB HBM3, 580.159.04, 9.0, 1980, 1980, 2619, 34, 71.52, 0, 529, 81559\n"
NCU = """==PROF== Connected to process 1234 (/tmp/driver)
==PROF== Profiling "fused" - 0: 0%....50%....100% - 9 passes
==PROF== Disconnected from process 1234
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","1234","driver","127.0.0.1","void msda::fused<__half, 32, 3>(msda::Arguments)","1","7","(256, 1, 1)","(16, 12, 1)","0","9.0","Command line profiler metrics","dram__bytes.sum","byte","5,898,240"
"0","1234","driver","127.0.0.1","void msda::fused<__half, 32, 3>(msda::Arguments)","1","7","(256, 1, 1)","(16, 12, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","3,296"
"0","1234","driver","127.0.0.1","void msda::fused<__half, 32, 3>(msda::Arguments)","1","7","(256, 1, 1)","(16, 12, 1)","0","9.0","Command line profiler metrics","l1tex__t_sector_hit_rate.pct","%","76.41"
"0","1234","driver","127.0.0.1","void msda::fused<__half, 32, 3>(msda::Arguments)","1","7","(256, 1, 1)","(16, 12, 1)","0","9.0","Command line profiler metrics","launch__registers_per_thread","register/thread","56"
"0","1234","driver","127.0.0.1","void msda::fused<__half, 32, 3>(msda::Arguments)","1","7","(256, 1, 1)","(16, 12, 1)","0","9.0","Command line profiler metrics","lts__throughput.avg.pct_of_peak_sustained_elapsed","%","n/a"
"""  # noqa: E501
REFUSED = """==PROF== Connected to process 77 (/tmp/driver)
==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters on the target device 0.
==PROF== Disconnected from process 77
"""  # noqa: E501
MEMCHECK = """========= COMPUTE-SANITIZER
78 calls
========= ERROR SUMMARY: 0 errors
"""
FOUND = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 16 bytes
=========     at fused+0x420
========= ERROR SUMMARY: 3 errors
"""
RACECHECK = """========= COMPUTE-SANITIZER
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN4msda5fusedE' for 'sm_90'
ptxas info    : Function properties for _ZN4msda5fusedE
    0 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 56 registers, used 1 barriers, 64 bytes smem
ptxas info    : Compiling entry function '_ZN4msda5otherE' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers
"""


def test_nvidia_smi_is_read_field_by_field():
    reading = smi.parse(SMI)
    assert isinstance(reading, dict)
    assert (reading["name"], reading["driver"], reading["compute_capability"]) == (
        "NVIDIA H100 80GB HBM3",
        "580.159.04",
        "9.0",
    )
    assert (reading["sm_mhz"], reading["memory_mhz"], reading["celsius"], reading["watts"]) == (1980, 2619, 34, 71.52)
    assert smi.sentence(reading) == "1980 MHz, of at most 1980 MHz, memory 2619 MHz, 34 C, 72 W"


def test_what_a_gpu_does_not_report_is_none_and_is_not_shown():
    reading = smi.parse(SMI.replace("71.52", "[N/A]").replace("34,", "[Not Supported],"))
    assert isinstance(reading, dict)
    assert (reading["watts"], reading["celsius"]) == (None, None)
    assert smi.sentence(reading) == "1980 MHz, of at most 1980 MHz, memory 2619 MHz"


def test_an_unexpected_answer_is_quoted():
    assert "No devices were found" in smi.sentence(smi.parse("No devices were found\n"))


def test_without_nvidia_smi_it_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert smi.query() == smi.ABSENT


def test_ncu_gives_one_row_for_a_launch_in_our_units():
    (row,) = tools.ncu_rows(NCU)
    assert row == {
        "kernel": "void msda::fused<__half, 32, 3>(msda::Arguments)",
        "dram_bytes": 5898240.0,
        "duration_us": pytest.approx(3.296),
        "l1_hit_percent": 76.41,
        "registers": 56.0,
    }
    assert tools.refusal(NCU) is None


@pytest.mark.parametrize(
    ("unit", "value", "us"), [("us", "3.3", 3.3), ("msecond", "1.5", 1500.0), ("nsecond", "800", 0.8)]
)
def test_ncus_units_of_time(unit, value, us):
    (row,) = tools.ncu_rows(NCU.replace('"ns","3,296"', f'"{unit}","{value}"'))
    assert row["duration_us"] == pytest.approx(us)


def test_a_refusal_to_read_counters_is_told_in_its_own_words():
    assert tools.ncu_rows(REFUSED) == []
    assert tools.refusal(REFUSED).startswith("ERR_NVGPUCTRPERM - The user does not have permission")


@pytest.mark.parametrize(
    ("text", "errors"), [(MEMCHECK, 0), (FOUND, 3), (RACECHECK, 1), ("========= Error: Device not supported", None)]
)
def test_compute_sanitizers_summary(text, errors):
    assert tools.sanitizer_errors(text) == errors


def test_a_refusal_of_compute_sanitizer():
    assert tools.refusal("========= Error: Device not supported. Please refer to the list") == (
        "Error: Device not supported. Please refer to the list"
    )


def test_registers_and_spills_of_a_build():
    assert build.resources(PTXAS) == {"kernels": 2, "most_registers": 56, "spilled_bytes": 4}


def test_the_gpu_at_hand_is_the_only_target():
    assert build.target("9.0") == ["-gencode", "arch=compute_90,code=sm_90"]
    assert build.target("12.0")[1] == "arch=compute_120,code=sm_120"


def test_the_library_is_made_of_what_the_release_is_made_of():
    names = [path.name for path in build.sources()]
    assert "check.cpp" in names
    assert len([name for name in names if name.endswith(".cu")]) >= 4
    assert all(path.is_file() for path in build.sources())
