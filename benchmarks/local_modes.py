"""What else ``local.py`` measures of our own engine: interference, prefix reuse, idleness."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import penstock
from penstock import aio, v1
from penstock_server.provider_settings import SidecarSettings

from benchmarks import local_picture
from benchmarks.local_contenders import MODEL, Server, Setup
from benchmarks.local_contenders import penstock as start_penstock
from benchmarks.local_figures import percentile
from benchmarks.local_model import Questions
from benchmarks.local_process import cpu

Mode = Callable[[Setup, argparse.Namespace], int]

CHUNK = "prefill_chunk"
"""The key of ``providers.local`` that says how many tokens of a prompt are read at a time."""

LONG_PROMPT = 4000
"""Words, each a token. The random model takes 8,192."""

_WHOLE = 8192
"""A chunk that no prompt exceeds."""

STREAMS = 4


@contextmanager
def _running(setup: Setup, **settings: object) -> Iterator[Server]:
    """Our gateway and sidecar, with more settings."""
    more = {key: str(value) for key, value in settings.items()}
    server = start_penstock(replace(setup, settings={**setup.settings, **more}))
    try:
        yield server
    finally:
        server.process.stop()


@dataclass
class _Row:
    """What was seen in one way of running; seconds."""

    firsts: list[float] = field(default_factory=list)
    """Of short prompts."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Of running streams, with how many tokens each stands for."""
    longs: list[float] = field(default_factory=list)
    """Of the long prompts, to their first token."""


def interference(setup: Setup, args: argparse.Namespace) -> int:
    """How a prompt of 4,000 tokens, every so often, holds up short ones and running streams.

    One caller asks short questions, four hear long answers; with prompts read in chunks and
    without, and without long prompts at all.
    """
    ways: dict[str, Mapping[str, object]] = {"no long prompts": {}, "long prompts, as it is": {}}
    if CHUNK in SidecarSettings.model_fields:
        ways["long prompts, read in chunks of 512"] = {CHUNK: 512}
        ways["long prompts, read at once"] = {CHUNK: _WHOLE}
    else:
        print(f"skipped: chunked and unchunked: this gateway knows no providers.NAME.{CHUNK}")
    rows = {way: _Row() for way in ways}
    questions = Questions.of(setup.model)
    for number in range(args.rounds):
        for way, settings in ways.items():
            print(f"round {number + 1} of {args.rounds}: {way}", flush=True)
            every = args.every if way.startswith("long") else 0.0
            with _running(setup, **settings) as server:
                target = server.options["target"]
                asyncio.run(_interfere(target, questions, args.seconds, every, rows[way]))
    table = local_picture.markdown(
        [
            "",
            "short: first token p50",
            "max",
            "stream: between tokens p50",
            "p99",
            "max",
            "long: first token p50",
        ],
        [
            [
                way,
                _ms(statistics.median(row.firsts)),
                _ms(max(row.firsts)),
                _ms(percentile(row.gaps, 0.5)),
                _ms(percentile(row.gaps, 0.99)),
                _ms(max(gap for gap, _ in row.gaps)),
                _ms(statistics.median(row.longs)) if row.longs else "–",
            ]
            for way, row in rows.items()
        ],
    )
    print(f"\n{table}")
    raw = {way: vars(row) for way, row in rows.items()}
    return _write(setup, args, "interference", table, raw)


async def _interfere(
    target: str, questions: Questions, seconds: float, every: float, row: _Row
) -> None:
    chance = random.Random(7)
    async with aio.Client(target) as client:
        await _first_token(client, questions.text(8, chance), 8)  # warm
        ends = time.perf_counter() + seconds

        async def stream() -> None:
            while time.perf_counter() < ends:
                before = 0.0
                prompt = questions.text(32, chance)
                async for text in _ask(client, prompt, 200).text():
                    now = time.perf_counter()
                    tokens = text.count(" ")
                    if before and tokens:
                        row.gaps.append(((now - before) / tokens, tokens))
                    before = now
                    if now > ends:
                        break

        async def short() -> None:
            while time.perf_counter() < ends:
                row.firsts.append((await _first_token(client, questions.text(16, chance), 4))[0])
                await asyncio.sleep(0.1)

        async def long() -> None:
            while time.perf_counter() + every < ends:
                await asyncio.sleep(every)
                prompt = questions.text(LONG_PROMPT, chance)
                row.longs.append((await _first_token(client, prompt, 1))[0])

        callers = [short(), *(stream() for _ in range(STREAMS))] + ([long()] if every else [])
        await asyncio.gather(*callers)


