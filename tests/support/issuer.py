"""Who issues JSON Web Tokens, and answers for its keys over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://issuer.example"

_KINDS: Mapping[str, Any] = {
    "rsa": jwt.algorithms.RSAAlgorithm,
    "ec": jwt.algorithms.ECAlgorithm,
}


class Issuer:
    """Issues JSON Web Tokens, and says at its address by which keys they are known."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
        }
        self.asked = 0
        self.broken = False
        self.url = ""

    def token(self, kid: str = "rsa", key: Any = None, alg: str = "", **claims: Any) -> str:
        alg = alg or ("RS256" if kid == "rsa" else "ES256")
        now = time.time()
        told = {
            "iss": ISSUER,
            "aud": "penstock",
            "sub": "anna",
            "exp": now + 60,
            "iat": now,
            **claims,
        }
        told = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(told, key or self.keys[kid], algorithm=alg, headers={"kid": kid})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Issuer]:
        app = web.Application()
        app.router.add_get("/keys", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.broken:
            return web.Response(status=500)
        keys = [
            {**json.loads(_KINDS[kid.split("-")[0]].to_jwk(key.public_key())), "kid": kid}
            for kid, key in self.keys.items()
        ]
        keys.append({"kty": "something new", "kid": "unknown"})
        return web.json_response({"keys": keys})
