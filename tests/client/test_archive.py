"""Sessions in files: there and back, AbstractCore's, damaged ones, and writing that is cut off."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penstock
import pytest
from penstock import v1

from tests.client.conftest import answer
from tests.client.faces import Face, Told, kinds, until

if TYPE_CHECKING:
    from tests.client.conftest import Server, Start

MakeSession = Callable[..., Face]


@penstock.tool
def weather(city: str) -> str:
    """Tells the weather."""
    return "rain"


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def load(flavour: str, *args: Any, **kwargs: Any) -> penstock.BasicSession:
    loaded: penstock.BasicSession = await Face(flavour, penstock.BasicSession).load(*args, **kwargs)
    return loaded


async def test_there_and_back(
    flavour: str, llm: Face, make_session: MakeSession, server: Server, tmp_path: Path
) -> None:
    async def signed(request: Any, context: Any) -> v1.GenerateResponse:
        response = answer("Hello, Ada. \U0001f600 ä")
        thought = penstock.thinking("hm")
        thought.provider_data.CopyFrom(v1.ProviderData(provider="test", data=b"\0signature"))
        response.message.parts.insert(0, thought)
        return response

    server.generate = signed
    session = make_session(
        system_prompt="Be brief.",
        tools=[weather],
        temperature=0.5,
        seed=3,
        auto_compact=True,
        auto_compact_threshold=9000,
    )
    await session.generate("Hi", name="Ada", location="Oslo")
    session.behind.summary = {"text": "greetings"}
    path = tmp_path / "ada.json"
    await session.save(path)
    loaded = await load(flavour, path, llm.behind, [weather])

    was = session.behind
    assert loaded.to_dict() == was.to_dict()
    assert loaded.messages == was.messages
    assert loaded.messages[-1].wire == was.messages[-1].wire
    for name in ("id", "created_at", "system_prompt", "options", "auto_compact", "summary"):
        assert getattr(loaded, name) == getattr(was, name)
    assert loaded.auto_compact_threshold == 9000
    # And it goes on where it was.
    await Face(flavour, loaded).generate("And now?")
    request = server.calls[-1].request
    assert request.system == "Be brief."
    assert request.sampling.seed == 3
    assert [tool.name for tool in request.tools] == ["weather"]
    assert request.messages[1].parts[0].provider_data.data == b"\0signature"
    assert request.messages[0].name == "Ada"


ABSTRACTCORE: dict[str, Any] = {
    "schema_version": "session-archive/v1",
    "session": {
        "id": "6e3b7ad0-3a3f-4a3e-a1c6-0d5a7e2b9f11",
        "created_at": "2025-10-12T10:30:00.123456",
        "provider": "OllamaProvider",
        "model": "qwen3:4b-instruct-2507-q4_K_M",
        "model_params": {"temperature": 0.2, "seed": -1, "max_tokens": 32768},
        "system_prompt": "You are helpful.",
        "tool_registry": [{"name": "get_weather", "description": "", "parameters": {}}],
        "settings": {"auto_compact": True, "auto_compact_threshold": 5000, "other": 1},
        "summary": {"created_at": "2025-10-12T10:31:00", "text": "greetings", "metrics": {}},
        "assessment": None,
        "facts": {"triples": [["Ada", "is in", "Oslo"]]},
        "workflow": {"step": 3},
    },
    "messages": [
        {
            "role": "system",
            "content": "You are helpful.",
            "timestamp": "2025-10-12T10:30:00.123456",
            "metadata": {},
        },
        {
            "id": "msg-1",
            "role": "user",
            "content": "Hi",
            "timestamp": "2025-10-12T10:30:01",
            "metadata": {"name": "alice", "location": "Oslo", "intents": ["greeting"]},
        },
        {
            "role": "assistant",
            "content": "Hello.",
            "timestamp": "2025-10-12T10:30:02",
            "metadata": {"requested_tool_calls": []},
        },
    ],
    "exported_by": "abstractcore 2.12.0",
}


async def test_an_archive_of_abstractcore(
    flavour: str, llm: Face, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(ABSTRACTCORE), "utf-8")
    loaded = await load(flavour, path, llm.behind)

    assert loaded.id == ABSTRACTCORE["session"]["id"]
    assert loaded.created_at.replace(tzinfo=None).isoformat() == "2025-10-12T10:30:00.123456"
    assert loaded.system_prompt == "You are helpful."
    assert [message.content for message in loaded.messages] == ["You are helpful.", "Hi", "Hello."]
    assert (loaded.messages[1].name, loaded.messages[1].location) == ("alice", "Oslo")
    assert (loaded.auto_compact, loaded.auto_compact_threshold) == (True, 5000)
    assert loaded.facts == {"triples": [["Ada", "is in", "Oslo"]]}

    await Face(flavour, loaded).generate("Go on.")
    request = server.calls[0].request
    assert request.system == "You are helpful."
    assert request.sampling.temperature == 0.2
    assert not request.sampling.HasField("seed")
    assert [message.name for message in request.messages] == ["alice", "", ""]


async def test_what_is_not_known_is_saved_again(flavour: str, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(ABSTRACTCORE), "utf-8")
    session = Face(flavour, await load(flavour, path))
    await session.save(path)
    saved = json.loads(path.read_text("utf-8"))

    for value, told in ((saved, ABSTRACTCORE), (saved["session"], ABSTRACTCORE["session"])):
        for name in told.keys() - {"session", "messages", "created_at"}:
            assert value[name] == told[name], name
    assert saved["messages"][1]["id"] == "msg-1"
    assert saved["messages"][1]["metadata"] == ABSTRACTCORE["messages"][1]["metadata"]


async def test_loading_tells_one_event_with_the_right_id(flavour: str, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(ABSTRACTCORE), "utf-8")
    events: Told = []
    penstock.on_global("session_created", events.append)
    try:
        loaded = await load(flavour, path)
        await until(lambda: events)
    finally:
        penstock.GlobalEventBus.off("session_created", events.append)
    assert kinds(events) == ["session_created"]
    assert events[0].data == {"session_id": loaded.id}


def test_from_a_dict() -> None:
    session = penstock.BasicSession.from_dict(ABSTRACTCORE)
    again = penstock.BasicSession.from_dict(json.loads(json.dumps(session.to_dict())))

    assert again.to_dict() == session.to_dict()
    assert ABSTRACTCORE["messages"][1]["metadata"] == {
        "name": "alice",
        "location": "Oslo",
        "intents": ["greeting"],
    }


def without(*path: Any) -> Any:
    return put(..., *path)


def put(value: Any, *path: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(ABSTRACTCORE))
    at: Any = data
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


DAMAGED: list[tuple[str, str]] = [
    ("", "is damaged, or no JSON"),
    (json.dumps(ABSTRACTCORE)[:-20], "is damaged, or no JSON"),
    ("[" * 100_000, "is damaged, or no JSON"),
    ("[]", "holds no JSON object"),
    ("{}", "schema_version is None; 'session-archive/v1' can be read"),
    (json.dumps(put("session-archive/v2", "schema_version")), "schema_version is 'session-arch"),
    (json.dumps(without("session")), "session: missing"),
    (json.dumps(put([], "session")), "session: is no object"),
    (json.dumps(without("messages")), "messages: missing"),
    (json.dumps(put({}, "messages")), "messages: is no list"),
    (json.dumps(without("session", "id")), "session.id: missing"),
    (json.dumps(put(5, "session", "id")), "session.id: is no text"),
    (json.dumps(without("session", "created_at")), "session.created_at: missing, or no time"),
    (json.dumps(put("now", "session", "created_at")), "session.created_at: missing, or no time"),
    (json.dumps(put(5, "session", "system_prompt")), "session.system_prompt: is no text"),
    (json.dumps(put([], "session", "settings")), "session.settings: is no object"),
    (
        json.dumps(put("9", "session", "settings", "auto_compact_threshold")),
        "session.settings.auto_compact_threshold: is no whole number",
    ),
    (
        json.dumps(put("yes", "session", "settings", "auto_compact")),
        "session.settings.auto_compact: is no true or false",
    ),
    (json.dumps(put([], "session", "model_params")), "session.model_params: is no object"),
    (
        json.dumps(put("hot", "session", "model_params", "temperature")),
        "session.model_params.temperature: is no number",
    ),
    (json.dumps(put(5, "messages", 1)), "messages[1]: no object with a role of"),
    (json.dumps(put("king", "messages", 1, "role")), "messages[1]: no object with a role of"),
    (json.dumps(put([], "messages", 1, "role")), "messages[1]: no object with a role of"),
    (json.dumps(without("messages", 1, "content")), "messages[1].content: missing, or no text"),
    (json.dumps(put(5, "messages", 1, "content")), "messages[1].content: missing, or no text"),
    (json.dumps(put(5, "messages", 1, "timestamp")), "messages[1]: "),
    (json.dumps(put("noon", "messages", 1, "timestamp")), "messages[1]: "),
    (json.dumps(put([1], "messages", 1, "metadata")), "messages[1].metadata: no object"),
    (json.dumps(put({"penstock": "?"}, "messages", 1, "metadata")), "messages[1]: "),
    (json.dumps(put({"penstock": "AAAA"}, "messages", 1, "metadata")), "messages[1]: "),
]


@pytest.mark.parametrize(("text", "problem"), DAMAGED, ids=[problem for _, problem in DAMAGED])
async def test_damaged_files(flavour: str, tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "session.json"
    path.write_text(text, "utf-8")

    with pytest.raises(penstock.SessionError) as caught:
        await load(flavour, path)
    assert problem in str(caught.value)


async def test_no_file(flavour: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await load(flavour, tmp_path / "missing.json")
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(penstock.SessionError, match="no JSON"):
        await load(flavour, path)


# --- writing that is cut off ------------------------------------------------------------------


async def test_writing_that_fails(
    make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    path = tmp_path / "session.json"
    await session.save(path)
    before = path.read_bytes()

    session.behind.add_message("user", "more", thing=object())  # no JSON
    with pytest.raises(TypeError):
        await session.save(path)
    session.behind.messages.clear()
    session.behind.add_message("user", "more")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await session.save(path)

    assert path.read_bytes() == before
    assert files_in(tmp_path) == [path]  # nothing lies around


KILLED = """
import os, sys
import penstock

