"""Random configurations: they are taken, or refused with a key; nothing else comes of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_server import config
from penstock_server.config import ConfigError, GatewayConfig

from tests.fuzz.bounds import examples, tried
from tests.fuzz.texts import strings, words

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

_KEYS = sorted(config._known_keys(GatewayConfig))
_names = st.sampled_from([*_KEYS, "local", "a.b", 'a"b', "", "é", "kind"]) | words
_scalars: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    strings,
    st.sampled_from(
        ["sidecar", "openai", "ollama", "hf", "debug", "127.0.0.1:0", "8GiB", "1e999 B"]
    ),
)
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)


def _provider() -> st.SearchStrategy[Any]:
    kinds = st.sampled_from(["sidecar", "openai", "openai-compatible", "ollama", "bedrock"])
    fields = {"models": st.dictionaries(words, strings, max_size=2)}
    return st.fixed_dictionaries({"kind": kinds}, optional=fields) | st.dictionaries(
        _names, _values, max_size=3
    )


_files = st.fixed_dictionaries(
    {},
    optional={
        "listen": st.lists(strings, max_size=2) | _values,
        "providers": st.dictionaries(_names, _provider(), max_size=2) | _values,
        "aliases": st.dictionaries(words, strings, max_size=2) | _values,
        "routes": st.dictionaries(
            words,
            st.fixed_dictionaries({"targets": st.lists(strings | _values, max_size=2)}) | _values,
            max_size=2,
        ),
        **{
            name: st.dictionaries(_names, _values, max_size=3) | _values
            for name in ("limits", "keepalive", "shutdown", "log", "tls")
        },
    },
)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(key)} = {_toml(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _load(file: Path, environ: Mapping[str, str], *argv: str) -> GatewayConfig:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    args = parser.parse_args(["--config", str(file), *argv])
    return config.load(GatewayConfig, args, environ, "PENSTOCK_")


@pytest.mark.timeout(600)
def test_files(tmp_path: Path, report: Callable[[str], None]) -> None:
    file = tmp_path / "penstock.toml"
    said: list[str] = []
    counts = {"taken": 0, "refused": 0}

    @tried(200)
    @given(_files)
    def load(tree: dict[str, Any]) -> None:
        file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in tree.items()))
        try:
            _load(file, {})
        except ConfigError as error:
            counts["refused"] += 1
            said.append(str(error).partition("\n")[0])
        else:
            counts["taken"] += 1

    load()
    assert all(":" in line for line in said), "no key is told"
    report(f"{sum(counts.values()):,} files: {counts}")


@pytest.mark.timeout(600)
def test_bytes_environment_and_flags(tmp_path: Path, report: Callable[[str], None]) -> None:
    file = tmp_path / "penstock.toml"
    settings = st.builds(
        lambda path, value: (".".join(path), value),
        st.lists(_names, min_size=1, max_size=4),
        strings.filter(lambda text: "\0" not in text),
    )

    said: list[str] = []

    @tried(100)
    @given(st.binary(max_size=60), st.lists(settings, max_size=3), st.booleans())
    def load(raw: bytes, given: list[tuple[str, str]], by_flag: bool) -> None:
        file.write_bytes(b"" if given else raw)
        names = {f"PENSTOCK_{key.upper().replace('.', '__')}": value for key, value in given}
        argv = [f"--set={key}={value}" for key, value in given] if by_flag else []
        try:
            _load(file, {} if by_flag else names, *argv)
        except ConfigError as error:
            said.append(str(error).strip())

    load()
    assert all(said)
    report(f"bytes, names of variables, and flags: {len(said)} of {examples(100)} refused")
