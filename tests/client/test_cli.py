"""The ``penstock`` command as a process of its own, against a scripted server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1.health_pb2 import HealthCheckResponse
from penstock import v1
from penstock.cli import main

if TYPE_CHECKING:
    from tests.client.conftest import Fail, Finished, Run, Server, Start

MODULE = ("-W", "error", "-m", "penstock.cli")


@pytest.fixture
def cli(run_python: Run, server: Server) -> Run:
    """Runs the command; the environment names the scripted server."""

    async def run(*argv: str, stdin: str = "", **env: str) -> Finished:
        env = {"PENSTOCK_TARGET": server.target, **env}
        return await run_python(*MODULE, *argv, stdin=stdin, **env)

    return run


def text_delta(text: str) -> v1.StreamGenerateResponse:
    return v1.StreamGenerateResponse(part_delta=v1.PartDelta(text=text))


# --- generate -----------------------------------------------------------------------------------


async def test_generate(cli: Run, server: Server) -> None:
    finished, piped, dashed = await asyncio.gather(
        cli(
            *("generate", "Hi", "--model", "a/b", "--system", "s", "--temperature", "0"),
            *("--max-tokens", "5", "--seed", "7", "--stop", "x", "--stop", "y"),
        ),
        cli("generate", stdin="from stdin ü\n", PENSTOCK_MODEL="c/d"),
        cli("generate", "-", "-m", "e/f", stdin="dash"),
    )

    assert finished == (0, "Hello there.\n", "")
    assert piped == dashed == finished
    arrived = {call.request.request.model: call.request.request for call in server.calls}
    assert arrived["a/b"] == v1.GenerateRequest(
        model="a/b",
        prompt="Hi",
        system="s",
        sampling=v1.Sampling(temperature=0, max_output_tokens=5, seed=7, stop=["x", "y"]),
    )
    assert arrived["c/d"].prompt == "from stdin ü\n"
    assert arrived["e/f"].prompt == "dash"


async def test_generate_in_other_forms(cli: Run, server: Server) -> None:
    response = await server.generate(None, None)  # type: ignore[arg-type]
    response.usage.input_tokens, response.usage.output_tokens = 3, 10
    response.timings.total.FromMilliseconds(2000)

    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        return response

    server.generate = generate
    as_json, events, verbose = await asyncio.gather(
        cli("generate", "Hi", "--json"),
        cli("generate", "Hi", "--events"),
        cli("generate", "Hi", "--no-stream", "-v"),
    )

    assert json.loads(as_json.out)["message"]["parts"][0]["text"] == "Hello there."
    lines = [json.loads(line) for line in events.out.splitlines()]
    assert "started" in lines[0]
    assert lines[-1]["completed"]["id"] == "answer-1"
    assert verbose.out == "Hello there.\n"
    assert "3 tokens in, 10 out" in verbose.err
    assert "5.0 tokens/s; stop" in verbose.err
    # The default model, since neither option nor environment names one.
    assert {call.request.model for call in server.calls if call.method == "generate"} == {
        "local/tiny"
    }


async def test_text_is_printed_as_it_comes(start_python: Start, server: Server) -> None:
    go_on = asyncio.Event()

    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        yield text_delta("first")
        await go_on.wait()
        yield v1.StreamGenerateResponse(part_delta=v1.PartDelta(refusal=" no"))
        yield v1.StreamGenerateResponse(completed=v1.GenerateResponse())

    server.stream = stream
    process = await start_python(*MODULE, "--target", server.target, "generate", "Hi")
    assert process.stdout is not None
    assert await process.stdout.readexactly(5) == b"first"
    go_on.set()
    assert await process.communicate() == (b" no\n", b"")


async def test_nothing_to_send() -> None:
    terminal, other_end = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *MODULE,
            "generate",
            stdin=other_end,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
    finally:
        os.close(terminal)
        os.close(other_end)

    assert process.returncode == 2
    assert b"nothing to send" in err


# --- ends ---------------------------------------------------------------------------------------


@pytest.fixture
def endless(server: Server) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        while True:
            yield text_delta("again\n")
            await asyncio.sleep(0.001)

    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        arrived.set()
        await asyncio.Event().wait()
        return v1.GenerateResponse()

    arrived = asyncio.Event()
    server.stream, server.generate = stream, generate
    server.arrived = arrived  # type: ignore[attr-defined]


@pytest.mark.usefixtures("endless")
async def test_interrupt_cancels(start_python: Start, server: Server) -> None:
    process = await start_python(*MODULE, "--target", server.target, "generate", "Hi")
    assert process.stdout is not None
    assert await process.stdout.readexactly(5) == b"again"
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    assert process.returncode == 130
    assert err == b""
    await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_interrupt_cancels_a_call_that_is_not_streamed(
    start_python: Start, server: Server
) -> None:
    process = await start_python(
        *MODULE, "--target", server.target, "generate", "Hi", "--no-stream"
    )
    await server.arrived.wait()  # type: ignore[attr-defined]
    process.send_signal(signal.SIGINT)

    assert await process.communicate() == (b"", b"")
    assert process.returncode == 130
    await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_a_closed_pipe_is_quiet(server: Server, tmp_path: Path) -> None:
    command = '"$0" -W error -m penstock.cli generate Hi 2>err; echo $? >code'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"({command}) | head -n 1", sys.executable),
        cwd=tmp_path,
        env={**os.environ, "PENSTOCK_TARGET": server.target},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    assert out == b"again\n"
    assert (tmp_path / "err").read_text() == ""
    assert (tmp_path / "code").read_text() == "141\n"
    await server.was_cut_off()


# --- models -------------------------------------------------------------------------------------


async def test_models(cli: Run, server: Server) -> None:
    table, as_json = await asyncio.gather(cli("models"), cli("models", "local", "--json"))

    assert table.code == 0
    assert table.out.splitlines() == [
        "NAME        STATE  CONTEXT  CAPABILITIES",
        "local/tiny  ready  1,024    generate,stream",
    ]
    assert table.err == "penstock: ollama: not reachable (PROVIDER_UNAVAILABLE)\n"
    assert json.loads(as_json.out)["models"][0]["name"] == "local/tiny"
    assert as_json.err == ""
    assert {call.request.provider for call in server.calls} == {"", "local"}


async def test_one_model(cli: Run, server: Server) -> None:
    shown, as_json, loaded, unloaded, pulled = await asyncio.gather(
        cli("model", "local/tiny"),
        cli("model", "local/tiny", "--json"),
        cli("load", "local/tiny", "--json"),
        cli("unload", "local/tiny"),
        cli("pull", "local/tiny"),
    )

    assert shown.out.splitlines() == [
        "name     local/tiny",
        "state    ready",
        "context  1,024 tokens",
        "can      generate,stream",
    ]
    assert json.loads(as_json.out)["contextLength"] == 1024
    assert loaded.err.splitlines() == [" 50% reading weights", "100% ready"]
    assert json.loads(loaded.out)["state"] == "MODEL_STATE_READY"
    assert pulled.err.splitlines() == ["     pulling manifest", " 25% pulling 8eeb", "     success"]
    assert unloaded.out.splitlines() == ["name   local/tiny", "state  unloaded"]


async def test_a_newer_server_has_words_we_do_not_know(cli: Run, server: Server) -> None:
    async def list_models(request: Any, context: Any) -> v1.ListModelsResponse:
        model = v1.Model(name="a/b", capabilities=[99], state=77)  # type: ignore[list-item, arg-type]
        loading = v1.Model(name="a/c", state=v1.MODEL_STATE_LOADING, load_progress=0.25)
        return v1.ListModelsResponse(models=[model, loading])

    async def load_model(request: Any, context: Any) -> AsyncIterator[v1.LoadModelResponse]:
        return
        yield

    server.list_models, server.load_model = list_models, load_model
    models, loaded = await asyncio.gather(cli("models"), cli("load", "local/tiny"))

    assert models.out.splitlines()[1:] == [
        "a/b   77           -        99",
        "a/c   loading 25%  -        -",
    ]
    assert "ready" in loaded.out  # a model that is there already says nothing on the way


async def test_embed(cli: Run, server: Server) -> None:
    lines, as_json = await asyncio.gather(
        cli("embed", stdin="a\nbcd\n"), cli("embed", "a", "--dimensions", "2", "--json")
    )

    assert lines.out == "[1.0, 0.1]\n[3.0, 0.1]\n"
    assert json.loads(as_json.out)["embeddings"] == [{"values": [1.0, 0.1]}]
    assert {call.request.dimensions for call in server.calls} == {0, 2}


async def test_health(cli: Run, server: Server) -> None:
    await server.health.set("openai", HealthCheckResponse.NOT_SERVING)
    well, ill, as_json = await asyncio.gather(
        cli("health"), cli("health", "openai"), cli("health", "unknown", "--json")
    )

    assert well == (0, "SERVING\n", "")
    assert ill == (1, "NOT_SERVING\n", "")
    assert json.loads(as_json.out) == {"status": "SERVICE_UNKNOWN"}
    assert as_json.code == 1


# --- errors and usage ---------------------------------------------------------------------------


async def test_errors(cli: Run, server: Server, fail: Fail) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        yield text_delta("half of")
        retry = RetryInfo()
        retry.retry_delay.FromSeconds(3)
        bad = BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field="sampling.top_k", description="must be at least 1")
            ]
        )
        info = ErrorInfo(domain="penstock", reason="INVALID_REQUEST", metadata={"request_id": "r1"})
        await fail(context, grpc.StatusCode.INVALID_ARGUMENT, "two\nlines", info, bad, retry)

    async def list_models(request: Any, context: Any) -> v1.ListModelsResponse:
        await asyncio.Event().wait()
        return v1.ListModelsResponse()

    server.stream, server.list_models = stream, list_models
    explained, refused, late = await asyncio.gather(
        cli("generate", "Hi"),
        cli("health", "--target", "127.0.0.1:1"),
        cli("--timeout", "0.2", "models"),
    )

    assert explained == (
        1,
        "half of\n",
        "penstock: two\n"
        "  lines (INVALID_REQUEST, request r1)\n"
        "  sampling.top_k: must be at least 1\n"
        "  try again in 3 s\n",
    )
    assert refused.code == 1
    assert refused.out == ""
    first, hint = refused.err.splitlines()
    assert first.startswith("penstock: failed to connect")
    assert hint == "  is a server running at 127.0.0.1:1?"
    assert late.code == 1
    assert "DEADLINE_EXCEEDED" in late.err


async def test_connection_options_before_or_after_the_command(cli: Run, server: Server) -> None:
    before, after = await asyncio.gather(
        cli("--target", server.target, "--token", "a", "models", PENSTOCK_TARGET="nowhere:1"),
        cli("models", "--target", server.target, "--token", "a", PENSTOCK_TARGET="nowhere:1"),
    )

    assert before.code == after.code == 0
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer a"] * 2


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "required: COMMAND"),
        (["generate", "--temperature", "hot", "Hi"], "invalid float value"),
        (["health", "--target", "http://127.0.0.1:1"], "write host:port"),
        (["health", "--target", "example.com:1", "--token", "secret"], "--insecure"),
        (["health", "--target", "127.0.0.1:1", "--ca", "/no/such/file"], "/no/such/file"),
        (["health", "--target", "127.0.0.1:1", "--cert", "x"], "go together"),
        (["health", "--target", "127.0.0.1:1", "--tls", "--insecure"], "exclude each other"),
    ],
)
def test_usage(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(argv)
    except SystemExit as stop:  # by argparse
        code = int(stop.code or 0)
    out, err = capsys.readouterr()

    assert (code, out) == (2, "")
    assert text in err
    assert "secret" not in err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, texts in (
        (["--help"], ["examples:", "PENSTOCK_TOKEN", "turn texts into vectors"]),
        (["generate", "--help"], ["--max-tokens", "--target", "(default: local/tiny)"]),
    ):
        with pytest.raises(SystemExit):
            main(argv)
        out = capsys.readouterr().out
        assert all(text in out for text in texts)


async def test_version(cli: Run) -> None:
    version, flag = await asyncio.gather(cli("version"), cli("--version"))

    assert version.out.startswith(f"penstock {penstock.__version__}\n")
    assert flag == (0, f"penstock {penstock.__version__}\n", "")
