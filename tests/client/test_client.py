"""Both flavours of the client against a scripted server: calls, streams, ends."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import penstock.aio
import penstock.sync
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from penstock import v1

if TYPE_CHECKING:
    from tests.client.conftest import Connect, Run, Server


def text_delta(text: str) -> v1.StreamGenerateResponse:
    return v1.StreamGenerateResponse(part_delta=v1.PartDelta(text=text))


async def for_ever() -> None:
    await asyncio.Event().wait()


# --- the pair ---------------------------------------------------------------------------------

TWINS = [
    (penstock.Client, penstock.aio.Client),
    (penstock.Stream, penstock.aio.Stream),
    (penstock.ResponseStream, penstock.aio.ResponseStream),
]
ASYNC_NAMES = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__"}
ASYNC_NAMES["__anext__"] = "__next__"


def api(kind: type) -> dict[str, Any]:
    """A class's public methods, by the synchronous name."""
    special = {*ASYNC_NAMES, *ASYNC_NAMES.values()}
    if kind.__name__ == "Client":  # nobody but clients makes streams
        special.add("__init__")
    return {
        ASYNC_NAMES.get(name, name): method
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name in special
    }


@pytest.mark.parametrize(("sync", "aio"), TWINS)
def test_flavours_have_the_same_names_and_signatures(sync: type, aio: type) -> None:
    assert api(sync).keys() == api(aio).keys()
    for name, method in api(sync).items():
        one, other = inspect.signature(method), inspect.signature(api(aio)[name])
        assert one.parameters == other.parameters, name
        expected = str(one.return_annotation).replace("Iterator[str]", "AsyncIterator[str]")
        assert str(other.return_annotation) == expected, name
        if not name.startswith("_"):
            assert method.__doc__, name
            assert api(aio)[name].__doc__, name


def test_what_is_awaited() -> None:
    plain = {name for name, call in api(penstock.aio.Client).items() if not is_awaited(call)}
    assert plain == {"__init__", "stream", "load_model", "pull_model"}


def is_awaited(method: Any) -> bool:
    return inspect.iscoroutinefunction(method)


# --- calls ------------------------------------------------------------------------------------


async def test_generate(client: penstock.aio.Client, server: Server) -> None:
    response = await client.generate("Hi", model="test/model", temperature=0, stop="\n")

    assert penstock.text_of(response) == "Hello there."
    assert response.finish_reason == v1.FINISH_REASON_STOP
    assert server.calls[0].request == v1.GenerateRequest(
        model="test/model", prompt="Hi", sampling=v1.Sampling(temperature=0, stop=["\n"])
    )


