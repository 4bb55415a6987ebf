"""What the op has to do, and what this machine can do at most: the two sides of its roofline."""

from __future__ import annotations

import time
from collections.abc import Callable

from adapter_bench.op_rivals import Workload

COPY_BYTES = 2**27  # of one side of the copy: beyond any cache
MATRIX = 1536
ROUNDS = 8
MACS_A_SAMPLE = 5  # per channel: four corners weighted, and the attention weight
FLOAT = 4  # bytes


def work(workload: Workload) -> dict[str, float]:
    """FLOPs (2 per multiply-add, N*Q*M*L*P*D*5 of these) and bytes of one call: value, reference points, offsets and
    logits read once, the output written once, in fp32."""
    samples = workload.q * workload.m * len(workload.shapes) * workload.p
    numbers = workload.s * workload.m * workload.d + 2 * workload.q + 3 * samples + workload.q * workload.m * workload.d
    return {"flops": 2.0 * samples * workload.d * MACS_A_SAMPLE, "bytes": float(FLOAT * numbers)}


def roof() -> dict[str, float]:
    """Bytes a second of a copy in memory (read and written both count) and FLOPs a second of a matrix product, both
    fp32 in torch with the threads that are set, the best of a few rounds."""
    import torch

    source, target = torch.ones(COPY_BYTES // FLOAT), torch.empty(COPY_BYTES // FLOAT)
    a, b, c = (torch.ones(MATRIX, MATRIX) for _ in range(3))
    return {
        "bytes_per_s": 2 * COPY_BYTES / _best(lambda: target.copy_(source)),
        "flops_per_s": 2 * MATRIX**3 / _best(lambda: torch.mm(a, b, out=c)),
    }


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls, after one to warm up."""
    call()
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
