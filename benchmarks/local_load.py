"""The load of ``local.py``: callers who each ask again as soon as they are answered.

``python benchmarks/local_load.py KIND OPTIONS`` (a kind of `ASKERS`, and JSON) reads `Task`s as
lines of JSON from stdin. For each it writes three lines to stdout: ``"open"`` and ``"closed"`` as
the time that counts begins and ends, so that whoever started it can read the CPU's clocks just
then, and what was `heard`.

Servers are asked from this process, which is none of theirs. What answers inside of Python
(``local_inside``) does so in this very process, as it would for a program that uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.local_model import Question, Questions

Hear = Callable[[str], None]
"""Is told each piece of an answer's text, the moment that it comes."""

Ask = Callable[[Question, Hear], Awaitable[int]]
"""Asks, tells what comes, and returns how many tokens the answer is said to have."""

MakeAsker = Callable[[Mapping[str, Any], int], AbstractAsyncContextManager[Ask]]
"""Makes an asker from its options, for so many callers at most."""


@dataclass(frozen=True)
class Task:
    """So many callers, for so many seconds after a time that does not count.

    They ask the questions from ``first`` on, each of them once. What was asked in time is answered
    to its end, as far as that takes no more than ``patience`` seconds.
    """

    callers: int
    seconds: float
    warm_up: float = 0.0
    first: int = 0
    patience: float = 300.0


@dataclass
class Heard:
    """One answer: when it was asked for, and each piece of text with its moment, in seconds."""

    question: int
    wanted: int
    asked: float
    pieces: list[tuple[float, int, int]] = field(default_factory=list)
    """Moment, words, characters."""
    told: int = 0
    """How many tokens the contender says that it has; 0 where it was not finished in time."""
    sum: int = 0
    """A checksum of the text."""


_stdout = sys.stdout


def say(what: object) -> None:
    """Write a line to who started this."""
    print(json.dumps(what), file=_stdout, flush=True)


async def loop(ask: Ask, questions: Questions, task: Task) -> list[Heard]:
    """Do a task."""
    numbers = itertools.count(task.first)
    answers: list[Heard] = []
    opens = time.perf_counter() + task.warm_up
    closes = opens + task.seconds

    async def caller() -> None:
        while time.perf_counter() < closes:
            number = next(numbers)
            answers.append(await one(ask, number, questions[number], answers))

    async with asyncio.TaskGroup() as callers:
        running = [callers.create_task(caller()) for _ in range(task.callers)]
        await asyncio.sleep(task.warm_up)
        say("open")
        await asyncio.sleep(max(0.0, closes - time.perf_counter()))
        say("closed")
        _, late = await asyncio.wait(running, timeout=task.patience)
        for each in late:
            each.cancel()
    for answer in answers:  # as seconds since the time that counts began
        answer.asked -= opens
        answer.pieces = [(at - opens, words, length) for at, words, length in answer.pieces]
    return answers


async def one(ask: Ask, number: int, question: Question, unfinished: list[Heard]) -> Heard:
    """Ask one question. Where it is cancelled, what came so far is added to ``unfinished``."""
    answer = Heard(number, question.tokens, time.perf_counter())
    text: list[str] = []

    def hear(piece: str) -> None:
        # Each token is a word with a space before it; some servers cut the first one's off.
        words = piece.count(" ") + (not text and not piece.startswith(" "))
        answer.pieces.append((time.perf_counter(), words, len(piece)))
        text.append(piece)

    try:
        answer.told = await ask(question, hear)
    except asyncio.CancelledError:
        unfinished.append(answer)
        raise
    answer.sum = zlib.crc32("".join(text).strip().encode())
    return answer


@asynccontextmanager
async def over_grpc(options: Mapping[str, Any], callers: int) -> AsyncIterator[Ask]:
    """Penstock's own aio client; ``target`` and ``model``."""
    from penstock import aio

    async with aio.Client(options["target"]) as client:

        async def ask(question: Question, hear: Hear) -> int:
            stream = client.stream(
                question.prompt,
                model=options["model"],
                temperature=0,
                max_output_tokens=question.tokens,
            )
            async for text in stream.text():
                hear(text)
            assert stream.response is not None
            return stream.response.usage.output_tokens

        yield ask


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    """An event of Chat Completions, as far as it is looked at."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


@asynccontextmanager
async def over_http(options: Mapping[str, Any], callers: int) -> AsyncIterator[Ask]:
    """Chat Completions as events; ``url``, ``model``, and what else goes in the ``body``."""
    import aiohttp

    decode = msgspec.json.Decoder(_Event).decode
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def begin(body: Mapping[str, Any]) -> aiohttp.ClientResponse:
            url = f"{options['url']}/v1/chat/completions"
            # llama.cpp's server closes connections after so many requests, while the next is on
            # its way; all that are kept may be such.
            for _ in range(callers):
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    return await session.post(url, json=body)
            return await session.post(url, json=body)

        async def ask(question: Question, hear: Hear) -> int:
            body = {
                "model": options["model"],
                "messages": [{"role": "user", "content": question.prompt}],
                "max_tokens": question.tokens,
                "stream": True,
                **options.get("body", {}),
            }
            told = 0
            async with await begin(body) as response:
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}: {await response.text()}")
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    event = decode(line[6:])
                    if event.error is not None:
                        raise RuntimeError(bytes(event.error).decode())
                    if event.choices and event.choices[0].delta.content:
                        hear(event.choices[0].delta.content)
                    if event.usage is not None:
                        told = event.usage.completion_tokens
            return told

        yield ask


def _inside(name: str) -> MakeAsker:
    def make(options: Mapping[str, Any], callers: int) -> AbstractAsyncContextManager[Ask]:
        from benchmarks import local_inside  # which imports torch, or mlx

        asker: MakeAsker = getattr(local_inside, name)
        return asker(options, callers)

    return make


ASKERS: Mapping[str, MakeAsker] = {
    "grpc": over_grpc,
    "http": over_http,
    "to_thread": _inside("to_thread"),
    "continuous": _inside("continuous"),
    "mlx_thread": _inside("mlx_thread"),
}


async def main(kind: str, options: Mapping[str, Any]) -> None:
    """Do the tasks that come on stdin, one after the other."""
    questions = Questions.of(Path(options["directory"]))
    async with ASKERS[kind](options, options["callers"]) as ask:
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            answers = await loop(ask, questions, Task(**json.loads(line)))
            say([asdict(answer) for answer in answers])


if __name__ == "__main__":
    import uvloop

    sys.stdout = sys.stderr  # what libraries print is not for who reads our lines
    uvloop.run(main(sys.argv[1], json.loads(sys.argv[2])))
