"""Callers of all kinds, for the tests of who gets in: what they show, and what they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import penstock
import pytest
from penstock import v1
from penstock_server.access_settings import AuthSettings, CallerSettings, PolicySettings
from penstock_server.identity import Door, hash_of, new_token
from penstock_server.limits import Limits

from tests.support.issuer import ISSUER, Issuer

TOKEN, HASH = new_token()
OLD, OLD_HASH = new_token()
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def door(
    issuer: Issuer | None = None, policies: Mapping[str, Any] | None = None, **auth: Any
) -> Door:
    if issuer is not None:
        own = {"issuer": ISSUER, "audience": "penstock, other", "jwks_url": issuer.url, "leeway": 0}
        auth["jwt"] = {**own, **auth.get("jwt", {})}
    callers = {
        "reports": {"tokens": HASH, "subjects": "report-job"},
        "old": {"tokens": [{"hash": OLD_HASH, "expires": YESTERDAY}]},
        "narrow": {"tokens": hash_of("narrow"), "policy": "narrow"},
    }
    narrow = {"models": "test/echo, fast", "limits": {"requests": "3/m"}}
    given = {"narrow": narrow, "boss": {"manage": True}, **(policies or {})}
    return Door(
        AuthSettings.model_validate(auth),
        {name: CallerSettings.model_validate(one) for name, one in callers.items()},
        {name: PolicySettings.model_validate(one) for name, one in given.items()},
        Limits(),
    )


Metadata = Sequence[tuple[str, str]]


def bearer(token: str) -> Metadata:
    return [("authorization", f"Bearer {token}")]


async def unary(channel: grpc.aio.Channel, metadata: Metadata, model: str = "test/echo") -> str:
    """The status and reason that a caller gets, and what it is told."""
    stub = v1.GenerationServiceStub(channel)
    request = v1.GenerateRequest(model=model, prompt="Hi")
    return await outcome(stub.Generate(request, metadata=metadata, timeout=10))


async def stream(channel: grpc.aio.Channel, metadata: Metadata, model: str = "test/echo") -> str:
    stub = v1.GenerationServiceStub(channel)
    request = v1.StreamGenerateRequest(request=v1.GenerateRequest(model=model, prompt="Hi"))
    call = stub.StreamGenerate(request, metadata=metadata, timeout=10)

    async def read() -> None:
        async for _ in call:
            pass

    return await outcome(read())


async def outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        told = penstock.errors.from_rpc_error(error)
        return f"{told.code.name} {told.reason}: {told.message}"
    return "OK"


each_way = pytest.mark.parametrize("ask", [unary, stream])
REFUSED = "UNAUTHENTICATED CALLER_UNAUTHENTICATED: "
