"""Events and the emitter: who listens to what. Public under `events`.

How an event then reaches a handler is in `_delivery`; what is emitted belongs to those who do.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar, overload

from penstock._background import is_coroutine_function
from penstock._delivery import Listener, Wave, in_handler


class EventType(StrEnum):
    """What kind of thing happened. A plain str of the same value does wherever one is taken."""

    GENERATION_STARTED = "generation_started"
    GENERATION_COMPLETED = "generation_completed"
    TOOL_STARTED = "tool_started"
    TOOL_PROGRESS = "tool_progress"
    TOOL_COMPLETED = "tool_completed"
    ERROR = "error"
    RETRY_ATTEMPTED = "retry_attempted"
    RETRY_EXHAUSTED = "retry_exhausted"
    VALIDATION_FAILED = "validation_failed"
    SESSION_CREATED = "session_created"
    SESSION_CLEARED = "session_cleared"
    COMPACTION_STARTED = "compaction_started"
    COMPACTION_COMPLETED = "compaction_completed"
    WORKFLOW_STEP_STARTED = "workflow_step_started"
    WORKFLOW_STEP_COMPLETED = "workflow_step_completed"
    WORKFLOW_STEP_WAITING = "workflow_step_waiting"
    WORKFLOW_STEP_FAILED = "workflow_step_failed"


@dataclass(slots=True)
class Event:
    """Something that happened. All handlers get the same object: do not change it.

    Attributes:
        type: what kind of thing.
        timestamp: when it was emitted, in UTC.
        data: what is known about it; the keys depend on the type.
        source: who emitted it, such as "LLM"; None where that was not said.
    """

    type: EventType
    timestamp: datetime
    data: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


Handler: TypeAlias = Callable[[Event], object]
"""Takes an event. What it returns is awaited where it can be, and ignored otherwise."""

_HandlerT = TypeVar("_HandlerT", bound=Handler)
_Key: TypeAlias = EventType | None  # None: events of every type
_Which: TypeAlias = EventType | str | None


class EventEmitter:
    """Tells handlers what happens. Safe to use from several threads and event loops.

    Args:
        handler_timeout: seconds that `emit` and `aemit` wait for handlers, all together;
            0 to never wait, ``math.inf`` for no limit.
        parent: every event goes there as well, after the emitter's own handlers.
        queue_size: how many events are kept for a handler that is busy.

    Handlers are functions or coroutine functions; `emit` and `aemit` call both kinds. A function
    runs in a daemon thread. A coroutine function runs in the event loop of `aemit`, and under
    `emit` in one private loop. Both see the context variables of the emitting code. Each
    registration sees its events one after another, in the order in which they were emitted;
    different handlers run side by side.

    A handler that raises is logged to ``penstock.events``, with its traceback. One that is not
    through within ``handler_timeout`` goes on, but is not waited for again until it has caught
    up; meanwhile its events are queued. Where the queue is full, new events are dropped for it,
    counted in `dropped`, and logged once.

    `emit` does not wait at all where waiting would do harm: in a thread that runs an event loop
    (it would stop), and inside a handler (handlers could wait for each other for ever; that holds
    for `aemit` too). The events are delivered all the same. A process that ends normally waits
    one second for what is queued; what then remains is lost.

    Example::

        emitter = EventEmitter()

        @emitter.on(EventType.ERROR)
        def report(event: Event) -> None:
            print(event.data["error"])

        emitter.emit(EventType.ERROR, {"error": "no such file"})
    """

    def __init__(
        self,
        handler_timeout: float = 1.0,
        parent: EventEmitter | None = None,
        queue_size: int = 1000,
    ) -> None:
        if math.isnan(handler_timeout) or handler_timeout < 0:
            raise ValueError(f"handler_timeout: {handler_timeout} is not a number of seconds")
        if queue_size < 1:
            raise ValueError(f"queue_size: {queue_size} is not at least 1")
        self._handler_timeout = handler_timeout
        self._parent = parent
        self._queue_size = queue_size
        self._lock = threading.Lock()
        # Replaced and never changed, so that reading needs no lock.
        self._listeners: dict[_Key, tuple[Listener, ...]] = {}
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many events were dropped because a handler's queue was full."""
        return self._dropped

    @overload
    def on(self, event_type: _Which, handler: _HandlerT) -> _HandlerT: ...
    @overload
    def on(self, event_type: _Which) -> Callable[[_HandlerT], _HandlerT]: ...
    def on(self, event_type: _Which, handler: Any = None) -> Any:
        """Has ``handler`` called for every event of a type from now on.

        Args:
            event_type: None or "*" for all types.
            handler: a function or a coroutine function. Left out, `on` is a decorator. Registered
                twice, it is called twice.

        Returns:
            The handler.

        Raises:
            ValueError: there is no such type.

        Example::

            emitter.on("error", print)
        """
        return self._register(event_type, handler, once=False)

    @overload
    def once(self, event_type: _Which, handler: _HandlerT) -> _HandlerT: ...
    @overload
    def once(self, event_type: _Which) -> Callable[[_HandlerT], _HandlerT]: ...
    def once(self, event_type: _Which, handler: Any = None) -> Any:
        """As `on`, for the next event only."""
        return self._register(event_type, handler, once=True)

    @overload
    def on_async(self, event_type: _Which, handler: _HandlerT) -> _HandlerT: ...
    @overload
    def on_async(self, event_type: _Which) -> Callable[[_HandlerT], _HandlerT]: ...
    def on_async(self, event_type: _Which, handler: Any = None) -> Any:
        """As `on`, for what returns an awaitable without being a coroutine function.

        The handler is called in the event loop, and must not block it.
        """
        return self._register(event_type, handler, once=False, is_async=True)

    def off(self, event_type: _Which, handler: Handler) -> bool:
        """Ends one registration. Events that were emitted before still reach the handler.

        Args:
            event_type: as it was registered; None or "*" ends only a registration for all types.
            handler: the handler, or a bound method that equals it.

        Returns:
            Whether it was registered.
        """
        key = _key(event_type)
        with self._lock:
            for listener in self._listeners.get(key, ()):
                if listener.handler == handler:
                    self._remove(key, listener)
                    return True
        return False

    def off_async(self, event_type: _Which, handler: Handler) -> bool:
        """The same as `off`."""
        return self.off(event_type, handler)

    def clear(self) -> None:
        """Ends all registrations."""
        with self._lock:
            self._listeners = {}

    def has_listeners(self, event_type: EventType | str) -> bool:
        """Whether anybody, the parent's handlers included, listens to events of a type.

        Example::

            if emitter.has_listeners(EventType.TOOL_PROGRESS):
                emitter.emit(EventType.TOOL_PROGRESS, expensive_report())
        """
        key = event_type if type(event_type) is EventType else EventType(event_type)
        emitter: EventEmitter | None = self
        while emitter is not None:
            listeners = emitter._listeners
            if listeners and (key in listeners or None in listeners):
                return True
            emitter = emitter._parent
        return False

    def emit(
        self,
        event_type: EventType | str,
        data: Mapping[str, Any] | None = None,
        source: str | None = None,
        **kw: Any,
    ) -> Event:
        """Tells the handlers, and waits for them, but see `EventEmitter`.

        Args:
            event_type: what kind of thing happened.
            data: what is known about it; copied.
            source: who says so.
            **kw: more data.

        Returns:
            The event.

        Raises:
            ValueError: there is no such type.

        Example::

            emitter.emit(EventType.TOOL_PROGRESS, tool_name="download", percent=40)
        """
        event = _event(event_type, data, source, kw)
        if self.has_listeners(event.type):
            if asyncio._get_running_loop() is not None or in_handler.get():
                self._deliver(event, None, None)
            else:
                wave = Wave()
                self._deliver(event, None, wave)
                wave.wait(self._handler_timeout)
        return event

    async def aemit(
        self,
        event_type: EventType | str,
        data: Mapping[str, Any] | None = None,
        source: str | None = None,
        **kw: Any,
    ) -> Event:
        """As `emit`, without blocking the event loop; coroutine functions run in this loop.

        Cancelling ends the wait at once. All handlers get the event nevertheless.
        """
        return await self._aemit(event_type, {**(data or {}), **kw}, source, natively=True)

    async def emit_async(
        self,
        event_type: EventType | str,
        data: Mapping[str, Any] | None = None,
        source: str | None = None,
        **kw: Any,
    ) -> Event:
        """The same as `aemit`."""
        return await self.aemit(event_type, data, source, **kw)

    def emit_error(self, error: BaseException, context: Mapping[str, Any] | None = None) -> Event:
        """Emits an ERROR with the keys error, error_type and context.

        Example::

            emitter.emit_error(error, {"operation": "generate"})
        """
        return self.emit(EventType.ERROR, error_data(error, context))

    async def aemit_error(
        self, error: BaseException, context: Mapping[str, Any] | None = None
    ) -> Event:
        """As `emit_error`, without blocking."""
        return await self.aemit(EventType.ERROR, error_data(error, context))

    async def _aemit(
        self,
        event_type: EventType | str,
        data: Mapping[str, Any] | None,
        source: str | None,
        *,
        natively: bool,
    ) -> Event:
        """Waits in the running loop; coroutine functions run there ``natively``, or as in `emit`.

        The latter is for loops that handlers must not be able to block.
        """
        event = _event(event_type, data, source, {})
        if self.has_listeners(event.type):
            running = asyncio.get_running_loop()
            loop = running if natively else None
            if in_handler.get():
                self._deliver(event, loop, None)
            else:
                wave = Wave(running)
                self._deliver(event, loop, wave)
                await wave.await_(self._handler_timeout)
        return event

    def _deliver(
        self, event: Event, loop: asyncio.AbstractEventLoop | None, wave: Wave | None
    ) -> None:
        emitter: EventEmitter | None = self
        while emitter is not None:
            for listener in emitter._take(event.type):
                listener.put(event, loop, wave)
            emitter = emitter._parent

    def _take(self, event_type: EventType) -> list[Listener]:
        """Who listens to it; those who do once are taken out, so that only one event has them."""
        listeners = self._listeners
        found = [*listeners.get(event_type, ()), *listeners.get(None, ())]
        if not any(listener.once for listener in found):
            return found
        with self._lock:
            found = []
            for key in (event_type, None):
                for listener in self._listeners.get(key, ()):
                    found.append(listener)
                    if listener.once:
                        self._remove(key, listener)
        return found

    def _remove(self, key: _Key, listener: Listener) -> None:
        rest = tuple(other for other in self._listeners[key] if other is not listener)
        self._listeners = {**self._listeners, key: rest}
        if not rest:
            del self._listeners[key]

    def _register(
        self, event_type: _Which, handler: Any, *, once: bool, is_async: bool = False
    ) -> Any:
        key = _key(event_type)

        def register(handler: _HandlerT) -> _HandlerT:
            if not callable(handler):
                raise TypeError(f"{handler!r} cannot be called, and so handles no events")
            in_loop = is_async or is_coroutine_function(handler)
            listener = Listener(handler, once, in_loop, self._queue_size, self._drop)
            with self._lock:
                others = self._listeners.get(key, ())
                self._listeners = {**self._listeners, key: (*others, listener)}
            return handler

        return register if handler is None else register(handler)

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1


def _event(
    event_type: EventType | str,
    data: Mapping[str, Any] | None,
    source: str | None,
    more: dict[str, Any],
) -> Event:
    kind = event_type if type(event_type) is EventType else EventType(event_type)
    return Event(kind, datetime.now(UTC), {**data, **more} if data else more, source)


def error_data(error: BaseException, context: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data of an ERROR."""
    return {
        "error": str(error),
        "error_type": type(error).__name__,
        "context": dict(context or {}),
    }


def _key(event_type: _Which) -> _Key:
    return None if event_type is None or event_type == "*" else EventType(event_type)
