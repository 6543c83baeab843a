"""Credentials for Anthropic's API and for the clouds that serve it, by Anthropic's own SDK.

The SDK is imported only where a provider needs it: that takes seconds.
"""

from __future__ import annotations

import importlib.util

from penstock_server.providers.transport.credentials import (
    Credentials,
    Fixed,
    Prepared,
    checked_key,
    checked_url,
    never_sending,
    plain_headers,
)


def anthropic_credentials(name: str, *, base_url: str = "", api_key: str = "") -> Credentials:
    """Anthropic's own API: the SDK knows where it is, its version, and how a key is shown.

    Raises ValueError for a URL or a key that cannot be right.
    """
    import anthropic

    key = checked_key(name, api_key)
    url = checked_url(name, base_url).removesuffix("/v1") if base_url else None
    sdk = anthropic.AsyncAnthropic(
        # Without a key it would look for one by itself, and say so much later.
        api_key=key or "none",
        base_url=url,
        max_retries=0,
        http_client=never_sending(),
    )
    headers = plain_headers({**sdk.default_headers, **sdk.auth_headers})
    if not key:  # a proxy may hold it
        headers = {n: v for n, v in headers.items() if n not in ("authorization", "x-api-key")}
    return Fixed(name, str(sdk.base_url), headers, secrets=(key,))


def bedrock_credentials(
    name: str, *, region: str = "", profile: str = "", base_url: str = "", api_key: str = ""
) -> Credentials:
    """Amazon Bedrock: AWS's own ways to find credentials, or a Bedrock API key.

    Raises ValueError without a region, or without the packages that sign requests.
    """
    import anthropic

    _needs(name, "botocore", "bedrock")
    key = checked_key(name, api_key)
    sdk = anthropic.AsyncAnthropicBedrock(
        aws_region=region or None,
        aws_profile=profile or None,
        base_url=checked_url(name, base_url) if base_url else None,
        api_key=key or None,
        max_retries=0,
        http_client=never_sending(),
    )
    return Prepared(sdk, secrets=(key,))


def vertex_credentials(
    name: str, *, region: str = "", project: str = "", base_url: str = ""
) -> Credentials:
    """Google Vertex AI: Google's application default credentials.

    Raises ValueError without a region, or without the package that finds credentials.
    """
    import anthropic

    _needs(name, "google.auth", "vertex")
    sdk = anthropic.AsyncAnthropicVertex(
        region=region or anthropic.NOT_GIVEN,
        project_id=project or anthropic.NOT_GIVEN,
        base_url=checked_url(name, base_url) if base_url else None,
        max_retries=0,
        http_client=never_sending(),
    )
    return Prepared(sdk)


def _needs(name: str, module: str, extra: str) -> None:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ValueError(
            f"provider {name!r} needs the package {module!r}: pip install 'anthropic[{extra}]'"
        )
