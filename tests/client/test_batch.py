"""Many prompts at once, in both flavours: order, failures, limits, pushback, breaking off."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from penstock import v1
from pydantic import BaseModel

from tests.client.conftest import answer
from tests.client.faces import Face, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Fail, Server, Start


def prompt_of(request: v1.GenerateRequest) -> str:
    return penstock.text_of(request.messages[-1])


class Upstream:
    """A model that takes its time, and counts."""

    def __init__(self, server: Server, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.running = 0
        self.most = 0
        self.cut_off = 0
        self.slow: set[str] = set()
        self.fails_beside = 0
        server.generate = self.generate

    async def generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        prompt = prompt_of(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if prompt in self.slow:
                await asyncio.Event().wait()
            await asyncio.sleep(self.seconds)
            if prompt == "fail":
                await until(lambda: self.running >= self.fails_beside)
                await context.abort(grpc.StatusCode.INTERNAL, "broken")
            return answer(f"to {prompt}")
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.running -= 1


async def test_results_are_in_the_order_of_the_prompts(llm: Face, server: Server) -> None:
    upstream = Upstream(server)
    prompts = [str(number) for number in range(50)]
    results = await llm.batch(iter(prompts), temperature=0)

    assert [result.content for result in results] == [f"to {prompt}" for prompt in prompts]
    assert upstream.most <= 32
    assert all(call.request.sampling.HasField("temperature") for call in server.calls)


async def test_prompts_with_options_of_their_own(llm: Face, server: Server) -> None:
    await llm.batch(["a", {"prompt": "b", "seed": 5}], seed=3, max_concurrency=1)

    assert [call.request.sampling.seed for call in server.calls] == [3, 5]


async def test_nothing_to_do(llm: Face, server: Server) -> None:
    assert await llm.batch([]) == []
    async for _ in await llm.batch([], as_completed=True):
        pytest.fail("nothing comes")
    assert server.calls == []


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompts": "text"}, TypeError, "a list of prompts, not a single text"),
    ({"prompts": [5]}, TypeError, r"prompts\[0\]: a prompt of a batch is text or a mapping"),
    ({"prompts": ["a", ""]}, ValueError, r"prompts\[1\]: there is nothing to answer"),
    ({"prompts": ["a", {"prompt": "b", "sed": 1}]}, TypeError, r"prompts\[1\]: no such option"),
    ({"prompts": ["a"], "max_concurrency": 0}, ValueError, "max_concurrency: must be at least 1"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG)
async def test_wrong_arguments(
    llm: Face, server: Server, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await llm.batch(**arguments)
    assert server.calls == []


async def test_as_completed(llm: Face, server: Server) -> None:
    upstream = Upstream(server)
    upstream.slow = {"slow"}
    found = {}
    async for place, result in await llm.batch(["slow", "a", "b"], as_completed=True):
        found[place] = result.content
        if len(found) == 2:
            break
    await until(lambda: upstream.cut_off == 1)  # breaking off ends what still ran

    assert found == {1: "to a", 2: "to b"}


async def test_the_first_failure_cancels_the_rest(llm: Face, server: Server) -> None:
    upstream = Upstream(server)
    upstream.slow = {"a", "b", "c"}
    upstream.fails_beside = 4
    with pytest.raises(penstock.InternalError, match="broken"):
        await llm.batch(["a", "b", "fail", "c", "d", "e"], max_concurrency=4)

    await until(lambda: upstream.running == 0)
    assert upstream.cut_off == 3
    assert {prompt_of(call.request) for call in server.calls} == {"a", "b", "fail", "c"}


async def test_failures_as_values(llm: Face, server: Server) -> None:
    Upstream(server)
    results = await llm.batch(["a", "fail", "b"], return_exceptions=True)

    assert [type(result) for result in results] == [
        penstock.GenerateResponse,
        penstock.InternalError,
        penstock.GenerateResponse,
    ]


@pytest.mark.parametrize("most", [1, 3])
async def test_max_concurrency(llm: Face, server: Server, most: int) -> None:
    upstream = Upstream(server, 0.02)
    await llm.batch([str(number) for number in range(9)], max_concurrency=most)

    assert upstream.most == most


async def test_a_hundred_calls_take_as_long_as_one(
    llm: Face, server: Server, flavour: str, report: Callable[[str], None]
) -> None:
    Upstream(server, 0.2)
    began = time.perf_counter()
    results = await llm.batch([str(number) for number in range(100)], max_concurrency=100)
    took = time.perf_counter() - began

    assert len(results) == 100
    report(f"100 calls of 0.2 s in {took:.2f} s, {100 * 0.2 / took:.0f} times as fast ({flavour})")
    assert took < 2  # 20 s one after the other


async def test_instances(llm: Face, server: Server) -> None:
    class River(BaseModel):
        name: str

    async def generate(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        return answer("no" if prompt_of(request) == "a" else '{"name": "Rhine"}')

    server.generate = generate
    one, other = await llm.batch(
        ["a", "b"], response_model=River, retry_strategy=1, return_exceptions=True
    )

    assert isinstance(one, penstock.StructuredOutputError)
    assert other == River(name="Rhine")


async def test_closing_the_llm_ends_its_batches(server: Server) -> None:
    upstream = Upstream(server)
    upstream.slow = {"a", "b"}
    llm = penstock.create_llm("test", "model", target=server.target)
    running = asyncio.create_task(asyncio.to_thread(llm.batch, ["a", "b"]))
    await until(lambda: upstream.running == 2)
    llm.close()

    with pytest.raises(penstock.CancelledCallError):
        await running
    await until(lambda: upstream.cut_off == 2)


@pytest.mark.parametrize("as_completed", [False, True])
async def test_cancelling_a_batch(server: Server, as_completed: bool) -> None:
    upstream = Upstream(server)
    upstream.slow = {"a", "b"}
    async with penstock.create_llm("test", "model", target=server.target) as llm:

        async def work() -> None:
            if as_completed:
                async for _ in await llm.abatch(["a", "b"], as_completed=True):
                    pass
            else:
                await llm.abatch(["a", "b"])

        task = asyncio.create_task(work())
        await until(lambda: upstream.running == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: upstream.cut_off == 2)
        await llm.agenerate("c")


# --- pushback ---------------------------------------------------------------------------------


class Limited:
    """A model that pushes back."""

    def __init__(
        self,
        server: Server,
        fail: Fail,
        times: int,
        delay: float,
        reason: str = "OVERLOADED",
    ) -> None:
        self.left = times
        self.arrived: list[float] = []
        self._fail = fail
        self._info = ErrorInfo(domain="penstock", reason=reason)
        self._delay = delay
        server.generate = self.generate

    async def generate(self, request: Any, context: Any) -> v1.GenerateResponse:
        self.arrived.append(time.monotonic())
        if self.left:
            self.left -= 1
            wait = RetryInfo()
            wait.retry_delay.FromTimedelta(timedelta(seconds=self._delay))
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            await self._fail(context, code, "later", self._info, wait)
        return answer()


async def test_pushback_is_heeded_by_all(llm: Face, server: Server, fail: Fail, told: Told) -> None:
    limited = Limited(server, fail, times=1, delay=0.5)
    results = await llm.batch([str(number) for number in range(4)], max_concurrency=1)
    await until(lambda: "retry_attempted" in kinds(told))

    assert [result.content for result in results] == ["Hello there."] * 4
    assert len(limited.arrived) == 5
    assert limited.arrived[1] - limited.arrived[0] >= 0.5
    [retry] = [event.data for event in told if event.type == "retry_attempted"]
    assert retry["delay_seconds"] == 0.5
    assert retry["error_type"] == "RateLimitError"
    assert (retry["current_attempt"], retry["max_attempts"]) == (2, 6)


async def test_nobody_asks_before_the_pause_is_over(llm: Face, server: Server, fail: Fail) -> None:
    limited = Limited(server, fail, times=8, delay=0.5)
    await llm.batch([str(number) for number in range(16)], max_concurrency=8)

    first, later = limited.arrived[:8], limited.arrived[8:]
    assert len(later) == 16
    assert min(later) - min(first) >= 0.5


async def test_who_is_merely_unlucky_goes_on(llm: Face, server: Server, fail: Fail) -> None:
    """Few get through at a time: the others are pushed back more often than one would bear."""
    info = ErrorInfo(domain="penstock", reason="OVERLOADED")
    wait = RetryInfo()
    wait.retry_delay.FromTimedelta(timedelta(seconds=0.02))
    seen: dict[str, int] = {}

    async def generate(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        prompt = prompt_of(request)
        seen[prompt] = seen.get(prompt, 0) + 1
        if prompt == "unlucky" and len(seen) < 13:
            await fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "later", info, wait)
        await asyncio.sleep(0.01)
        return answer()

    server.generate = generate
    prompts = ["unlucky", *(str(number) for number in range(12))]
    results = await llm.batch(prompts, max_concurrency=2)

    assert len(results) == 13
    assert seen["unlucky"] > 6


async def test_retries_are_bounded(llm: Face, server: Server, fail: Fail, told: Told) -> None:
    limited = Limited(server, fail, times=100, delay=0.01)
    [result] = await llm.batch(["a"], return_exceptions=True)
    await until(lambda: "retry_exhausted" in kinds(told))

    assert type(result) is penstock.RateLimitError
    assert len(limited.arrived) == 6


@pytest.mark.parametrize(
    ("reason", "delay"), [("PROVIDER_QUOTA_EXHAUSTED", 0.01), ("PROVIDER_RATE_LIMITED", 3600)]
)
async def test_waiting_that_does_not_help(
    llm: Face, server: Server, fail: Fail, reason: str, delay: float
) -> None:
    limited = Limited(server, fail, times=100, delay=delay, reason=reason)
    with pytest.raises(penstock.RateLimitError):
        await llm.batch(["a"])

    assert len(limited.arrived) == 1


async def test_breaking_off_a_pause(llm: Face, server: Server, fail: Fail) -> None:
    limited = Limited(server, fail, times=1, delay=30)

    async def generate(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        if prompt_of(request) == "fine":
            await until(lambda: limited.arrived)
            return answer()
        await until(lambda: len(server.calls) == 2)
        return await limited.generate(request, context)

    server.generate = generate
    began = time.perf_counter()
    async for place, _ in await llm.batch(["later", "fine"], as_completed=True):
        assert place == 1
        break

    assert time.perf_counter() - began < 5
    assert len(limited.arrived) == 1


# --- the bar ----------------------------------------------------------------------------------

WATCHED = """
import sys
import penstock

