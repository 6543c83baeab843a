"""Providers that are reached over HTTP: from a kind and its settings to a provider.

A kind is a word of the configuration. Those that speak Chat Completions are rows of
``providers.openai.servers``; the others are named in ``_MAKERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from penstock_server.provider_settings import NETWORK_KINDS, NetworkSettings
from penstock_server.providers.anthropic.clients import (
    anthropic_credentials,
    bedrock_credentials,
    vertex_credentials,
)
from penstock_server.providers.anthropic.provider import AnthropicProvider
from penstock_server.providers.http_provider import HttpProvider
from penstock_server.providers.ollama.address import ollama_url
from penstock_server.providers.ollama.provider import OllamaProvider
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer
from penstock_server.providers.openai.clients import azure_credentials, openai_credentials
from penstock_server.providers.openai.lmstudio import LMStudioProvider
from penstock_server.providers.openai.responses_provider import ResponsesProvider
from penstock_server.providers.openai.servers import KNOWN, default_base_url
from penstock_server.providers.transport.credentials import Credentials, Fixed, checked_key
from penstock_server.providers.transport.upstream import Patience
from penstock_server.retry import RetryPolicy

# Where the key of a kind is looked for, where it has no row among the servers.
_KEY_ENV: Mapping[str, str] = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "ollama": "OLLAMA_API_KEY",
}

# Secrets that the SDKs find in the environment by themselves.
_SDK_SECRETS = frozenset({"AZURE_OPENAI_AD_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})

# Served without being asked for: servers at ports that nobody else uses.
_ALWAYS = ("ollama", "lmstudio")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is known when a provider is made."""

    name: str
    settings: NetworkSettings
    key: str
    environ: Mapping[str, str]


def _openai(order: _Order) -> Credentials:
    settings = order.settings
    return openai_credentials(
        order.name,
        base_url=settings.base_url,
        api_key=order.key,
        organization=settings.organization,
        project=settings.project,
    )


def _azure(order: _Order) -> Credentials:
    settings = order.settings
    return azure_credentials(
        order.name,
        base_url=settings.base_url,
        api_key=order.key,
        api_version=settings.api_version,
    )


def _anthropic(order: _Order) -> Credentials:
    return anthropic_credentials(order.name, base_url=order.settings.base_url, api_key=order.key)


def _bedrock(order: _Order) -> Credentials:
    settings = order.settings
    return bedrock_credentials(
        order.name,
        region=settings.region,
        profile=settings.profile,
        base_url=settings.base_url,
        api_key=order.key,
    )


def _vertex(order: _Order) -> Credentials:
    settings = order.settings
    return vertex_credentials(
        order.name, region=settings.region, project=settings.project, base_url=settings.base_url
    )


def _ollama(order: _Order) -> Credentials:
    base_url = order.settings.base_url.rstrip("/").removesuffix("/v1")
    base_url = base_url or ollama_url(order.environ.get("OLLAMA_HOST", ""))
    key = checked_key(order.name, order.key)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return Fixed(order.name, base_url, headers, secrets=(key,))


def _server(order: _Order) -> Credentials:
    kind = order.settings.kind
    base_url = order.settings.base_url
    if not base_url:
        base_url = default_base_url(kind, order.environ)
    return bearer(order.name, base_url, order.key)


_CREDENTIALS: Mapping[str, Callable[[_Order], Credentials]] = {
    "openai": _openai,
    "azure": _azure,
    "anthropic": _anthropic,
    "bedrock": _bedrock,
    "vertex": _vertex,
    "ollama": _ollama,
}

KEY_VARIABLES = (
    frozenset(filter(None, (row.key_env for row in KNOWN.values())))
    | frozenset(_KEY_ENV.values())
    | _SDK_SECRETS
)
"""The environment variables that hold keys."""


def at_hand(environ: Mapping[str, str]) -> Iterator[str]:
    """The kinds to serve where the configuration names none.

    Those whose key is in the environment, and Ollama and LM Studio, which need none.
    """
    for kind in NETWORK_KINDS:
        hosted = kind in _HOSTED and environ.get(_key_env(kind), "").strip()
        if kind in _ALWAYS or hosted:
            yield kind


# With a key and nothing else they can be reached.
_HOSTED = frozenset(
    {"openai", "anthropic", *(kind for kind, row in KNOWN.items() if row.base_url and row.key_env)}
) - {"azure"}


def make(name: str, settings: NetworkSettings, environ: Mapping[str, str]) -> HttpProvider:
    """The provider for these settings, not yet started.

    Raises ValueError, with what to do, for settings that cannot be right.
    """
    kind = settings.kind
    key_env = settings.api_key_env or _key_env(kind)
    key = settings.api_key.get_secret_value() or environ.get(key_env, "")
    if settings.api_key_env and not key:
        raise ValueError(f"api_key_env: {key_env} is not set in the environment")
    order = _Order(name=name, settings=settings, key=key, environ=environ)
    credentials = _CREDENTIALS.get(kind, _server)(order)
    patience = Patience(
        connect=settings.connect_timeout,
        first_event=settings.first_event_timeout,
        idle=settings.idle_timeout,
    )
    limit = settings.max_connections
    provider: HttpProvider
    if kind in ("anthropic", "bedrock", "vertex"):
        cloud = "" if kind == "anthropic" else kind
        provider = AnthropicProvider(
            name, credentials, cloud=cloud, patience=patience, max_connections=limit
        )
    elif kind == "ollama":
        provider = OllamaProvider(name, credentials, patience=patience, max_connections=limit)
    else:
        provider = _chat_or_responses(kind, settings.api)(
            name, credentials, kind=kind, patience=patience, max_connections=limit
        )
    retry = settings.retry
    provider.retry = RetryPolicy(
        attempts=retry.attempts,
        first_pause=retry.first_pause,
        max_pause=retry.max_pause,
        max_retry_after=retry.max_retry_after,
    )
    return provider


def _chat_or_responses(kind: str, api: str) -> type[ChatProvider]:
    if kind == "lmstudio" and api != "responses":
        return LMStudioProvider
    if api == "responses" or (not api and kind in ("openai", "azure")):
        return ResponsesProvider
    return ChatProvider


def _key_env(kind: str) -> str:
    row = KNOWN.get(kind)
    return _KEY_ENV.get(kind, "") or (row.key_env if row else "")
