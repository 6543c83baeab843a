"""Making an `LLM`, and living with it: defaults, names, event loops, threads, closing."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING, Any

import penstock
import pytest
from penstock import v1

from tests.client.faces import Face, MakeLLM, until

if TYPE_CHECKING:
    from tests.client.conftest import Run, Server


# --- making one -------------------------------------------------------------------------------


async def test_nothing_is_connected_to_before_the_first_call() -> None:
    llm = penstock.create_llm("OpenAI", target="127.0.0.1:1")
    other = await penstock.acreate_llm("anthropic", model="claude", target="127.0.0.1:1")

    assert (llm.provider, llm.model) == ("openai", "gpt-5-nano")
    assert (other.provider, other.model) == ("anthropic", "claude")
    assert repr(other) == "LLM('anthropic', 'claude')"
    await llm.aclose()
    await other.aclose()


async def test_defaults_arrive(make_llm: MakeLLM, server: Server) -> None:
    llm = make_llm(
        temperature=0.5,
        seed=7,
        max_output_tokens=100,
        stop=["."],
        thinking="low",
        top_k=3,
        system_prompt="Be brief.",
        provider_options={"user": "Ada"},
        labels={"team": "river"},
        metadata={"x-tenant": "north"},
    )

    await llm.generate("Hi")
    await llm.generate("Hi", temperature=0, seed=-1, max_tokens=9, thinking=False, top_k=None)

    first, second = (call.request for call in server.calls)
    assert first.model == "test/model"
    assert first.sampling == v1.Sampling(
        temperature=0.5, seed=7, max_output_tokens=100, stop=["."], top_k=3
    )
    assert first.thinking.effort == v1.ThinkingOptions.EFFORT_LOW
    assert first.system == "Be brief."
    assert first.provider_options["user"] == "Ada"
    assert first.metadata == {"team": "river"}
    assert server.calls[0].metadata["x-tenant"] == "north"
    assert second.sampling == v1.Sampling(
        temperature=0, max_output_tokens=9, stop=["."], top_k=3
    )  # -1 is no seed, and what is None was not said
    assert second.thinking.effort == v1.ThinkingOptions.EFFORT_NONE


async def test_per_call_options_arrive(llm: Face, server: Server) -> None:
    await llm.generate(
        "Hi",
        system_prompt="Be kind.",
        top_p=0.5,
        stop="x",
        frequency_penalty=0.1,
        presence_penalty=0.2,
        repetition_penalty=1.1,
        max_output_tokens=5,
        labels={"a": "b"},
    )
    await llm.generate("Hi", system="Be kind.")

    first, second = (call.request for call in server.calls)
    assert first.system == second.system == "Be kind."
    assert first.metadata == {"a": "b"}
    assert first.sampling == v1.Sampling(
        top_p=0.5,
        stop=["x"],
        frequency_penalty=0.1,
        presence_penalty=0.2,
        repetition_penalty=1.1,
        max_output_tokens=5,
    )


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, v1.ThinkingOptions()),
        ("auto", v1.ThinkingOptions()),
        (True, v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_MEDIUM)),
        ("on", v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_MEDIUM)),
        (False, v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_NONE)),
        ("off", v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_NONE)),
        ("minimal", v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_MINIMAL)),
        ("max", v1.ThinkingOptions(effort=v1.ThinkingOptions.EFFORT_MAX)),
        (512, v1.ThinkingOptions(budget_tokens=512)),
    ],
)
async def test_thinking(
    llm: Face, server: Server, thinking: Any, expected: v1.ThinkingOptions
) -> None:
    await llm.generate("Hi", thinking=thinking)

    assert server.calls[0].request.thinking == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_tokens": 1000, "max_output_tokens": 200}, (1000, 800, 200)),
        ({"max_tokens": 1000, "max_input_tokens": 900}, (1000, 900, 100)),
        ({"max_input_tokens": 900, "max_output_tokens": 100}, (1000, 900, 100)),
        ({"max_output_tokens": 100}, (None, None, 100)),
        ({"max_tokens": 1000}, (1000, None, None)),
        ({}, (None, None, None)),
    ],
)
async def test_token_vocabulary(
    make_llm: MakeLLM, server: Server, options: Any, expected: tuple[int | None, ...]
) -> None:
    llm = make_llm(**options)

    made = llm.behind
    assert (made.max_tokens, made.max_input_tokens, made.max_output_tokens) == expected
    await llm.generate("Hi")
    assert server.calls[0].request.sampling.max_output_tokens == (expected[2] or 0)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"temprature": 1}, TypeError, "no such option: temprature"),
    ({"temperature": "hot"}, TypeError, "temperature: "),
    ({"thinking": "hard"}, ValueError, "thinking: 'hard' is none of none, minimal, low"),
    ({"response_format": "xml"}, ValueError, "response_format: 'xml' is none of"),
    ({"max_output_tokens": 0}, ValueError, "max_output_tokens: must be at least 1"),
    ({"max_tokens": 10, "max_output_tokens": 10}, ValueError, "max_tokens: must be more than"),
    (
        {"max_tokens": 10, "max_output_tokens": 9, "max_input_tokens": 9},
        ValueError,
        "max_tokens: is less than",
    ),
    ({"base_url": "http://x"}, TypeError, "base_url: the Penstock server has it"),
    ({"api_key": "sk"}, TypeError, "api_key: the Penstock server has it"),
    ({"provider": "local/tiny", "model": "other"}, ValueError, "names a model already"),
    ({"provider": ""}, ValueError, "provider: must not be empty"),
    ({"target": "http://localhost"}, ValueError, "write host:port"),
    ({"tools": ["weather"]}, TypeError, "is no tool"),
]


@pytest.mark.parametrize(("options", "kind", "message"), WRONG)
def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        penstock.create_llm(**{"provider": "test", "model": "model", **options})


async def test_wrong_options_of_a_call(llm: Face, server: Server) -> None:
    with pytest.raises(TypeError, match="no such option: temprature"):
        await llm.generate("Hi", temprature=None)
    with pytest.raises(ValueError, match="are the same: say one"):
        await llm.generate("Hi", max_tokens=1, max_output_tokens=2)
    with pytest.raises(ValueError, match="nothing to answer"):
        await llm.generate()
    with pytest.raises(ValueError, match="cannot come in pieces"):
        await llm.generate("Hi", stream=True, response_model=object)
    assert server.calls == []


# --- the model's name -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("local", "tiny", "local/tiny"),
        ("local/tiny", None, "local/tiny"),
        ("Local/Tiny", None, "local/Tiny"),
        ("openrouter", "openrouter/auto", "openrouter/openrouter/auto"),
        ("openai", None, "openai/gpt-5-nano"),
        ("anthropic", None, "anthropic/claude-haiku-4-5"),
    ],
)
async def test_names(
    make_llm: MakeLLM, server: Server, provider: str, model: str | None, expected: str
) -> None:
    llm = make_llm(provider, model)

    await llm.generate("Hi")

    assert [call.method for call in server.calls] == ["generate"]
    assert server.calls[0].request.model == expected


async def test_the_only_model_is_found(make_llm: MakeLLM, server: Server) -> None:
    async def one(request: Any, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=[v1.Model(name="local/tiny")])

    server.list_models = one
    llm = make_llm("local", None)

    assert llm.behind.model is None
    await llm.generate("Hi")
    await llm.generate("Hi")

    assert [call.method for call in server.calls] == ["list_models", "generate", "generate"]
    assert server.calls[0].request.provider == "local"
    assert server.calls[2].request.model == "local/tiny"
    assert llm.behind.model == "tiny"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [(["local/b", "local/a"], "say which model; it has a, b"), ([], "it has none")],
)
async def test_several_models_or_none(
    make_llm: MakeLLM, server: Server, names: list[str], message: str, stream: bool
) -> None:
    async def several(request: Any, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=[v1.Model(name=name) for name in names])

    server.list_models = several

    with pytest.raises(penstock.ModelNotFoundError, match=message):
        await make_llm("local", None).generate("Hi", stream=stream)


async def test_target_of_the_environment(
    flavour: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TARGET", server.target)
    llm = Face(flavour, penstock.create_llm("local", "tiny"))

    assert (await llm.generate("Hi")).content == "Hello there."
    await llm.behind.aclose()


# --- event loops, threads, closing ------------------------------------------------------------


async def test_contexts_and_closing(flavour: str, server: Server) -> None:
    made = penstock.create_llm("test", "model", target=server.target)
    llm = Face(flavour, made)

    for _ in range(2):
        if flavour == "aio":
            async with made:
                await llm.generate("Hi")
                await asyncio.to_thread(made.generate, "Hi")  # both are open
        else:
            with made:
                await llm.generate("Hi")
        with pytest.raises(RuntimeError, match="closed"):
            await llm.generate("Hi")
        with pytest.raises(RuntimeError, match="closed"):
            await llm.generate("Hi", stream=True)
        with pytest.raises(RuntimeError, match="closed"):
            made.batch(["Hi"])
    await made.aclose()
    await made.aclose()


async def test_closing_cancels(make_llm: MakeLLM, server: Server) -> None:
    async def hang(request: Any, context: Any) -> v1.GenerateResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.generate = hang
    llm = make_llm()
    running = asyncio.create_task(llm.generate("Hi"))
    await until(lambda: server.calls)
    await llm.behind.aclose()

    with pytest.raises(penstock.CancelledCallError):
        await running
    await server.was_cut_off()


async def test_many_threads_share_one(server: Server) -> None:
    texts: list[str | None] = []

    def work(llm: penstock.LLM) -> None:
        texts.append(llm.generate("Hi").content)
        texts.append("".join(chunk.content or "" for chunk in llm.generate("Hi", stream=True)))

    with penstock.create_llm("test", "model", target=server.target) as llm:
        threads = [threading.Thread(target=work, args=(llm,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    assert texts == ["Hello there."] * 16


async def test_two_event_loops_at_once(server: Server) -> None:
    llm = penstock.create_llm("test", "model", target=server.target)
    both = threading.Barrier(2)

    async def ask() -> list[str | None]:
        both.wait(10)
        answers = await asyncio.gather(*(llm.agenerate("Hi") for _ in range(10)))
        return [answer.content for answer in answers]

    found = await asyncio.gather(*(asyncio.to_thread(asyncio.run, ask()) for _ in range(2)))

    assert found == [["Hello there."] * 10] * 2
    await llm.aclose()


SEVERAL_RUNS = """
import asyncio, sys
import penstock

