"""An issuer's public keys: fetched, kept, and fetched again when a token names one that is new."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import jwt
from penstock import v1

from penstock_server.access_settings import JwtSettings
from penstock_server.errors import Failure
from penstock_server.telemetry import log

_PATIENCE = 5.0
"""How long a fetch may take, in seconds."""

_COOLDOWN = 5.0
"""How long after a fetch none follows, whatever tokens say: anybody can make up key ids."""

_LARGEST = 1024 * 1024
"""How many bytes are read of what claims to be keys."""


class KeySet:
    """The keys, by their ids.

    While they cannot be fetched anew, those that are known stay good: an issuer that is down must
    not lock everybody out. Everything belongs to one event loop.

    Example::

        key = await keys.find("2026-11")  # None: the issuer has no such key
    """

    def __init__(self, settings: JwtSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching = asyncio.Lock()
        self.version = 0
        """Counts the fetches that brought other keys."""

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of that id; IDENTITY_UNAVAILABLE where nothing could ever be fetched.

        A token without an id ("") goes with the only key that there is.
        """
        key = self._known(key_id)
        if key is None or self._old():
            async with self._fetching:  # who comes meanwhile finds what this one fetched
                if self._known(key_id) is None or self._old():
                    await self._fetch()
            key = self._known(key_id)
        if key is None and self._fetched is None:
            raise Failure(
                v1.ERROR_REASON_IDENTITY_UNAVAILABLE,
                "the keys of the tokens' issuer cannot be fetched at the moment, so that no token "
                "can be checked; try again, or tell the operator",
                retry_delay=_COOLDOWN,
            )
        return key

    def _known(self, key_id: str) -> jwt.PyJWK | None:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _old(self) -> bool:
        return self._fetched is None or self._clock() - self._fetched > self._settings.refresh

    async def _fetch(self) -> None:
        if self._tried is not None and self._clock() - self._tried < _COOLDOWN:
            return
        self._tried = self._clock()
        try:
            keys = read_keys(await self._read())
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            where = self._settings.jwks_url or self._settings.jwks_file
            why = str(error) or type(error).__name__
            log(logging.ERROR, "the issuer's keys cannot be fetched", where=where, why=why)
            return
        if keys.keys() != self._keys.keys():
            log(logging.INFO, "the issuer's keys", ids=",".join(keys))
        self.version += 1
        self._keys = keys
        self._fetched = self._clock()

    async def _read(self) -> bytes:
        if self._settings.jwks_file:
            return await asyncio.to_thread(Path(self._settings.jwks_file).read_bytes)
        timeout = aiohttp.ClientTimeout(total=_PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(self._settings.jwks_url) as response,
        ):
            response.raise_for_status()
            text = await response.content.read(_LARGEST)
            while piece := await response.content.read(_LARGEST):
                text += piece
                if len(text) > _LARGEST:
                    raise ValueError(f"more than {_LARGEST:,} bytes")
            return text


def read_keys(text: bytes) -> Mapping[str, jwt.PyJWK]:
    """The keys of a JSON Web Key Set that are for signatures; raises ValueError for anything else.

    Kinds of keys that are not known are passed over, as RFC 7517 (section 5) wants it.
    """
    table = json.loads(text)
    if not isinstance(table, dict) or not isinstance(table.get("keys"), list):
        raise ValueError("that is no JSON Web Key Set")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in table["keys"]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if entry.get("kty") == "oct":  # a shared secret: not for anybody to read
            continue
        try:
            keys[str(entry.get("kid", ""))] = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
    if not keys:
        raise ValueError("it has no key that can be used")
    return keys
