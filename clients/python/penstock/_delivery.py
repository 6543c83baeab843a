"""How an event reaches one handler: a bounded queue for each, emptied in order, elsewhere.

A `Listener` is a handler and its queue. It is called for one event at a time, in a daemon thread
or, where it is asynchronous, in an event loop, so that a handler that fails or hangs costs its
emitter no more than the wait that `Wave` allows. Who listens to what is in `_emitter`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from penstock import _background

if TYPE_CHECKING:
    from penstock._emitter import Event

_Handler: TypeAlias = "Callable[[Event], object]"

_log = logging.getLogger("penstock.events")

_EXIT_SECONDS = 1.0
"""How long a process that ends waits for what is queued, all handlers together."""

in_handler: contextvars.ContextVar[bool] = contextvars.ContextVar("in_handler", default=False)
"""Whether the caller is a handler. Its own events are queued and not waited for: handlers that
wait for each other in a circle would stop for good."""

_busy: set[Listener] = set()
_tasks: set[asyncio.Task[None]] = set()  # event loops hold their tasks only weakly


class Wave:
    """The deliveries of one event that its emitter waits for.

    Args:
        loop: where `await_` is called; None for `wait`.

    Example::

        wave = Wave()
        for listener in listeners:
            listener.put(event, None, wave)
        wave.wait(1.0)
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._lock = threading.Lock()
        self._pending: set[Listener] = set()
        self._complete = False  # until the emitter waits, more listeners may join
        self._ended = threading.Event() if loop is None else None
        self._future = None if loop is None else loop.create_future()

    def add(self, listener: Listener) -> None:
        """One more to wait for."""
        with self._lock:
            self._pending.add(listener)

    def done(self, listener: Listener) -> None:
        """The listener has seen the event."""
        with self._lock:
            self._pending.discard(listener)
            if self._pending or not self._complete:
                return
        if self._ended is not None:
            self._ended.set()
        if self._future is not None:
            with contextlib.suppress(RuntimeError):  # its loop was closed: nobody waits any more
                self._future.get_loop().call_soon_threadsafe(self._settle)

    def wait(self, seconds: float) -> None:
        """Blocks until all have seen the event, for that long at most."""
        assert self._ended is not None
        if self._has_pending() and not self._ended.wait(min(seconds, threading.TIMEOUT_MAX)):
            self._give_up(seconds)

    async def await_(self, seconds: float) -> None:
        """As `wait`, without blocking."""
        assert self._future is not None
        if self._has_pending():
            done, _ = await asyncio.wait({self._future}, timeout=seconds)
            if not done:
                self._give_up(seconds)

    def _has_pending(self) -> bool:
        with self._lock:
            self._complete = True
            return bool(self._pending)

    def _settle(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _give_up(self, seconds: float) -> None:
        with self._lock:
            late = tuple(self._pending)
        for listener in late:
            listener.fall_behind(seconds)


class _Delivery:
    """One event on its way to one handler."""

    __slots__ = ("context", "event", "loop", "started", "wave")

    def __init__(
        self, event: Event, loop: asyncio.AbstractEventLoop | None, wave: Wave | None
    ) -> None:
        self.event = event
        self.loop = loop
        self.wave = wave
        self.started = False
        # One for each: two threads cannot be in the same context.
        self.context = contextvars.copy_context()
        self.context.run(in_handler.set, True)


class Listener:
    """A handler and the events that it has still to see.

    Args:
        handler: takes an event; what it returns is awaited where it can be.
        once: for one event only.
        is_async: whether to call it in an event loop rather than in a thread.
        limit: how many events may be queued.
        on_drop: called for every event that was dropped because the queue was full.
    """

    def __init__(
        self,
        handler: _Handler,
        once: bool,
        is_async: bool,
        limit: int,
        on_drop: Callable[[], None],
    ) -> None:
        self.handler = handler
        self.once = once
        self._is_async = is_async
        self._limit = limit
        self._on_drop = on_drop
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Delivery] = deque()
        self._running = False
        self._behind = False
        self._dropping = False

    def put(self, event: Event, loop: asyncio.AbstractEventLoop | None, wave: Wave | None) -> None:
        """Hands an event to the handler, or queues it while the handler is busy.

        Args:
            event: what happened.
            loop: where an asynchronous handler runs; None for the private one.
            wave: is told when the handler is through with it. Ignored where the handler is behind.
        """
        delivery = _Delivery(event, loop, wave)
        with self._changed:
            if self._running and len(self._queue) >= self._limit:
                first, self._dropping = not self._dropping, True
            else:
                first = None
                if self._behind:
                    delivery.wave = None
                elif wave is not None:
                    wave.add(self)
                if self._running:
                    self._queue.append(delivery)
                    return
                self._running = True
                _busy.add(self)
        if first is None:
            self._dispatch(delivery)
            return
        self._on_drop()
        if first:
            _log.warning("%r is %d events behind: further ones are dropped", self, self._limit)

    def fall_behind(self, seconds: float) -> None:
        """Called by an emitter that has waited long enough: nobody waits until it caught up."""
        with self._changed:
            first = self._running and not self._behind
            self._behind = self._running
        if first:
            _log.warning("%r takes longer than %g s: it is not waited for any more", self, seconds)

    def wait_until_idle(self, seconds: float) -> None:
        """Blocks until the handler has seen everything, for that long at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)

    def forget(self) -> None:
        """In a forked child: the thread that ran the handler is not there."""
        self._changed = threading.Condition(threading.Lock())
        self._queue.clear()
        self._running = self._behind = self._dropping = False

    def __repr__(self) -> str:
        return f"event handler {self.handler!r}"

    def _dispatch(self, delivery: _Delivery, handler: _Handler | None = None) -> None:
        """Has the handler called; or, where a call of it returned an awaitable, ``handler``."""
        try:
            if handler is not None or self._is_async:
                self._submit(delivery, handler or self.handler)
            else:
                _background.threads.start(lambda: self._run(delivery))
        except RuntimeError:  # no thread can be started: the process ends
            _log.warning("%r misses events: the process ends", self)
            following: _Delivery | None = delivery
            while following is not None:
                following = self._finish(following)

    def _run(self, delivery: _Delivery) -> None:
        """In a thread: this event, and those that come meanwhile."""
        following: _Delivery | None = delivery
        while following is not None:
            current = following
            try:
                result = current.context.run(self.handler, current.event)
            except BaseException:  # even SystemExit: it is the handler's failure, not the call's
                self._failed(current.event)
            else:
                if inspect.isawaitable(result):  # a lambda around a coroutine function, say
                    self._dispatch(current, functools.partial(_given, result))
                    return
            following = self._finish(current)

    def _submit(self, delivery: _Delivery, handler: _Handler) -> None:
        """Makes a task of it in its event loop, or in the private one where that was closed."""
        if delivery.loop is not None:
            try:
                delivery.loop.call_soon_threadsafe(self._spawn, delivery, handler)
                return
            except RuntimeError:
                pass
        delivery.loop = _background.handlers.loop()
        delivery.loop.call_soon_threadsafe(self._spawn, delivery, handler)

    def _spawn(self, delivery: _Delivery, handler: _Handler) -> None:
        loop = delivery.loop
        assert loop is not None

        def ended(task: asyncio.Task[None]) -> None:
            _tasks.discard(task)
            if task.cancelled():
                # asyncio.run cancels every task before it closes the loop: no place for more.
                with self._changed:
                    for queued in self._queue:
                        queued.loop = None if queued.loop is loop else queued.loop
                if not delivery.started:
                    delivery.loop = None
                    self._dispatch(delivery, handler)
                    return
            following = self._finish(delivery)
            if following is not None:
                self._dispatch(following)

        task = loop.create_task(self._await(delivery, handler), context=delivery.context)
        _tasks.add(task)
        task.add_done_callback(ended)

    async def _await(self, delivery: _Delivery, handler: _Handler) -> None:
        delivery.started = True
        try:
            result = handler(delivery.event)
            if inspect.isawaitable(result):
                await result
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            self._failed(delivery.event)
            if isinstance(error, KeyboardInterrupt) and _in_main_thread():
                raise  # Ctrl-C in an event loop that does not take care of it

    def _finish(self, delivery: _Delivery) -> _Delivery | None:
        """The handler is through with this one. Returns the next, if any."""
        with self._changed:
            following = self._queue.popleft() if self._queue else None
            if following is None:
                self._running = self._behind = self._dropping = False
                _busy.discard(self)
                self._changed.notify_all()
        if delivery.wave is not None:
            delivery.wave.done(self)
        return following

    def _failed(self, event: Event) -> None:
        _log.exception("%r failed on %s", self, event.type.value)


def _given(result: object, _: Event) -> object:
    return result


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _deliver_the_rest() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    for listener in tuple(_busy):
        listener.wait_until_idle(deadline - time.monotonic())


def _forget() -> None:
    for listener in tuple(_busy):
        listener.forget()
    _busy.clear()
    _tasks.clear()


# Python runs this while daemon threads are still alive, and after it has joined all others.
atexit.register(_deliver_the_rest)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