def prefix(setup: Setup, args: argparse.Namespace) -> int:
    """What the second turn of a long conversation costs: after the first, and as if it were new.

    System prompt and history have 3,000 tokens. The new conversation is the same but for its very
    first word, so that nothing can be reused; each of ``--rounds`` conversations has other words.
    """
    found: dict[str, list[tuple[float, v1.Usage]]] = {}
    with _running(setup) as server:
        questions = Questions.of(setup.model)
        for number in range(args.rounds):
            turns = asyncio.run(_converse(server.options["target"], questions, number))
            for turn, seen in turns.items():
                found.setdefault(turn, []).append(seen)
    table = local_picture.markdown(
        ["", "first token p50", "prompt tokens", "of these from the cache"],
        [
            [
                turn,
                _ms(statistics.median(first for first, _ in seen)),
                f"{statistics.median(usage.input_tokens for _, usage in seen):,.0f}",
                f"{statistics.median(usage.cached_input_tokens for _, usage in seen):,.0f}",
            ]
            for turn, seen in found.items()
        ],
    )
    print(f"\n{table}")
    raw = {
        turn: [
            {"first": first, "input": u.input_tokens, "cached": u.cached_input_tokens}
            for first, u in seen
        ]
        for turn, seen in found.items()
    }
    return _write(setup, args, "prefix", table, raw)


async def _converse(
    target: str, questions: Questions, number: int
) -> dict[str, tuple[float, v1.Usage]]:
    chance = random.Random(number)
    history = [penstock.system(questions.text(1000, chance))]
    for _ in range(10):
        history.append(penstock.user(questions.text(100, chance)))
        history.append(penstock.assistant(" " + questions.text(100, chance)))
    history.append(penstock.user(questions.text(16, chance)))
    async with aio.Client(target) as client:
        await _first_token(client, questions.text(8, chance), 8)  # warm
        first, usage, answer = await _told(client, history, 32)
        turns = {"first turn": (first, usage)}
        history += [penstock.assistant(answer), penstock.user(questions.text(16, chance))]
        first, usage, answer = await _told(client, history, 32)
        turns["second turn"] = first, usage
        system = history[0].parts[0].text
        other = next(w for w in questions.words if not system.startswith(f"{w} "))
        history[0] = penstock.system(f"{other} {system.partition(' ')[2]}")
        first, usage, _ = await _told(client, history, 32)
        turns["second turn, as a new conversation"] = first, usage
    return turns


def idle(setup: Setup, args: argparse.Namespace) -> int:
    """How much CPU gateway and sidecar use while nothing is asked, over 20 seconds."""
    seconds = 20.0
    with _running(setup) as server:
        questions = Questions.of(setup.model)
        asyncio.run(_once(server.options["target"], questions))
        time.sleep(2)  # what follows an answer is no idleness
        parts = {part: list(pids()) for part, pids in server.parts.items()}
        before, began = {part: cpu(pids) for part, pids in parts.items()}, time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - began
        shares = {part: (cpu(pids) - before[part]) / took for part, pids in parts.items()}
    table = local_picture.markdown(
        ["idle", "share of a core"], [[part, f"{share:.2%}"] for part, share in shares.items()]
    )
    print(f"\n{table}")
    return _write(setup, args, "idle", table, shares)


async def _once(target: str, questions: Questions) -> None:
    async with aio.Client(target) as client:
        await _first_token(client, questions[0].prompt, 32)


Prompt = str | Sequence[v1.Message]


def _ask(client: aio.Client, prompt: Prompt, tokens: int) -> aio.Stream:
    return client.stream(prompt, model=MODEL, temperature=0, max_output_tokens=tokens)


async def _told(client: aio.Client, prompt: Prompt, tokens: int) -> tuple[float, v1.Usage, str]:
    """Seconds to the first token, usage and text of an answer."""
    asked = time.perf_counter()
    first = 0.0
    text = ""
    async with _ask(client, prompt, tokens) as stream:
        async for piece in stream.text():
            first = first or time.perf_counter() - asked
            text += piece
    assert stream.response is not None
    return first, stream.response.usage, text


async def _first_token(client: aio.Client, prompt: Prompt, tokens: int) -> tuple[float, str]:
    first, _, text = await _told(client, prompt, tokens)
    return first, text


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"


def _write(
    setup: Setup, args: argparse.Namespace, mode: str, table: str, raw: Mapping[str, Any]
) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"local-{mode}-{setup.engine}.json"
    file.write_text(json.dumps(raw, indent=1) + "\n")
    file.with_suffix(".md").write_text(table)
    print(f"written: {file} and .md")
    return 0


MODES: Mapping[str, Mode] = {"interference": interference, "prefix": prefix, "idle": idle}