async def test_a_conversation_with_a_tool(client: penstock.aio.Client, server: Server) -> None:
    async def call_a_tool(request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        part = penstock.tool_call("call_1", "weather", {"city": "Oslo"})
        return v1.GenerateResponse(message=penstock.assistant(part))

    server.generate = call_a_tool
    messages = [penstock.user("What is the weather in Oslo?")]
    tool = {"name": "weather", "parameters": {"type": "object"}}
    response = await client.generate(messages, model="test/model", tools=[tool])
    messages.append(response.message)
    for call in penstock.tool_calls_of(response):
        messages.append(penstock.tool_result(call, "rain"))
    await client.generate(messages, model="test/model", tools=[tool])

    roles = [message.role for message in server.calls[1].request.messages]
    assert roles == [v1.ROLE_USER, v1.ROLE_ASSISTANT, v1.ROLE_TOOL]
    assert server.calls[1].request.messages[2].parts[0].tool_result.tool_call_id == "call_1"


async def test_embed(client: penstock.aio.Client, server: Server) -> None:
    response = await client.embed(["a", "bcd"], model="test/model", dimensions=2)

    assert [embedding.values[0] for embedding in response.embeddings] == [1, 3]
    assert server.calls[0].request.dimensions == 2
    assert len((await client.embed("one", model="test/model")).embeddings) == 1


async def test_models(client: penstock.aio.Client, server: Server) -> None:
    listed = await client.list_models("local")
    model = await client.get_model("local/tiny")
    unloaded = await client.unload_model("local/tiny")

    assert [found.name for found in listed.models] == ["local/tiny"]
    assert [failure.provider for failure in listed.failures] == ["ollama"]
    assert model.context_length == 1024
    assert unloaded.state == v1.MODEL_STATE_UNLOADED
    assert [call.method for call in server.calls] == ["list_models", "get_model", "unload_model"]
    assert server.calls[0].request.provider == "local"


async def test_load_model_tells_how_far_it_is(client: penstock.aio.Client) -> None:
    steps = [step async for step in client.load_model("local/tiny")]

    assert [step.progress for step in steps] == [0.5, 1]
    assert steps[-1].model.state == v1.MODEL_STATE_READY


async def test_pull_model_tells_how_far_it_is(client: penstock.aio.Client) -> None:
    steps = [step async for step in client.pull_model("ollama/tiny")]

    assert [step.completed_bytes for step in steps] == [0, 50, 0]
    assert steps[-1].model.state == v1.MODEL_STATE_READY


async def test_health(client: penstock.aio.Client, server: Server) -> None:
    await server.health.set("openai", HealthCheckResponse.NOT_SERVING)

    assert await client.health() == "SERVING"
    assert await client.health("openai") == "NOT_SERVING"
    assert await client.health("nobody") == "SERVICE_UNKNOWN"


# --- streams ----------------------------------------------------------------------------------


async def test_stream_brings_events_and_then_the_response(client: penstock.aio.Client) -> None:
    async with client.stream("Hi", model="test/model") as stream:
        kinds = [event.WhichOneof("event") async for event in stream]

    assert kinds[0] == "started"
    assert kinds[-1] == "completed"
    assert stream.response is not None
    assert penstock.text_of(stream.response) == "Hello there."


async def test_text_leaves_out_everything_else(client: penstock.aio.Client) -> None:
    stream = client.stream("Hi", model="test/model")

    assert [piece async for piece in stream.text()] == ["Hello ", "there."]
    assert stream.response is not None


async def test_events_arrive_as_they_are_sent(client: penstock.aio.Client, server: Server) -> None:
    go_on = asyncio.Event()

    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        yield text_delta("first")
        await go_on.wait()
        yield v1.StreamGenerateResponse(completed=v1.GenerateResponse())

    server.stream = stream
    async with client.stream("Hi", model="test/model") as events:
        async for event in events:
            if event.part_delta.text == "first":
                go_on.set()  # nothing else lets the server finish
    assert events.response is not None


async def test_a_stream_without_completed_is_an_error(
    client: penstock.aio.Client, server: Server
) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        yield text_delta("half of")

    server.stream = stream
    events = client.stream("Hi", model="test/model")
    pieces = []
    with pytest.raises(penstock.InternalError, match="completed"):
        async for piece in events.text():
            pieces.append(piece)

    assert pieces == ["half of"]
    assert events.response is None


# --- ending early -----------------------------------------------------------------------------


@pytest.fixture
def endless(server: Server) -> None:
    """The server sends one piece of text and then waits until it is cut off."""

    async def stream(request: Any, context: Any) -> AsyncIterator[v1.StreamGenerateResponse]:
        yield text_delta("first")
        await for_ever()

    async def generate(request: Any, context: Any) -> v1.GenerateResponse:
        await for_ever()
        return v1.GenerateResponse()

    async def load(request: Any, context: Any) -> AsyncIterator[v1.LoadModelResponse]:
        yield v1.LoadModelResponse(progress=0.1)
        await for_ever()

    server.stream, server.generate, server.load_model = stream, generate, load


@pytest.mark.usefixtures("endless")
async def test_breaking_out_of_the_loop_cancels(
    client: penstock.aio.Client, server: Server
) -> None:
    async for _event in client.stream("Hi", model="test/model"):
        break
    await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_breaking_out_of_the_text_cancels(
    client: penstock.aio.Client, server: Server
) -> None:
    async for _piece in client.stream("Hi", model="test/model").text():
        break
    await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_leaving_the_context_cancels(client: penstock.aio.Client, server: Server) -> None:
    async with client.stream("Hi", model="test/model") as stream:
        async for _event in stream:
            break
    await server.was_cut_off()
    assert stream.response is None


@pytest.mark.usefixtures("endless")
async def test_load_model_can_be_left(client: penstock.aio.Client, server: Server) -> None:
    async with client.load_model("local/tiny") as steps:
        async for _step in steps:
            break
    await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_cancel_ends_the_iteration(client: penstock.aio.Client, server: Server) -> None:
    stream = client.stream("Hi", model="test/model")
    seen = []
    with pytest.raises(penstock.CancelledCallError) as raised:
        async for event in stream:
            seen.append(event.part_delta.text)
            stream.cancel()

    assert seen == ["first"]
    assert raised.value.code is grpc.StatusCode.CANCELLED
    await server.was_cut_off()
    stream.cancel()  # again does nothing


async def test_cancel_after_the_end_changes_nothing(client: penstock.aio.Client) -> None:
    stream = client.stream("Hi", model="test/model")
    async for _event in stream:
        pass
    stream.cancel()
    assert stream.response is not None


@pytest.mark.usefixtures("endless")
async def test_closing_the_client_ends_its_calls(
    client: penstock.aio.Client, server: Server
) -> None:
    stream = client.stream("Hi", model="test/model")
    seen = []
    with pytest.raises(penstock.CancelledCallError):
        async for event in stream:
            seen.append(event.part_delta.text)
            await client.close()

    assert seen == ["first"]
    await server.was_cut_off()


@pytest.mark.parametrize("call", ["generate", "stream"])
@pytest.mark.usefixtures("endless")
async def test_cancelling_a_task_is_plain_cancellation(
    call: str, server: Server
) -> None:  # aio only: threads have no such thing
    async with penstock.aio.Client(server.target) as client:
        arrived = asyncio.Event()

        async def never(request: Any, context: Any) -> v1.GenerateResponse:
            arrived.set()
            await for_ever()
            return v1.GenerateResponse()

        async def ask() -> None:
            if call == "generate":
                await client.generate("Hi", model="test/model")
            async for _event in client.stream("Hi", model="test/model"):
                arrived.set()

        server.generate = never
        task = asyncio.create_task(ask())
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_asyncio_timeout_stays_a_timeout(server: Server) -> None:
    async with penstock.aio.Client(server.target) as client:
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.2):
                await client.generate("Hi", model="test/model")
        assert not isinstance(raised.value, penstock.PenstockError)
        await server.was_cut_off()


