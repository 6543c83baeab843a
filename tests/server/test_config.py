"""Configuration: what wins, and what is said of what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from penstock_server import config, provider_settings
from penstock_server.config import ConfigError, GatewayConfig


def load(*argv: str, **environ: str) -> GatewayConfig:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser, config.DEFAULT_FILE)
    return config.load(GatewayConfig, parser.parse_args(argv), environ, "PENSTOCK_")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing() -> None:
    settings = load()
    assert settings.listen == ["127.0.0.1:50051"]
    assert settings.limits.max_message_bytes == 64 * 1024 * 1024
    assert settings.providers is None
    assert not settings.log.prompts


def test_flags_win_over_environment_wins_over_file(tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"  # found by its name
    file.write_text(
        'insecure = true\nlisten = ["a:1"]\n[shutdown]\ndrain = 1\nnotice = 1\n'
        '[log]\nlevel = "debug"\n'
    )
    settings = load(
        "--set",
        "shutdown.drain=3",
        PENSTOCK_SHUTDOWN__DRAIN="2",
        PENSTOCK_SHUTDOWN__NOTICE="2",
        PENSTOCK_LISTEN="b:2, unix:/run/p.sock",
    )
    assert (settings.shutdown.drain, settings.shutdown.notice) == (3, 2)
    assert settings.listen == ["b:2", "unix:/run/p.sock"]
    assert settings.log.level == "debug"
    assert load("--listen", "c:3", "--listen", "d:4", PENSTOCK_LISTEN="b:2").listen == [
        "c:3",
        "d:4",
    ]


def test_providers_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        """
        [providers.gpu]
        kind = "sidecar"
        models = { "llama.3" = "org/llama", tiny = "/models/tiny" }
        [providers.far]
        kind = "sidecar"
        addresses = ["10.0.0.1:50061", "10.0.0.2:50061"]
        [providers.groq]
        kind = "openai-compatible"
        base_url = "https://api.example.com/v1"
        api_key = "secret-key"
        """
    )
    providers = load("--config", "p.toml").providers
    assert providers is not None
    gpu, groq = providers["gpu"], providers["groq"]
    assert isinstance(gpu, provider_settings.SidecarSettings)
    assert gpu.models == {"llama.3": "org/llama", "tiny": "/models/tiny"}
    assert isinstance(groq, provider_settings.NetworkSettings)
    assert "secret-key" not in repr(groq)
    assert "secret-key" not in load("--config", "p.toml").model_dump_json()


@pytest.mark.parametrize(
    ("file", "argv", "environ", "said"),
    [
        ("[limits]\nmax_mesage_bytes = 1\n", (), {}, ["limits.max_mesage_bytes", "did you mean"]),
        ("[shutdown]\ndrain = -1\n", (), {}, ["shutdown.drain", "penstock.toml"]),
        ("listen = [\n", (), {}, ["penstock.toml", "cannot be read"]),
        ("", ("--set", "log.format=xml"), {}, ["log.format", "'human' or 'json'", "--set"]),
        ("", ("--set", "nonsense"), {}, ["KEY=VALUE"]),
        ("", ("--set", "listen.x=1"), {}, ["listen"]),
        ("", ("--config", "none.toml"), {}, ["none.toml", "cannot be read"]),
        ("", (), {"PENSTOCK_LISTN": "a:1"}, ["PENSTOCK_LISTN", "did you mean 'listen'"]),
        (
            "",
            (),
            {"PENSTOCK_LIMITS__MAX_MESSAGE_BYTES": "many"},
            ["limits.max_message_bytes", "PENSTOCK_LIMITS__MAX_MESSAGE_BYTES"],
        ),
        ('[providers.x]\nkind = "sidecar"\n', (), {}, ["providers.x", "models", "addresses"]),
        ('[providers.x]\nkind = "sidcar"\n', (), {}, ["providers.x", "kind", "sidecar"]),
        ('[providers.x]\nkind = "openai-compatible"\n', (), {}, ["providers.x", "base_url"]),
        ('[providers."a/b"]\nkind = "openai"\n', (), {}, ["providers.a/b"]),
        (
            '[providers.x]\nkind = "sidecar"\nmodels = {a = "b"}\nthreads = 0\nmax_queue = "x"\n',
            (),
            {},
            ["providers.x.threads", "providers.x.max_queue"],
        ),
    ],
)
def test_errors_name_the_key_and_where_it_was_set(
    tmp_path: Path, file: str, argv: tuple[str, ...], environ: dict[str, str], said: list[str]
) -> None:
    if file:
        (tmp_path / "penstock.toml").write_text(file)
    with pytest.raises(ConfigError) as caught:
        load(*argv, **environ)
    for words in said:
        assert words in str(caught.value)


def test_the_clients_variables_are_not_the_servers() -> None:
    assert load(PENSTOCK_TARGET="x:1", PENSTOCK_TOKEN="t", PENSTOCK_SIDECAR_LISTEN="y") == load()
