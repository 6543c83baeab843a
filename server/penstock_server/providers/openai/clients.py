"""Credentials for OpenAI's API and for Azure OpenAI, by OpenAI's own SDK.

The SDK is imported only where a provider needs it: that takes a second.
"""

from __future__ import annotations

from typing import Any

from penstock_server.providers.transport.credentials import (
    Credentials,
    Fixed,
    Prepared,
    checked_key,
    checked_url,
    never_sending,
    plain_headers,
)

AZURE_API_VERSION = "2025-04-01-preview"
"""Where the configuration names none: the first one with the Responses API."""


def openai_credentials(
    name: str, *, base_url: str = "", api_key: str = "", organization: str = "", project: str = ""
) -> Credentials:
    """OpenAI's own API: the SDK knows where it is, and OPENAI_BASE_URL, OPENAI_ORG_ID and
    OPENAI_PROJECT_ID.

    Raises ValueError for a URL or a key that cannot be right.
    """
    import openai

    key = checked_key(name, api_key)
    sdk = openai.AsyncOpenAI(
        # Without a key the SDK would look for one by itself, and say so much later.
        api_key=key or "none",
        base_url=checked_url(name, base_url) if base_url else None,
        organization=organization or None,
        project=project or None,
        max_retries=0,
        http_client=never_sending(),
    )
    headers = plain_headers({**sdk.default_headers, **sdk.auth_headers})
    if not key:  # a proxy may hold it
        headers.pop("authorization", None)
    return Fixed(name, str(sdk.base_url), headers, secrets=(key,))


def azure_credentials(
    name: str, *, base_url: str = "", api_key: str = "", api_version: str = ""
) -> Credentials:
    """Azure OpenAI: the SDK puts deployments into the URL, and takes AZURE_OPENAI_ENDPOINT and
    AZURE_OPENAI_AD_TOKEN from the environment.

    ``base_url`` is the resource's endpoint, without "/openai". Raises ValueError where there is no
    endpoint, no key, or neither can be right.
    """
    import openai

    key = checked_key(name, api_key)
    settings: dict[str, Any] = {"api_key": key} if key else {}
    if base_url:
        settings["azure_endpoint"] = checked_url(name, base_url).removesuffix("/openai")
    try:
        sdk = openai.AsyncAzureOpenAI(
            api_version=api_version or AZURE_API_VERSION,
            max_retries=0,
            http_client=never_sending(),
            **settings,
        )
    except (openai.OpenAIError, ValueError) as error:
        raise ValueError(
            f"provider {name!r}: set base_url to the resource's endpoint, such as "
            f"https://example.openai.azure.com, and AZURE_OPENAI_API_KEY ({error})"
        ) from None
    return Prepared(sdk, secrets=(key, sdk._azure_ad_token or ""))
