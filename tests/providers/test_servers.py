"""The table of known servers."""

from __future__ import annotations

import pytest
from penstock import v1
from penstock_server import network
from penstock_server.provider_settings import NETWORK_KINDS, NetworkSettings
from penstock_server.providers.ollama.address import ollama_url
from penstock_server.providers.openai.chat_provider import bearer
from penstock_server.providers.openai.servers import KNOWN, default_base_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu:1234", "http://gpu:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu.example", "https://gpu.example:443"),
        ("http://gpu:1234/", "http://gpu:1234"),
        ("https://gpu.example/ollama/", "https://gpu.example:443/ollama"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("[::]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        (' "gpu:1" ', "http://gpu:1"),
    ],
)
def test_ollama_host(host: str, url: str) -> None:
    assert ollama_url(host) == url
    bearer("ollama", url)  # takes every one of them


@pytest.mark.parametrize(
    ("kind", "environ", "url"),
    [
        ("openai", {}, "https://api.openai.com/v1"),
        ("openai", {"OPENAI_BASE_URL": "http://proxy/v1"}, "http://proxy/v1"),
        ("openai", {"OPENAI_BASE_URL": " "}, "https://api.openai.com/v1"),
        ("groq", {"OPENAI_BASE_URL": "http://proxy/v1"}, "https://api.groq.com/openai/v1"),
        ("lmstudio", {"OLLAMA_HOST": "gpu"}, "http://localhost:1234/v1"),
    ],
)
def test_base_url(kind: str, environ: dict[str, str], url: str) -> None:
    assert default_base_url(kind, environ) == url


HOSTED = {"openai", "openrouter", "groq", "mistral", "deepseek", "together", "xai", "gemini"}
LOCAL = {"lmstudio", "vllm", "llamacpp", "sglang", "tgi", "mlx", "transformers"}


def test_hosted_servers_need_a_key_and_local_ones_none() -> None:
    assert {name for name, row in KNOWN.items() if row.key_env} == HOSTED | {"azure"}
    assert {name for name, row in KNOWN.items() if row.local} == LOCAL
    for name, row in KNOWN.items():
        assert row.local or name.split("-")[0].upper() in row.key_env
        assert row.base_url.startswith("http://localhost:" if row.local else "https://") or (
            name == "azure"  # everybody's own
        )


def test_every_kind_of_the_configuration_can_be_made() -> None:
    special = {"openai", "azure", "anthropic", "bedrock", "vertex", "ollama", "openai-compatible"}
    assert set(NETWORK_KINDS) == set(KNOWN) | special
    settings = {
        "azure": {"base_url": "https://example.openai.azure.com", "api_key": "k"},
        "bedrock": {"region": "eu-central-1"},
        "vertex": {"region": "us-east5"},
        "openai-compatible": {"base_url": "http://gpu/v1"},
    }
    for kind in NETWORK_KINDS:
        wanted = NetworkSettings.model_validate({"kind": kind, **settings.get(kind, {})})
        provider = network.make("p", wanted, {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})
        assert provider.retry.attempts == 3


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("bedrock", {"base_url": "nonsense"}, "base_url"),
        ("vertex", {}, "region"),
        ("azure", {}, "base_url"),
        ("openai", {"api_key": "two words"}, "API key"),
        ("groq", {"api_key_env": "NOT_SET"}, "NOT_SET is not set"),
    ],
)
def test_what_is_missing_is_said(
    kind: str, settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_OPENAI_ENDPOINT", "CLOUD_ML_REGION"):
        monkeypatch.delenv(name, raising=False)
    wanted = NetworkSettings.model_validate({"kind": kind, **settings})
    with pytest.raises(ValueError, match=words):
        network.make("p", wanted, {})


def test_what_is_at_hand() -> None:
    assert list(network.at_hand({})) == ["ollama", "lmstudio"]
    keys = {"GROQ_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": " "}
    assert list(network.at_hand(keys)) == ["anthropic", "ollama", "lmstudio", "groq"]


def test_rows_name_fields_that_exist() -> None:
    """A field with a wrong name would never be refused."""
    known = {f"sampling.{name}" for name in _fields("Sampling")}
    known |= {"response_format", "logprobs", "tools", "tools.strict", "Embed"}
    known |= {f"tool_choice.{name}" for name in _fields("ToolChoice")}
    known |= {f"thinking.{name}" for name in _fields("ThinkingOptions")}
    for row in KNOWN.values():
        assert row.unsupported <= known
        assert row.names.keys() <= known


def _fields(message: str) -> set[str]:
    return set(getattr(v1, message).DESCRIPTOR.fields_by_name)


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
