"""A call that failed leaves nothing behind, without the garbage collector's help."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator

import grpc
import pytest
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.providers import Call, Events

from tests.support.scripted import ScriptedProvider, serving


class Witness:
    """Stands for what a call's frames hold."""


class Failing(ScriptedProvider):
    def __init__(self) -> None:
        super().__init__()
        self.witnesses: list[weakref.ref[Witness]] = []

    async def stream(self, model: str, request: v1.GenerateRequest, call: Call) -> Events:
        held = Witness()
        self.witnesses.append(weakref.ref(held))
        try:
            raise ValueError("what went wrong below")
        except ValueError as error:
            failure = Failure(v1.ERROR_REASON_PROVIDER_PROTOCOL, "it went wrong")
            if self.witnesses:  # as ever
                raise failure from error
        yield v1.StreamGenerateResponse()


@pytest.fixture
async def _uncollected() -> AsyncIterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_uncollected")
async def test_what_a_failed_call_held_is_freed() -> None:
    provider = Failing()
    async with serving(provider) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        request = v1.GenerateRequest(model="test/any", prompt="Hi")
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Generate(request)
        assert len(provider.witnesses) == 3
        assert [one() for one in provider.witnesses[:-1]] == [None, None]
