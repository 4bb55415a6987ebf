"""Lends execution contexts to threads: made when they are needed up to a limit, never one to two threads at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from adapter_engines.plan_context import PlanContext
from adapter_infer.errors import AdapterError, UsageError


class ContextPool:
    """`create` makes a context, `limit` says how many there may be, `emptied` is called once after `close`, when the
    last context is gone. `name` is what messages call the engine."""

    def __init__(self, name: str, limit: int, create: Callable[[], PlanContext], emptied: Callable[[], None]) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise UsageError(f"contexts is {limit!r}; give at least 1")
        self._name = name
        self._limit = limit
        self._create = create
        self._emptied = emptied
        self._idle: list[PlanContext] = []
        self._lent: Counter[int] = Counter()  # contexts by thread
        self._contexts: set[PlanContext] = set()
        self._made = 0  # and being made
        self._closed = False
        self._changed = threading.Condition()

    @property
    def made(self) -> int:
        """How many contexts there are now."""
        return self._made

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def buffer_bytes(self) -> int:
        """Device memory of the inputs and outputs of all contexts."""
        with self._changed:
            return sum(context.buffer_bytes for context in self._contexts)

    @contextmanager
    def lend(self) -> Iterator[PlanContext]:
        """A context for the calling thread alone; waits while all are lent.

        A context whose run failed is not lent again. Errors: UsageError after `close`, or if this thread itself holds
        all of them; AdapterError if one cannot be made.
        """
        context = self._take()
        fit = False
        try:
            yield context
            fit = True
        except UsageError:
            fit = True
            raise
        finally:
            self._give(context, fit)

    def close(self) -> None:
        """Frees the contexts that are idle now, the others when they come back; nothing is lent any more."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for context in idle:
            with suppress(AdapterError):  # an error of an earlier run, which that run has told
                context.close()
        self._gone(*idle, count=len(idle))

    def _take(self) -> PlanContext:
        thread = threading.get_ident()
        with self._changed:
            while not self._closed and not self._idle and self._made >= self._limit:
                if self._lent[thread] == self._limit:
                    raise UsageError(
                        f"this thread holds all {self._limit} contexts of {self._name}; leave one `with` block first, "
                        "or load it with more contexts"
                    )
                self._changed.wait()
            if self._closed:
                raise UsageError(f"the engine of {self._name} is closed; load it again")
            self._lent[thread] += 1
            if self._idle:
                context = self._idle.pop()  # the one used last: its shapes and its graph are the likeliest to fit
                context.owner = thread
                return context
            self._made += 1
        try:
            context = self._create()
        except BaseException:
            with self._changed:
                self._lent[thread] -= 1
            self._gone()
            raise
        with self._changed:
            self._contexts.add(context)
        return context

    def _give(self, context: PlanContext, fit: bool) -> None:
        with self._changed:
            self._lent[threading.get_ident()] -= 1
            context.owner = None
            if fit and not self._closed:
                self._idle.append(context)
                self._changed.notify()
                return
        with suppress(AdapterError):
            context.close()
        self._gone(context)

    def _gone(self, *contexts: PlanContext, count: int = 1) -> None:
        with self._changed:
            self._contexts -= set(contexts)
            self._made -= count
            last = self._closed and self._made == 0
            if last:
                emptied, self._emptied = self._emptied, _nothing
            self._changed.notify()
        if last:
            emptied()


def _nothing() -> None:
    pass
