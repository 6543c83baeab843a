"""The examples run as a reader would run them: against a live gateway, as programs of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.providers.upstream import Received, Script, as_stream
from tests.providers.vendors import responses
from tests.support.hosted import BROKEN, MODEL, WORDS, Hosted
from tests.support.processes import ROOT, ServerProcess

EXAMPLES = ROOT / "examples"
HOSTED = f"openai/{MODEL}"


def environment(gateway: ServerProcess, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
    here = {"PENSTOCK_TARGET": gateway.address, "PYTHONWARNINGS": "error"}
    return {**clean, **here, **more}


def run(
    name: str, *args: str, gateway: ServerProcess, code: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *args],
        env=environment(gateway, **env),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(autouse=True)
def upstream(hosted: Hosted) -> Iterator[Hosted]:
    yield hosted
    hosted.reset()


def test_batch_summaries(hosted_gateway: ServerProcess) -> None:
    pages = [str(ROOT / page) for page in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    done = run("batch_summaries.py", *pages, gateway=hosted_gateway)
    *lines, last = done.stdout.splitlines()
    assert re.fullmatch(r"3 of 3 in \d+\.\d s", last)
    found = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    assert found.keys() == {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert all(found.values())


def test_batch_summaries_count_failures(hosted_gateway: ServerProcess, upstream: Hosted) -> None:
    upstream.answers = lambda _: BROKEN["nonsense"]
    done = run("batch_summaries.py", str(ROOT / "README.md"), gateway=hosted_gateway, code=1,
               PENSTOCK_MODEL=HOSTED)  # fmt: skip
    assert "README.md: failed:" in done.stderr
    assert "0 of 1" in done.stdout


def test_consensus(hosted_gateway: ServerProcess) -> None:
    done = run("consensus.py", gateway=hosted_gateway)
    assert len(re.findall(r"^local/tiny: .*15", done.stdout, re.MULTILINE)) >= 2
    assert re.search(r"^(67|100)% say '15'$", done.stdout, re.MULTILINE)


def test_consensus_of_several_providers(hosted_gateway: ServerProcess) -> None:
    models = f"{HOSTED} anthropic/claude-haiku-4-5 openai/invalid-model"
    done = run("consensus.py", "Yes?", gateway=hosted_gateway, PENSTOCK_MODELS=models)
    assert f"{HOSTED}: {WORDS}" in done.stdout
    assert "openai/invalid-model: provider 'openai' has no such model" in done.stdout
    assert "100% say" in done.stdout  # of those who answered


def test_stream_to_terminal(hosted_gateway: ServerProcess) -> None:
    done = run("stream_to_terminal.py", "What is the capital of Japan?", gateway=hosted_gateway)
    assert "Tokyo" in done.stdout
    assert re.search(r"Model: tiny \| Tokens: \d+ \| Time: ", done.stderr)


def test_stream_to_terminal_is_interrupted(hosted_gateway: ServerProcess, upstream: Hosted) -> None:
    upstream.answers = half
    command = [sys.executable, str(EXAMPLES / "stream_to_terminal.py"), "Hi"]
    env = environment(hosted_gateway, PENSTOCK_MODEL=HOSTED)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "One"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "\n(interrupted)\n"
    upstream.wait("hung_up")


def test_tool_agent(hosted_gateway: ServerProcess) -> None:
    done = run("tool_agent.py", gateway=hosted_gateway, PENSTOCK_MODEL=HOSTED)
    assert done.stdout == "I was told: [59.91, 10.75]\n"
    assert done.stderr == "position({'city': 'Oslo'}) → (59.91, 10.75)\n"


def test_tool_agent_without_a_model_for_tools(hosted_gateway: ServerProcess) -> None:
    assert run("tool_agent.py", gateway=hosted_gateway).stdout.strip()


def test_notebook(hosted_gateway: ServerProcess) -> None:
    said = run("notebook.py", gateway=hosted_gateway).stdout
    assert "Japan → " in said
    assert re.search(r"Norway → .*Oslo", said)
    assert "5 messages" in said
    assert said.count("LLM('local', 'tiny')") == 4


# The web service.


def half(_: Received) -> Script:
    """The first words, and then nothing more until the other side hangs up."""
    item = responses.message(responses.output(WORDS))
    begun = responses.event("response.created", response=responses.response([], "in_progress"))
    where = {"output_index": 0, "item_id": "msg_1"}
    begun += responses.event("response.output_item.added", **where, item={**item, "content": []})
    delta = responses.event("response.output_text.delta", **where, content_index=0, delta=WORDS[:3])
    return as_stream(begun, delta, ending="hold")


def silent(_: Received) -> Script:
    """Nothing at all until the other side hangs up."""
    return Script([b" "], 200, {"content-type": "application/json"}, "hold")


@contextmanager
def service(gateway: ServerProcess, model: str) -> Iterator[str]:
    """The app, served by uvicorn on a free port; its URL."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "fastapi_app.py"],
        env=environment(gateway, PENSTOCK_MODEL=model, PORT="0"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        rest = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
        rest.start()
        yield found[1]
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        rest.join(20)
        assert "Traceback" not in "".join(lines), "".join(lines)
    finally:
        process.kill()
        process.wait(20)
        process.stderr.close()


@pytest.fixture(scope="module")
def tiny_service(hosted_gateway: ServerProcess) -> Iterator[str]:
    with service(hosted_gateway, "local/tiny") as url:
        yield url


@pytest.fixture(scope="module")
def hosted_service(hosted_gateway: ServerProcess) -> Iterator[str]:
    with service(hosted_gateway, HOSTED) as url:
        yield url


def test_the_service_answers(tiny_service: str) -> None:
    question = {"prompt": "What is the capital of Japan?"}
    answer = httpx.post(f"{tiny_service}/generate", json=question, timeout=30)
    assert answer.status_code == 200
    assert "Tokyo" in answer.json()["content"]
    assert answer.json()["usage"]["output_tokens"] > 0


def test_the_service_streams(tiny_service: str) -> None:
    question = {"prompt": "What is the capital of Japan?"}
    with httpx.stream("POST", f"{tiny_service}/stream", json=question, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert "Tokyo" in "".join(json.loads(event)["content"] for event in events)
    assert len(events) > 2


def test_the_service_says_what_failed(hosted_service: str, upstream: Hosted) -> None:
    question = {"prompt": "Hi"}
    for how, status in (("429", 429), ("nonsense", 502)):
        upstream.answers = lambda _, how=how: BROKEN[how]  # type: ignore[misc]
        answer = httpx.post(f"{hosted_service}/generate", json=question, timeout=30)
        assert answer.status_code == status
        assert answer.json()["reason"].startswith("PROVIDER_")
        stream = httpx.post(f"{hosted_service}/stream", json=question, timeout=30)
        assert "event: error\n" in stream.text
        assert "[DONE]" not in stream.text


def test_who_hangs_up_ends_the_stream(hosted_service: str, upstream: Hosted) -> None:
    upstream.answers = half
    with httpx.stream(
        "POST", f"{hosted_service}/stream", json={"prompt": "Hi"}, timeout=30
    ) as answer:
        assert next(answer.iter_lines()) == 'data: {"content": "One"}'
    upstream.wait("hung_up")  # the client's end has reached the provider


def test_who_hangs_up_ends_the_call(hosted_service: str, upstream: Hosted) -> None:
    upstream.answers = silent
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{hosted_service}/generate",
            json={"prompt": "Hi"},
            timeout=httpx.Timeout(10, read=1.0),
        )
    assert upstream.upstream.received
    upstream.wait("hung_up")
