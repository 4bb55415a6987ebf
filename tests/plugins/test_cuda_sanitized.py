"""The CUDA kernels on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from cuda_case_files import Run, write
from cuda_emulation import SHIM, compile_units, compiler, run, start_compiling
from msda_cases import CASES, DTYPES, Case

SANITIZE = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined,float-cast-overflow")
SANITIZE += ("-fno-sanitize-recover=all",)


def runs() -> Iterator[Run]:
    """Ops over the table, the types in turn, and what the table lacks: sizes on the device, good and bad, and grids."""
    for i, case in enumerate(CASES):
        if case.name == "many_queries":
            continue
        dtype = DTYPES[i % 3]
        yield Run(case, "fused", dtype, dtype, order=1 if i % 2 else -1)
        yield Run(case, "standard", DTYPES[(i + 1) % 3], "fp32", order=-1 if i % 2 else 1)
        yield Run(case, "fused", "fp16", "fp32" if i % 2 else "fp16", ("int32", "int64+starts")[i % 2])
    for d in (32, 24):
        case = Case("sizes", d=d, m=2, q=9)
        for device in ("int32", "int64", "int32+starts"):
            for broken in (((6, 5), (3, 4), (2, 2)), ((6, 5), (3, 4), (0, 2)), ((6, 5), (3, 4), (-2, -1))):
                yield Run(case, device=device, broken=broken)
        yield Run(case, device="int64", broken=((1 << 40, 1 << 40), (3, 4), (2, 1)))
    yield Run(Case("extractor", shapes=((6, 10),), q=315, d=32, m=2))
    yield Run(Case("encoder", shapes=((17, 9), (9, 5), (5, 3)), q=213, d=64, m=2), device="int32", order=-1)


@pytest.mark.slow
@pytest.mark.xdist_group("native build")
def test_everything_is_read_and_written_within_bounds(tmp_path):
    """About 70 seconds of processor time, most of it compiling."""
    if subprocess.run(
        [compiler(), *SANITIZE, "-x", "c++", "-", "-o", tmp_path / "probe"], input=b"int main() {}", check=False
    ).returncode:
        pytest.skip(f"{compiler()} has no sanitizers here")
    main = tmp_path / "main.o"
    process = start_compiling(SHIM / "case_driver.cpp", main, SHIM.parents[2] / "plugins" / "msda", SANITIZE)
    objects = compile_units(tmp_path, options=SANITIZE)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    driver = tmp_path / "driver"
    run(compiler(), *SANITIZE, main, *objects, "-o", driver)
    count = write(tmp_path / "cases", runs())
    # Fibers switch stacks by themselves, which the check for uses after a return cannot follow.
    options = "detect_stack_use_after_return=0:detect_leaks=0"
    done = subprocess.run(
        [driver, tmp_path / "cases"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ASAN_OPTIONS": options},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{count} cases\n"
    assert count > 150