session = penstock.BasicSession()
session.add_message("user", "new " * 1000)

def wait(*_):
    print("half way", flush=True)
    sys.stdin.read()

os.fsync = wait
session.save(sys.argv[1])
"""


async def test_a_process_that_is_killed_while_it_writes(
    start_python: Start, tmp_path: Path
) -> None:
    path = tmp_path / "session.json"
    penstock.BasicSession(system_prompt="old").save(path)
    process = await start_python("-c", KILLED, str(path))
    assert process.stdout is not None
    assert await process.stdout.readline() == b"half way\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()

    assert penstock.BasicSession.load(path).system_prompt == "old"


async def test_files_stay_what_they_were(make_session: MakeSession, tmp_path: Path) -> None:
    path, link = tmp_path / "session.json", tmp_path / "link.json"
    session = make_session()
    await session.save(path)
    assert path.stat().st_mode & 0o777 == 0o600  # conversations are private
    path.chmod(0o640)
    link.symlink_to(path)
    await session.save(link)

    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640


async def test_saving_at_the_same_time(make_session: MakeSession, tmp_path: Path) -> None:
    session = make_session(system_prompt="Be brief.")
    path = tmp_path / "session.json"
    await asyncio.gather(*(session.save(path) for _ in range(20)))

    assert penstock.BasicSession.load(path).system_prompt == "Be brief."
    assert files_in(tmp_path) == [path]