# --- deadlines --------------------------------------------------------------------------------


@pytest.mark.usefixtures("endless")
async def test_a_deadline_ends_a_call(client: penstock.aio.Client, server: Server) -> None:
    with pytest.raises(penstock.DeadlineExceededError) as raised:
        await client.generate("Hi", model="test/model", timeout=0.2)

    assert isinstance(raised.value, TimeoutError)
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.was_cut_off()


@pytest.mark.usefixtures("endless")
async def test_a_deadline_ends_a_stream(client: penstock.aio.Client, server: Server) -> None:
    seen = []
    with pytest.raises(penstock.DeadlineExceededError):
        async for piece in client.stream("Hi", model="test/model", timeout=0.5).text():
            seen.append(piece)

    assert seen == ["first"]
    await server.was_cut_off()


async def test_whose_timeout_counts(connect: Connect, server: Server) -> None:
    client = connect(server.target, timeout=50)
    await client.generate("Hi", model="m")
    await client.generate("Hi", model="m", timeout=20)
    await client.generate("Hi", model="m", timeout=math.inf)
    await connect(server.target).generate("Hi", model="m")

    remaining = [call.time_remaining for call in server.calls]
    assert remaining[0] == pytest.approx(50, abs=5)
    assert remaining[1] == pytest.approx(20, abs=5)
    assert remaining[2:] == [None, None]


