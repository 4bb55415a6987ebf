"""Threads change neither the bits of a result nor whose result it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import msda_cases

# Several tasks of queries for the thread pool, with a remainder.
CASE = msda_cases.Case("threads", shapes=((16, 16), (8, 8), (4, 4)), n=2, q=301, m=3, d=32)


@pytest.mark.parametrize("dtype", msda_cases.DTYPES)
def test_one_and_two_threads_give_the_same_bits(node, isa, dtype):
    inputs = CASE.inputs(dtype)
    one = node("MSDeformAttn", dtype, dtype, threads=1)(inputs)
    two = node("MSDeformAttn", dtype, dtype, threads=2)(inputs)
    assert np.array_equal(one.view(np.uint8), two.view(np.uint8))
    truth = msda_cases.expected(CASE, dtype)
    assert np.abs(msda_cases.decode(one) - truth).max() < 5 * msda_cases.TOLERANCE[dtype]


def test_calls_from_several_threads_do_not_mix(node):
    run = node("MSDeformAttn", threads=2)
    cases = [msda_cases.Case(f"caller{i}", q=40 + i, m=2, d=24) for i in range(6)]
    inputs = [case.inputs() for case in cases]
    alone = [run(feeds) for feeds in inputs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(run, inputs * 20))
    for i, output in enumerate(together):
        assert np.array_equal(output, alone[i % 6])
