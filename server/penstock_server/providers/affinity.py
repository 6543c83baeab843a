"""Who is asked so that what has been computed need not be computed again. Pure.

Calls whose prompts begin alike go to the same one of several that do the same work, as long as that
is not much busier than the others: rendezvous hashing (D. Thaler and C. Ravishankar, 1998) with
bounded loads (V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent Hashing with Bounded Loads",
2016). What runs there, and how its caches work, is not known here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar

from penstock import v1

LOAD_FACTOR = 1.25
"""How many times the mean of calls under way one may have before others are asked instead. The
less, the more evenly they are busy; the more, the more seldom something is computed twice."""

_REMEMBERED = 10_000

# So much of each text or picture tells it from others; all of it could be megabytes.
_TOLD_APART_BY = 4_096

_SYSTEM = b"system"
_USER = b"user"


def beginning(request: v1.GenerateRequest) -> bytes:
    """A hash of what stays as it is while a conversation goes on.

    The model, the tools, the instructions, and the conversation up to the first user's message:
    so all turns of a session have the same, and sessions that share no more than their
    instructions have different ones, lest all of them go the same way.
    """
    said = blake2b(digest_size=8)
    for kind, piece in _pieces(request):
        cut = piece[:_TOLD_APART_BY]
        said.update(b"%b %d %d:" % (kind, len(cut), len(piece)))
        said.update(cut)
    return said.digest()


def _pieces(request: v1.GenerateRequest) -> Iterator[tuple[bytes, bytes]]:
    yield b"model", request.model.encode()
    for tool in request.tools:
        yield b"tool", tool.SerializeToString(deterministic=True)
    if request.system:
        yield _SYSTEM, request.system.encode()
    for message in request.messages:
        kind = _SYSTEM if message.role == v1.ROLE_SYSTEM else _USER
        for part in message.parts:
            text = part.HasField("text")
            yield kind, part.text.encode() if text else part.SerializeToString(deterministic=True)
        if message.role == v1.ROLE_USER:
            return
    yield _USER, request.prompt.encode()  # short for the first message, where there was none


class Busy(Protocol):
    """One of several that do the same work."""

    outstanding: int


B = TypeVar("B", bound=Busy)


class Affinity(Generic[B]):
    """Whom to ask first, by how a prompt begins.

    Where it was asked last is remembered: who had to go elsewhere for a moment stays there, where
    its last turn was computed. What was never asked before, or was forgotten, is the same one's by
    its hash, whichever gateway it comes by. ``name`` tells them apart, ``weight`` is their share.

    Example::

        affinity = Affinity(name=lambda member: member.address)
        first, *others = affinity.order(beginning(request), members)
    """

    def __init__(
        self, name: Callable[[B], str], weight: Callable[[B], float] = lambda one: 1.0
    ) -> None:
        self._name = name
        self._weight = weight
        self._last: OrderedDict[bytes, str] = OrderedDict()

    def order(self, key: bytes, among: Sequence[B]) -> Sequence[B]:
        """All of them, the best first: those with room in order of preference, then the others,
        the least busy first."""
        last = self._last.get(key)
        preferred = sorted(among, key=lambda one: (self._name(one) != last, -self._score(key, one)))
        calls = sum(one.outstanding for one in among) + 1
        weights = sum(self._weight(one) for one in among)
        room: list[B] = []
        full: list[B] = []
        for one in preferred:
            bound = math.ceil(LOAD_FACTOR * calls * self._weight(one) / weights)
            (room if one.outstanding < bound else full).append(one)
        full.sort(key=lambda one: one.outstanding / self._weight(one))
        if room:
            self._remember(key, self._name(room[0]))
        return [*room, *full]

    def _score(self, key: bytes, one: B) -> float:
        drawn = blake2b(self._name(one).encode(), key=key, digest_size=8).digest()
        uniform = (int.from_bytes(drawn) + 1) / (2**64 + 1)
        return -self._weight(one) / math.log(uniform)

    def _remember(self, key: bytes, name: str) -> None:
        self._last[key] = name
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
