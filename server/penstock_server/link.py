"""The sidecar's end of a link: a gateway's calls that come, and are answered, by one stream.

How a call is answered is the services' to know, and what is the same for all calls the gate's; here
is only the way there and back. The gateway's end is ``providers/link``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from penstock import v1
from penstock.link import v1 as link

from penstock_server import telemetry
from penstock_server.errors import to_status
from penstock_server.incoming import call_of
from penstock_server.interceptor import Gate
from penstock_server.providers import Call
from penstock_server.service import GenerationService

Context = grpc.aio.ServicerContext[Any, Any]

_TOO_LATE = link.Status(
    code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="the deadline has passed"
)


_LAST_WRITE = 5.0
"""How long a link that is over waits for the other end to take its last message, in seconds."""


class LinkService(link.LinkServiceServicer):
    """Answers Link.

    Concurrency: a task for each call, and two for each link: one reads, one writes. What the calls
    have to tell in one round of the event loop, which is what one step of an engine brought, the
    writer finds together and sends as one message. A call without credit waits, and what comes for
    it in the meantime is put together by the engine's `Answer`.
    """

    def __init__(self, gate: Gate, generation: GenerationService) -> None:
        self._gate = gate
        self._generation = generation
        self._closing = asyncio.Event()

    # A coroutine that writes, as the gate's streams are.
    async def Link(  # type: ignore[override]
        self, request_iterator: AsyncIterator[link.LinkRequest], context: Context
    ) -> None:
        """Carry calls until the gateway or this server ends it."""
        end = _End(self._gate, self._generation, context)
        reading = asyncio.create_task(end.read(request_iterator))
        writing = asyncio.create_task(end.write())
        closing = asyncio.create_task(self._closing.wait())
        tasks: Sequence[asyncio.Task[Any]] = (reading, writing, closing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                await end.close()  # nobody says anything more, credit and cancellations included
            # A write that has begun has to end before the link may: gRPC takes no status meanwhile.
            end.finish()
            await asyncio.wait((writing,), timeout=_LAST_WRITE)
            for task in (reading, writing):
                if task.done():
                    task.result()
        except (_Nonsense, DecodeError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            for task in tasks:
                task.cancel()
            await end.close()

    def close(self) -> None:
        """End all links, after what they still have to tell; for when no call runs any more."""
        self._closing.set()


class _Nonsense(Exception):
    """The other end does not keep to the protocol."""


class _Linked:
    """A call that is being answered, and how many events it may still tell."""

    def __init__(self, number: int, credit: int) -> None:
        self.number = number
        self.late = False
        """It was cancelled because its time was up."""
        self._credit = credit
        self._allowed = asyncio.Event()

    def allow(self, events: int) -> None:
        self._credit += events
        self._allowed.set()

    async def spend(self) -> None:
        """Wait until another event may be told."""
        while self._credit <= 0:
            self._allowed.clear()
            await self._allowed.wait()
        self._credit -= 1


class _End:
    """This end of one link."""

    def __init__(self, gate: Gate, generation: GenerationService, context: Context) -> None:
        self._gate = gate
        self._generation = generation
        self._context = context
        self._calls: dict[int, _Linked] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._told = link.LinkResponse()  # what the next message says
        self._filled = asyncio.Event()
        self._finishing = False

    async def read(self, requests: AsyncIterator[link.LinkRequest]) -> None:
        """Do as the gateway says, until it has no more to say."""
        async for message in requests:
            for begin in message.begin:
                self._begin(begin)
            for credit in message.credit:
                if linked := self._calls.get(credit.call):
                    linked.allow(credit.events)
            for number in message.cancel:
                if task := self._tasks.get(number):
                    task.cancel()

    async def write(self) -> None:
        """Send what the calls tell, until `finish` and all is sent."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            message, self._told = self._told, link.LinkResponse()
            if message.frames:
                await self._context.write(message)
            elif self._finishing:
                return
            if self._finishing:
                self._filled.set()

    def finish(self) -> None:
        """Have `write` return once all is sent."""
        self._finishing = True
        self._filled.set()

    async def close(self) -> None:
        """End the calls: nobody is left to be told."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, begin: link.Begin) -> None:
        if begin.call in self._calls:
            raise _Nonsense(f"call {begin.call} of this link is running already")
        remaining = begin.timeout.ToNanoseconds() / 1e9 if begin.HasField("timeout") else None
        call = call_of(begin.metadata.items(), remaining, self._context.peer())
        linked = self._calls[begin.call] = _Linked(begin.call, begin.credit)
        task = self._tasks[begin.call] = asyncio.create_task(self._answer(begin, call, linked))
        task.add_done_callback(partial(self._ended, linked))
        if remaining is not None:
            timer = asyncio.get_running_loop().call_later(remaining, self._expire, linked)
            task.add_done_callback(lambda _: timer.cancel())

    def _expire(self, linked: _Linked) -> None:
        linked.late = True
        self._tasks[linked.number].cancel()

    def _ended(self, linked: _Linked, task: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before it begins runs no `finally`.
        del self._calls[linked.number], self._tasks[linked.number]
        if linked.late and task.cancelled():
            self._tell(linked.number, status=_TOO_LATE)

    async def _answer(self, begin: link.Begin, call: Call, linked: _Linked) -> None:
        method = (
            "GenerationService/StreamGenerate" if begin.stream else "GenerationService/Generate"
        )
        tell = partial(self._stream if begin.stream else self._whole, begin.request, linked)
        with self._gate.counted():
            failure = await self._gate.judge(method, call, self._context.peer(), tell)
        if failure is not None:
            found = to_status(failure, request_id=call.request_id)
            status = link.Status(code=found.code, message=found.message, details=found.details)
            self._tell(begin.call, status=status)
        elif begin.stream:
            self._tell(begin.call, status=link.Status())

    async def _stream(self, request: v1.GenerateRequest, linked: _Linked) -> None:
        telemetry.note_private(request=request)
        self._gate.check_size(request.ByteSize())
        asked = v1.StreamGenerateRequest(request=request)
        answers = self._generation.StreamGenerate(asked, self._context)
        async with aclosing(answers) as events:
            async for event in events:
                await linked.spend()
                self._tell(linked.number, event=event)

    async def _whole(self, request: v1.GenerateRequest, linked: _Linked) -> None:
        telemetry.note_private(request=request)
        self._gate.check_size(request.ByteSize())
        response = await self._generation.Generate(request, self._context)
        self._tell(linked.number, response=response)

    def _tell(self, number: int, **content: Any) -> None:
        self._told.frames.add(call=number, **content)
        self._filled.set()