# --- the client's own life --------------------------------------------------------------------


async def test_a_closed_client_says_so(client: penstock.aio.Client) -> None:
    await client.generate("Hi", model="m")
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.generate("Hi", model="m")
    with pytest.raises(RuntimeError, match="closed"):
        client.stream("Hi", model="m")


async def test_a_context_can_be_entered_again(connect: Connect, server: Server) -> None:
    client = connect(server.target)
    for _ in range(2):
        async with client:
            assert await client.health() == "SERVING"


def test_repr_holds_no_token() -> None:
    for kind in (penstock.Client, penstock.aio.Client):
        client = kind("127.0.0.1:1", token="secret")
        assert "127.0.0.1:1" in repr(client)
        assert "secret" not in repr(client)
        assert "secret" not in repr(client._settings)


async def test_one_sync_client_in_many_threads(server: Server) -> None:
    barrier = threading.Barrier(8)
    texts: list[str] = []

    def work(client: penstock.Client) -> None:
        barrier.wait(10)  # all connect at once
        for _ in range(10):
            texts.append(penstock.text_of(client.generate("Hi", model="m")))
            texts.append("".join(client.stream("Hi", model="m").text()))

    with penstock.Client(server.target) as client:
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    assert texts == ["Hello there."] * 160


async def test_one_aio_client_does_many_calls_at_once(server: Server) -> None:
    async with penstock.aio.Client(server.target) as client:

        async def ask() -> str:
            return "".join([piece async for piece in client.stream("Hi", model="m").text()])

        assert await asyncio.gather(*(ask() for _ in range(50))) == ["Hello there."] * 50


SEVERAL_RUNS = """
import asyncio, sys
import penstock

client = penstock.aio.Client(sys.argv[1])

async def whole():
    response = await client.generate("Hi", model="m")
    print(penstock.text_of(response))

async def left_half_way():
    async for piece in client.stream("Hi", model="m").text():
        print(piece)
        break

async def cancelled():
    task = asyncio.create_task(client.generate("Hi", model="m"))
    await asyncio.sleep(0)

async def closed():
    async with client:
        await whole()

for main in (whole, left_half_way, whole, cancelled, whole, left_half_way, closed, closed):
    asyncio.run(main())
"""


async def test_one_aio_client_in_several_event_loops(run_python: Run, server: Server) -> None:
    argv = ("-W", "error", "-X", "dev", "-c", SEVERAL_RUNS, server.target)
    finished = await run_python(*argv)

    assert finished.err == ""  # no "Task was destroyed", no "unclosed", no "Event loop is closed"
    whole, half = "Hello there.", "Hello "
    assert finished.out.splitlines() == [whole, half, whole, whole, half, whole, whole]
    assert finished.code == 0


IMPORT = """
import sys, threading
import penstock
assert threading.active_count() == 1, threading.enumerate()
print(penstock.__version__, penstock.aio.Client.__module__)
print(*sorted({"torch", "transformers", "pydantic", "aiohttp", "httpx"} & set(sys.modules)))
client = penstock.Client(token="secret"), penstock.aio.Client()  # connects nowhere yet
assert threading.active_count() == 1, threading.enumerate()
"""


async def test_importing_starts_nothing(run_python: Run) -> None:
    finished = await run_python("-W", "error", "-c", IMPORT)

    assert finished.err == ""
    assert finished.out == "0.1.0 penstock.aio\n\n"


def test_public_names() -> None:
    constants_first = sorted(penstock.__all__, key=lambda name: (not name.isupper(), name))
    assert penstock.__all__ == constants_first  # as ruff wants it
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = penstock.nothing_like_it  # type: ignore[attr-defined]
