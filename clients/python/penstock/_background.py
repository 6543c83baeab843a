"""Where work goes on beside the caller: daemon threads, and event loops in threads of their own.

`events` and `tools` run other people's code, which may hang. Python waits at exit for the threads
of `concurrent.futures` and `asyncio.to_thread`, so one hanging tool would keep a process from
ending: here all threads are daemons. Nothing is started before it is needed. What to run, and how
long to wait for it, does not belong here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("penstock")

_KEEP_SECONDS = 10.0
"""How long a thread waits for more work before it ends: starting one costs more than waking it."""


class Threads:
    """Daemon threads, as many as there is work at a time.

    Example::

        threads.start(lambda: print("elsewhere"))
    """

    def __init__(self) -> None:
        self._free = threading.Semaphore(0)  # threads that wait with no work on its way to them
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def start(self, work: Callable[[], object]) -> None:
        """Calls ``work`` in a thread. It must not raise.

        Raises:
            RuntimeError: no thread can be started, as in a process that is ending.
        """
        if not self._free.acquire(blocking=False):
            threading.Thread(target=self._run, name="penstock-worker", daemon=True).start()
        self._work.put(work)

    def _run(self) -> None:
        work = self._work.get()
        while True:
            work()
            del work  # nothing of it is kept alive by a thread that waits
            self._free.release()
            try:
                work = self._work.get(timeout=_KEEP_SECONDS)
            except queue.Empty:
                if self._free.acquire(blocking=False):
                    return
                work = self._work.get()  # someone has just counted on this thread


class LoopThread:
    """An event loop that runs in a daemon thread from its first use until the process ends.

    One loop for all calls, rather than one for each, so that what is bound to a loop (HTTP
    clients, locks) can be kept from one call to the next.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; the first call starts it. RuntimeError where no thread can be started."""
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def is_current(self) -> bool:
        """Whether the caller runs in this loop, and so must not wait for it."""
        return self._loop is not None and asyncio._get_running_loop() is self._loop

    def give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on another loop serves: something blocks this one."""
        with self._lock:
            if self._loop is loop:
                self._loop = None


def is_coroutine_function(called: Any) -> bool:
    """Whether calling it makes a coroutine: a coroutine function, or an object like one."""
    call = getattr(called, "__call__", None)  # noqa: B004 - of an object that is called
    return inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(call)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException:
            # A task may raise SystemExit, which leaves run_forever: the others go on.
            _log.exception("a task left %s", threading.current_thread().name)


threads = Threads()
handlers = LoopThread("penstock-events")
"""Runs asynchronous event handlers of synchronous callers."""
tools = LoopThread("penstock-tools")
"""Runs asynchronous tools of synchronous callers."""
calls = LoopThread("penstock-calls")
"""Runs our own code only: nobody's tool or handler can block it."""


def _forget() -> None:
    """In a forked child: threads were not copied, nor are locks that they held ever released."""
    threads.__init__()  # type: ignore[misc]
    for loop_thread in (handlers, tools, calls):
        loop_thread.__init__(loop_thread._name)  # type: ignore[misc]


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
