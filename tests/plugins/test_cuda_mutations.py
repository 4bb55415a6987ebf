"""Bugs planted in the text of the CUDA kernels, one at a time: the cases that guard the kernels must notice each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cuda_case_files import Run, write
from cuda_emulation import KERNELS, SHIM, compiler, run, start_compiling
from msda_cases import Case


class Bug(NamedTuple):
    """`old` becomes `new` in `file`. `equivalent`: why no result can change, where that is so."""

    what: str
    file: str
    old: str
    new: str
    equivalent: str = ""


FAST, LEVELS, GENERIC = "cuda_fast.cuh", "cuda_levels.cuh", "cuda_generic.cuh"
BUGS = [
    Bug(
        "half a cell forgotten",
        FAST,
        "points.reference[l].x, level.width, -0.5f",
        "points.reference[l].x, level.width, 0.0f",
    ),
    Bug(
        "rows as long as columns",
        LEVELS,
        "static_cast<Index>(own.width) * step;",
        "static_cast<Index>(own.height) * step;",
    ),
    Bug("every level starts at 0", LEVELS, "*at = level.start + ", "*at = "),
    Bug("no upper clamp", LEVELS, "fminf(fmaxf(x, 0.0f), last)", "fminf(fmaxf(x, 0.0f), 30.0f)"),
    Bug("no lower clamp", LEVELS, "fminf(fmaxf(x, 0.0f), last)", "fminf(x, last)"),
    Bug("a second cell where there is one", LEVELS, "to.end_x = many_x ? 1.0f : -1.0f;", "to.end_x = 1.0f;"),
    Bug("weights beyond one cell", LEVELS, "__saturatef(end - fabsf(t - 1.0f))", "__saturatef(end - (t - 1.0f))"),
    Bug("corners swapped", FAST, "first + right, first + down,", "first + down, first + right,"),
    Bug("sum over half a row", FAST, "sum += __shfl_xor_sync(0xffffffffu, sum, 2);", ""),
    Bug("maximum over half a row", FAST, "top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));", ""),
    Bug("logits of the first level for all", FAST, "load1(weights + l * kPoints + t)", "load1(weights + t)"),
    Bug("reference points of the first entry for all", FAST, "entry * a.reference_entry + ", ""),
    Bug(
        "reference points of the first level for all",
        FAST,
        "load2(reference + l * a.reference_level)",
        "load2(reference)",
    ),
    Bug(
        "samples of the first head for all",
        FAST,
        "query[i] * heads + head, t, points",
        "query[i] * heads + first_head, t, points",
    ),
    Bug("all lanes on one chunk", FAST, "head * kLanes + chunk);\n    float", "head * kLanes);\n    float"),
    Bug("no barrier in the warp", FAST, "  __syncwarp();\n\n#pragma unroll 1", "\n#pragma unroll 1"),
    Bug("no barrier in the block", FAST, "  __syncthreads();\n", ""),
    Bug(
        "a lane leaves before the others shuffle",
        FAST,
        "    if (kFused) softmax(points);",
        "    if (slot > last_query) return;\n    if (kFused) softmax(points);",
    ),
    Bug("the last band as high as the others", LEVELS, "left < 8 ? g.per_last : 0.125f", "0.125f"),
    Bug(
        "a grid that begins with the others",
        LEVELS,
        "const int32_t k = slot - sizes.first[i];",
        "const int32_t k = slot;",
    ),
    Bug("sums of cells unchecked", LEVELS, "fit = fit && total == all && ", "fit = fit && "),
    Bug("areas modulo 2^32", LEVELS, "area <= all ? static_cast<uint32_t>(area) : 0", "static_cast<uint32_t>(area)"),
    Bug("starts unchecked", LEVELS, "(start <= all && start + cells <= all)", "true"),
    Bug("int32 sizes read as int64", LEVELS, "if (a.wide_sizes) {", "if (true) {"),
    Bug(
        "the order of levels unused", LEVELS, "a.device_shapes && !a.device_starts ? before", "a.device_shapes ? before"
    ),
    Bug("shuffles across rows", GENERIC, "weight.w, j, lanes)", "weight.w, j)"),
    Bug(
        "a row leaves before the others shuffle",
        GENERIC,
        "row = own < rows ? own : rows - 1;",
        "row = own;\n    if (own >= rows) continue;",
    ),
    Bug("channels of a pass overlap", GENERIC, "pass + lane * kV;", "pass + lane;"),
    Bug("no softmax", GENERIC, "power(share - top) * scale", "share"),
    Bug(
        "rows without a query stored",
        FAST,
        "    if (slot <= last_query)\n",
        "",
        "they repeat the last query and store its right numbers where they belong",
    ),
    Bug("no padding", FAST, "kRowsPadded = kRows + 2;", "kRowsPadded = kRows;", "only bank conflicts depend on it"),
    Bug(
        "no grid of one level",
        LEVELS,
        "injector = injector || ",
        "injector = false && ",
        "grids order the work, no more",
    ),
]


def runs() -> Iterator[Run]:
    """Few and small, but every path of few_kernels.cu: grids, batches, hostile numbers, sizes on the device."""
    wide = {"offsets": "wide", "q": 9, "m": 2}
    for d in (32, 64, 24):
        case = Case(f"mutants_{d}", d=d, n=2, reference_batch=2, reference_levels=3, **wide)
        yield Run(case)
        yield Run(case, "standard", samples="fp32", order=-1, device="int32+starts")
    yield Run(Case("mutants_odd", d=15, q=5, m=3), device="int64")
    yield Run(Case("mutants_extractor", shapes=((6, 10),), d=32, m=2, q=315), order=-1)
    yield Run(Case("mutants_one_cell", shapes=((1, 9), (9, 1), (1, 1)), d=32, offsets="wide", m=3, q=5))
    yield Run(Case("mutants_borders", d=32, offsets="borders", logits="masked", q=20, m=2))
    yield Run(Case("mutants_huge", d=32, logits="huge", q=20, m=2))
    yield Run(Case("mutants_nonfinite", d=32, offsets="nonfinite", logits="nan", reference="nonfinite", q=40, n=2))
    sizes = Case("mutants_sizes", d=32, m=2, q=9)
    yield Run(sizes, device="int32", broken=((6, 5), (3, 4), (1, 1)))
    yield Run(sizes, device="int64", broken=((481, 8929246), (3, 4), (2, 1)))  # 2^32 + 30 cells, and all 44 modulo 2^32
    yield Run(sizes, "standard", samples="fp32", device="int64+starts", broken_starts=(0, 30, 43))
    swapped = Case("mutants_swapped", shapes=((3, 4), (3, 4), (2, 1)), d=32, m=2)
    yield Run(swapped, "standard", samples="fp32", device="int64+starts", swapped=True)


def notice(folder: Path, few: Path, others: list[Path], cases: Path) -> str:
    """What the cases say about the kernels in `folder`: "" when nothing."""
    driver = folder / "driver"
    run(compiler(), few, *others, "-o", driver)
    try:
        done = subprocess.run([driver, cases], capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return "does not come back"
    return "" if done.returncode == 0 else done.stderr.strip() or f"ended with {done.returncode}"


@pytest.mark.slow
@pytest.mark.xdist_group("native build")
def test_planted_bugs_are_noticed(tmp_path):
    """About a minute of two cores: one file compiled for each bug."""
    for source in (*KERNELS.glob("cuda_*.cuh"), *KERNELS.glob("*.h")):
        shutil.copy(source, tmp_path)
    others = [tmp_path / f"{name}.o" for name in ("cuda_run", "check", "emulated_runtime", "case_driver")]
    sources = [KERNELS / "cuda_run.cu", KERNELS / "check.cpp", SHIM / "emulated_runtime.cpp", SHIM / "case_driver.cpp"]
    waiting = [start_compiling(source, to, KERNELS, ("-O0",)) for source, to in zip(sources, others, strict=True)]
    assert write(tmp_path / "cases", runs()) == 16
    for process in waiting:
        _, complaints = process.communicate()
        assert process.returncode == 0, complaints

    def compile_with(bug: Bug | None, number: int) -> tuple[Path, subprocess.Popen[str]]:
        folder = tmp_path / str(number)
        shutil.copytree(
            tmp_path, folder, ignore=lambda *_: [p.name for p in tmp_path.iterdir() if p.suffix not in {".cuh", ".h"}]
        )
        shutil.copy(SHIM / "few_kernels.cu", folder)
        if bug:
            text = (folder / bug.file).read_text()
            assert text.count(bug.old) == 1, (
                f"{bug.what}: the text to change stands {text.count(bug.old)} times in {bug.file}"
            )
            (folder / bug.file).write_text(text.replace(bug.old, bug.new))
        options = ("-O0", "-Wno-unused-variable", "-Wno-unused-but-set-variable", "-Wno-unused-parameter")
        return folder, start_compiling(folder / "few_kernels.cu", folder / "few.o", folder, options)

    wrong = []
    bugs: list[Bug | None] = [None, *BUGS]
    for first in range(0, len(bugs), 2):  # two compilers at a time
        pair = [(bug, *compile_with(bug, first + i)) for i, bug in enumerate(bugs[first : first + 2])]
        for bug, folder, process in pair:
            _, complaints = process.communicate()
            assert process.returncode == 0, complaints[-3000:]
            noticed = notice(folder, folder / "few.o", others, tmp_path / "cases")
            shutil.rmtree(folder)
            if bug is None:
                assert noticed == "", noticed
            elif bool(noticed) == bool(bug.equivalent):
                wrong.append(f"{bug.what}: {noticed or 'not noticed'}")
    assert not wrong, "\n".join(wrong)
    assert sum(not bug.equivalent for bug in BUGS) >= 12
