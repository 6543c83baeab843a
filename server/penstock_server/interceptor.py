"""The gate: everything that is the same for all calls, around every method of ours.

Who may come in (``identity`` knows), unreadable or oversized messages, the call's deadline, one log
line, the status for a failure, and the refusal and counting of calls while the server stops. What a
call means is not known here. Calls that come by a gateway's link (``link``) are judged here, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from penstock import v1

from penstock_server import telemetry, wire
from penstock_server.errors import Failure, Violation, to_status
from penstock_server.identity import Door
from penstock_server.incoming import call_of, remaining_of
from penstock_server.policy import BY_CERTIFICATE, Caller, current_caller
from penstock_server.providers import Call
from penstock_server.unread import Reader, Readers

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # only the stubs know that it is generic

RESPONSE_ID_HEADER = "penstock-request-id"

# A caller that is told when to come back is held to it by gRPC's own retries, up to this long.
_LONGEST_PUSHBACK = 10.0

_OUR_PREFIX = "/penstock.v1."

current_call: ContextVar[Call] = ContextVar("penstock_call")
"""The call that the running task answers. A context variable, since contexts take no attributes."""

Context = grpc.aio.ServicerContext[Any, Any]


class _Unreadable:
    """Stands for a request that is none, so that it fails as a call and not inside gRPC."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Gate(grpc.aio.ServerInterceptor):
    """Wraps every method of ``penstock.v1``; other services pass, once the door lets them.

    Concurrency: one task per call, all on the server's event loop, so plain attributes do. The
    gate knows the running tasks, and so can wait for them or end them when the server stops.

    ``door`` may be replaced at any time; None: everybody may come in. ``unread_timeout``: see
    `Readers`.
    """

    def __init__(
        self,
        max_message_bytes: int,
        log_messages: bool = False,
        door: Door | None = None,
        unread_timeout: float = 0.0,
    ) -> None:
        self.readers = Readers(unread_timeout)
        self.door = door
        self.observe: telemetry.Observer | None = None
        self._limit = max_message_bytes
        self._log_messages = log_messages
        self._wrapped: dict[str, Handler] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False
        self._expired = False

    @property
    def running(self) -> int:
        """How many calls are being answered."""
        return len(self._running)

    def refuse(self) -> None:
        """Answer new calls with SHUTTING_DOWN from now on."""
        self._refusing = True

    async def drained(self, timeout: float) -> bool:
        """Wait until no call runs, at most ``timeout`` seconds; whether that came true."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def ended(self) -> None:
        """Wait for the calls that run now, however long they take."""
        if self._running:
            await asyncio.wait(set(self._running))

    def end_running(self) -> None:
        """End all running calls with SHUTTING_DOWN."""
        self._expired = True
        for task in self._running:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Hand gRPC the wrapped method."""
        method: str = handler_call_details.method
        if self.door is not None:
            try:
                who = await self.door.who(method, handler_call_details.invocation_metadata or ())
            except Failure as failure:
                return self._refusal(method, failure)
            current_caller.set(who or BY_CERTIFICATE)  # the handler runs in the same task
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            wrapped = await continuation(handler_call_details)
            if wrapped is not None and method.startswith(_OUR_PREFIX):
                wrapped = self._wrapped[method] = self._wrap(method, wrapped)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        read: Callable[[bytes], Message] = handler.request_deserializer  # type: ignore[assignment]
        message_type: type[Message] = read.__self__  # type: ignore[attr-defined]
        # gRPC types handlers as if they were synchronous; ours are not.
        method_of: Callable[[Message, Context], Any] = handler.unary_unary or handler.unary_stream  # type: ignore[assignment]
        name = method.removeprefix(_OUR_PREFIX)

        def parse(raw: bytes) -> Message | _Unreadable:
            try:
                self.check_size(len(raw))
                return read(raw)
            except Failure as failure:
                return _Unreadable(failure)
            except DecodeError:
                problems = wire.explain(raw, message_type.DESCRIPTOR)  # type: ignore[arg-type] # upb's own
                return _Unreadable(Failure.invalid(problems))

        async def unary(request: Message | _Unreadable, context: Context) -> Message:
            response: Message | None = None

            async def answer(readable: Message) -> None:
                nonlocal response
                response = await method_of(readable, context)

            await self._answer(name, request, context, answer)
            assert response is not None  # otherwise _answer has aborted
            return response

        # A coroutine that writes, not a generator that yields: gRPC never closes a generator
        # whose caller has gone while it was suspended, and `finally` would run whenever.
        async def stream(request: Message | _Unreadable, context: Context) -> None:
            async def answer(readable: Message) -> None:
                events = method_of(readable, context)
                try:
                    with self.readers.watched(reader):
                        async for event in events:
                            reader.turn += 1
                            await context.write(event)
                            reader.turn += 1
                finally:
                    await events.aclose()

            reader = Reader()
            try:
                await self._answer(name, request, context, answer)
            except asyncio.CancelledError:
                if reader.unread:
                    await self.readers.tell(context)
                raise

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                stream,
                request_deserializer=parse,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            unary,
            request_deserializer=parse,
            response_serializer=handler.response_serializer,
        )

    async def _answer(
        self,
        method: str,
        request: Message | _Unreadable,
        context: Context,
        answer: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one call of gRPC's, and see that it ends with exactly one status."""
        caller = self._caller(context)
        name = caller.name if isinstance(caller, Caller) else ""
        call = call_of(
            context.invocation_metadata() or (), remaining_of(context), context.peer(), name
        )

        async def readable() -> None:
            if isinstance(caller, Failure):
                raise caller
            if name:
                telemetry.note(caller=name)
            if isinstance(request, _Unreadable):
                raise request.failure
            telemetry.note_private(request=request)
            await answer(request)

        with self.counted():
            failure = await self.judge(method, call, context.peer(), readable)
            if failure is not None:
                await _abort(context, failure, call.request_id)
            context.set_trailing_metadata(((RESPONSE_ID_HEADER, call.request_id),))

    def _caller(self, context: Context) -> Caller | Failure:
        """Who calls; or why whoever shows such a certificate may not."""
        caller = current_caller.get()
        if caller is BY_CERTIFICATE and self.door is not None:
            try:
                caller = self.door.by_certificate(context.auth_context())
            except Failure as failure:
                return failure
            current_caller.set(caller)
        return caller

    def _refusal(self, method: str, failure: Failure) -> Handler:
        """A handler that refuses. As a stream, since nothing is read of those: strangers can send
        much."""

        async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
            metadata = context.invocation_metadata() or ()
            call = call_of(metadata, remaining_of(context), context.peer())

            async def answer() -> None:
                raise failure

            with self.counted():
                told = await self.judge(
                    method.removeprefix(_OUR_PREFIX), call, context.peer(), answer
                )
                if told is not None:
                    await _abort(context, told, call.request_id)

        # gRPC types handlers as if they were synchronous; ours are not.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def check_size(self, size: int) -> None:
        """Refuse a message of so many bytes, if that is too many."""
        if size > self._limit:
            raise _too_large(size, self._limit)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The running task answers a call: it is waited for, and ended, when the server stops."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    async def judge(
        self, method: str, call: Call, peer: str, answer: Callable[[], Awaitable[None]]
    ) -> Failure | None:
        """Answer one call, by whatever way it came; what is to be told of a failure.

        Writes the call's one log line. Raises only where nobody waits any more.
        """
        line = telemetry.CallLog(method, call.request_id, peer, self._log_messages)
        line.observe = self.observe
        current_call.set(call)
        telemetry.current.set(line)
        task = asyncio.current_task()
        assert task is not None
        failure: Failure | None = None
        try:
            if self._refusing:
                raise _shutting_down()
            await answer()
        except Failure as error:
            failure = error
        except asyncio.CancelledError:
            if not self._expired:
                line.write("DEADLINE_EXCEEDED" if call.remaining() == 0 else "CANCELLED")
                raise  # swallowing it would leak gRPC's own state
            task.uncancel()
            failure = _shutting_down()
        except Exception:
            telemetry.logger.exception("a fault of Penstock's own, in %s", method)
            failure = Failure(
                v1.ERROR_REASON_INTERNAL_ERROR,
                "Penstock failed at this call; the server's log has the details. Please report it.",
            )
        if failure is not None:
            # Its traceback holds this frame and the request, and this frame holds it: without this,
            # a large request would stay in memory until the garbage collector comes by.
            failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        if failure is None:
            line.write("OK")
        else:
            line.write(failure.code.name, failure.reason_name, failure.message)
        return failure


async def _abort(context: Context, failure: Failure, request_id: str) -> NoReturn:
    status = to_status(failure, request_id=request_id)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString()),
        (RESPONSE_ID_HEADER, request_id),
    ]
    if "attempts" in failure.metadata:
        # The gateway has tried again already: gRPC's own retries on top would multiply.
        trailers.append(("grpc-retry-pushback-ms", "-1"))
    elif failure.retry_delay is not None and failure.retry_delay <= _LONGEST_PUSHBACK:
        trailers.append(("grpc-retry-pushback-ms", str(int(failure.retry_delay * 1000))))
    await context.abort(failure.code, status.message, tuple(trailers))


def _shutting_down() -> Failure:
    return Failure(
        v1.ERROR_REASON_SHUTTING_DOWN, "the server is stopping; call again to reach another one"
    )


def _too_large(size: int, limit: int) -> Failure:
    return Failure(
        v1.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"the message has {size:,} bytes and the server takes {limit:,}; send less, "
        "or raise limits.max_message_bytes",
        violations=[Violation("request", f"has {size:,} bytes; at most {limit:,}")],
        size=str(size),
        limit=str(limit),
    )


__all__ = ["Gate", "current_call"]
