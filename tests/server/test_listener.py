"""What ends gRPC's own loop does not end the server: it listens anew, and running calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from penstock import v1
from penstock_server.config import ServerConfig

from tests.fuzz.frames import HELLO, Wire, call, message, usual
from tests.support.scripted import WORDS, ScriptedProvider, serving


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/server.sock"


def fell(wire: Wire) -> bool:
    """Send what gRPC does not expect; whether it said goodbye."""
    wire.send(HELLO + call(usual(b"/\xff\xfe"), message(b"")))
    return wire.ended(1)


async def test_a_path_that_is_no_text_ends_nothing(
    listen: str, report: Callable[[str], None]
) -> None:
    provider = ScriptedProvider()
    config = ServerConfig.model_validate(
        {"listen": [listen], "shutdown": {"notice": 0, "drain": 1}}
    )
    async with serving(provider, config=config) as (server, channel):
        stub = v1.GenerationServiceStub(channel)
        slow = v1.GenerateRequest(model="test/slow", prompt="Hi")
        running = stub.StreamGenerate(v1.StreamGenerateRequest(request=slow))
        await asyncio.wait_for(provider.begun.wait(), 5)
        took = []
        wires: list[Wire] = []
        for _ in range(3):
            wire = await asyncio.to_thread(Wire, server.addresses[0])
            wires.append(wire)  # who sent it stays
            assert await asyncio.to_thread(fell, wire)
            began = asyncio.get_running_loop().time()
            async with grpc.aio.insecure_channel(
                server.addresses[0], options=[("grpc.initial_reconnect_backoff_ms", 50)]
            ) as other:
                answer = await v1.GenerationServiceStub(other).Generate(
                    v1.GenerateRequest(model="test/echo", prompt="Hi"),
                    wait_for_ready=True,
                    timeout=10,
                )
            took.append(asyncio.get_running_loop().time() - began)
            assert answer.message.parts[0].text == "".join(WORDS)
        provider.resume.set()
        events = [event async for event in running]
        assert events[-1].completed.message.parts[0].text == "".join(WORDS)
        # Who was connected before is served, too.
        again = v1.GenerateRequest(model="test/echo", prompt="Hi")
        assert (await stub.Generate(again, wait_for_ready=True, timeout=10)).HasField("message")
        for wire in wires:
            wire.close()
    report(f"listening anew after {max(took) * 1000:.0f} ms at most")