llm = penstock.create_llm("test", "model", target=sys.argv[1])
llm.batch(["a", "b", "c"], **({"progress": sys.argv[2] == "True"} if sys.argv[2:] else {}))
penstock.compare([llm, llm], "a", **({"progress": sys.argv[2] == "True"} if sys.argv[2:] else {}))
print("tqdm" in sys.modules)
"""


async def on_a_terminal(*argv: str) -> bytes:
    """What a program writes to stderr where that is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", WATCHED, *argv, stdout=-3, stderr=theirs
    )
    os.close(theirs)

    def read() -> bytes:
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux's word for the end of a terminal
                return text
            if not piece:
                return text
            text += piece

    text = await asyncio.to_thread(read)
    os.close(ours)
    assert await process.wait() == 0, text
    return text


async def test_a_bar_where_a_terminal_watches(server: Server, start_python: Start) -> None:
    shown = await on_a_terminal(server.target)
    assert b"LLM('test', 'model'): 100%" in shown
    assert b"3/3" in shown
    assert b"models: 100%" in shown
    assert await on_a_terminal(server.target, "False") == b""

    process = await start_python("-c", WATCHED, server.target)
    assert await process.communicate() == (b"False\n", b"")
    process = await start_python("-c", WATCHED, server.target, "True")
    out, err = await process.communicate()
    assert out == b"True\n"
    assert b"3/3" in err
