"""The table of known servers."""

from __future__ import annotations

import pytest
from penstock_server.providers.openai.chat_provider import ChatProvider, bearer
from penstock_server.providers.openai.servers import KNOWN, default_base_url, ollama_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        ("gpu", "http://gpu:11434/v1"),
        ("gpu:1234", "http://gpu:1234/v1"),
        (":1234", "http://127.0.0.1:1234/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:80", "http://127.0.0.1:80/v1"),
        ("http://gpu", "http://gpu:80/v1"),
        ("https://gpu.example", "https://gpu.example:443/v1"),
        ("http://gpu:1234/", "http://gpu:1234/v1"),
        ("https://gpu.example/ollama/", "https://gpu.example:443/ollama/v1"),
        ("[::1]:1234", "http://[::1]:1234/v1"),
        ("[::]", "http://[::1]:11434/v1"),
        ("::1", "http://[::1]:11434/v1"),
        (' "gpu:1" ', "http://gpu:1/v1"),
    ],
)
def test_ollama_host(host: str, url: str) -> None:
    assert ollama_url(host) == url
    ChatProvider("ollama", bearer("ollama", url))  # takes every one of them


@pytest.mark.parametrize(
    ("kind", "environ", "url"),
    [
        ("openai", {}, "https://api.openai.com/v1"),
        ("openai", {"OPENAI_BASE_URL": "http://proxy/v1"}, "http://proxy/v1"),
        ("anthropic", {"OPENAI_BASE_URL": "http://proxy/v1"}, "https://api.anthropic.com/v1"),
        ("ollama", {}, "http://localhost:11434/v1"),
        ("ollama", {"OLLAMA_HOST": "gpu"}, "http://gpu:11434/v1"),
        ("ollama", {"OLLAMA_HOST": " "}, "http://localhost:11434/v1"),
        ("lmstudio", {"OLLAMA_HOST": "gpu"}, "http://localhost:1234/v1"),
    ],
)
def test_base_url(kind: str, environ: dict[str, str], url: str) -> None:
    assert default_base_url(kind, environ) == url


def test_hosted_servers_need_a_key_and_local_ones_none() -> None:
    assert {name: row.key_env for name, row in KNOWN.items()} == {
        "openai": "OPENAI_API_KEY",
        "anthropic": "ANTHROPIC_API_KEY",
        "ollama": "",
        "lmstudio": "",
    }
    assert [name for name, row in KNOWN.items() if row.local] == ["ollama", "lmstudio"]


@pytest.mark.parametrize(
    "base_url",
    ["", "gpu:1234", "ftp://gpu/v1", "http://", "http://gpu:port/v1", "http://gpu/v1?key=1"],
)
def test_a_base_url_that_cannot_be_right(base_url: str) -> None:
    with pytest.raises(ValueError, match="provider 'p': base_url"):
        bearer("p", base_url)


def test_no_password_in_a_base_url() -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        bearer("p", "http://me:hunter2@gpu/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-secret two", "sk-secret\n2", "sk-secreté"])
def test_a_key_that_cannot_be_right(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        bearer("p", "http://gpu/v1", key)
    assert "secret" not in str(caught.value)