llm = penstock.create_llm("test", "model", target=sys.argv[1])

async def whole():
    print((await llm.agenerate("Hi")).content)

async def left_half_way():
    async for chunk in await llm.agenerate("Hi", stream=True):
        print(chunk.content)
        break

async def held_half_way():
    global held
    held = await llm.agenerate("Hi", stream=True)
    print((await anext(held)).content)

async def a_batch():
    print(len(await llm.abatch(["a", "b"])))

async def a_batch_half_way():
    async for place, answer in await llm.abatch(["a", "b"], as_completed=True):
        print(answer.content)
        break

async def a_session():
    session = penstock.BasicSession(llm)
    await session.agenerate("Hi", stream=True)
    print(len(session.messages))

async def closed():
    async with llm:
        await whole()

for main in (whole, left_half_way, held_half_way, whole, a_batch, a_batch_half_way, a_session,
             closed, closed):
    asyncio.run(main())
with llm:
    print(llm.generate("Hi").content)
print(penstock.create_llm("test", "model", target=sys.argv[1]).generate("Hi").content)
llm = penstock.create_llm("test", "model", target=sys.argv[1])
llm.events.on("*", lambda event: None)
stream = llm.generate("Hi", stream=True)  # left open when the program ends
print(next(stream).content)
"""


async def test_several_event_loops_and_no_complaints(run_python: Run, server: Server) -> None:
    argv = ("-W", "error", "-X", "dev", "-c", SEVERAL_RUNS, server.target)
    finished = await run_python(*argv)

    assert finished.err == ""  # no "unclosed", no "never awaited", no "Event loop is closed"
    whole, half = "Hello there.", "Hello "
    assert finished.out.splitlines() == [
        *(whole, half, half, whole, "2", whole, "0", whole, whole, whole, whole, half),
    ]
    assert finished.code == 0


SYNC_ONLY = """
import asyncio, sys, threading

