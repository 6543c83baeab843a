"""What comes with a call beside its request: ids, names, time. Pure."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

import grpc

from penstock_server.providers import Call

REQUEST_ID_HEADER = "x-request-id"
"""Callers may name their request; the gateway passes the name on to sidecars."""

CALLER_HEADER = "x-penstock-caller"
"""Callers may name themselves; the gateway passes the name on to sidecars. See `_caller`."""

Metadata = Iterable[tuple[str, str | bytes]]

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # it goes back as metadata, which is ASCII
_CALLER = re.compile(r"[!-~]{1,128}")


def call_of(metadata: Metadata, remaining: float | None, peer: str, identity: str = "") -> Call:
    """The call that came with such metadata from there, with so many seconds left (None: all).

    ``identity`` is who the caller is known to be; otherwise who it says.
    """
    now = time.monotonic()
    told = dict(metadata)
    given = told.get(REQUEST_ID_HEADER)
    named = isinstance(given, str) and _REQUEST_ID.fullmatch(given)
    return Call(
        request_id=str(given) if named else secrets.token_hex(8),
        deadline=None if remaining is None else now + remaining,
        arrived=now,
        caller=identity or _caller(told.get(CALLER_HEADER), peer),
    )


def remaining_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """How many seconds a call has left; None: all there are."""
    remaining = context.time_remaining()
    # Without a deadline gRPC reports one about 292 years away.
    return None if remaining is None or remaining > 3e8 else remaining


def _caller(named: object, peer: str) -> str:
    """Who asks: the name that the caller gives itself, else its connection.

    The connection and not the host, so with its port: behind one address may live many services,
    and none of them is to wait for another one's flood. A service with several connections is
    several callers then, and all that come by one Unix socket are one, since their end of it has
    no address; both can say better who they are. The name is believed where nothing better is
    known (``identity``): it decides about turns in a queue, and about nothing that needs to be
    guarded.
    """
    return named if isinstance(named, str) and _CALLER.fullmatch(named) else peer[:128]