def refuse(*args, **kwargs):
    raise AssertionError("an event loop is made")

asyncio.new_event_loop = asyncio.events.new_event_loop = refuse
asyncio.BaseEventLoop.__init__ = refuse

import penstock

with penstock.create_llm("test", "model", target=sys.argv[1]) as llm:
    llm.events.on("*", lambda event: None)
    print(llm.generate("Hi").content)
    print(*(chunk.content for chunk in llm.generate("Hi", stream=True)))
    session = penstock.BasicSession(llm)
    session.generate("Hi")
    session.save("session.json")
    print(len(penstock.BasicSession.load("session.json").messages))
    print(len(llm.batch(["a", "b"])), len(penstock.compare([llm, llm], "a").responses))
    print(llm.list_available_models.__name__, llm.get_capabilities(), llm.health()["status"])
print(*sorted(t.name for t in threading.enumerate() if t.name.startswith("penstock-ev")))
print(type(asyncio.events._get_running_loop()), "grpc.aio._interceptor" in sys.modules)
"""


async def test_synchronous_programs_start_no_event_loop(run_python: Run, server: Server) -> None:
    async def healthy(request: Any, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse()

    server.list_models = healthy
    finished = await run_python("-W", "error", "-c", SYNC_ONLY, server.target)

    assert finished.err == ""
    assert finished.out.splitlines()[:6] == [
        *("Hello there.", "Hello   there. ", "2", "2 2"),
        "list_available_models ['chat', 'streaming'] healthy",
        "",
    ]
