"""The provider: models' states, health, and answers as events; on the wire where it matters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial

import grpc
import pytest
from penstock import v1
from penstock.errors import from_rpc_error
from penstock_server.errors import Failure
from penstock_server.local.engine import Engine
from penstock_server.local.provider import LocalProvider
from penstock_server.local.serial import SerialEngine
from penstock_server.providers import Call

from tests.sidecars.counting import PATIENCE, WARM_UP, CountingBackend
from tests.sidecars.vocabularies import chat_tokenizer
from tests.support.scripted import serving

CALL = Call("test")
GONE = Failure(v1.ERROR_REASON_MODEL_NOT_FOUND, "no such directory")


class Models:
    """A provider whose models count, and what each of its models' engines was made of."""

    def __init__(
        self, preload: Collection[str] | None = None, **options: Mapping[str, object]
    ) -> None:
        self.options = options
        self.backends: dict[str, list[CountingBackend]] = {name: [] for name in options}
        self.health: list[bool] = []
        self.made = asyncio.Event()
        """Set when an engine has been made."""
        self.provider = LocalProvider(
            "local", {name: partial(self._engine, name) for name in options}, preload
        )

    def _engine(self, name: str) -> Engine:
        backend = CountingBackend(**self.options[name])  # type: ignore[arg-type]
        backend.allow_all()
        self.backends[name].append(backend)
        self.made.set()
        return SerialEngine(backend, name, max_waiting=2)

    def backend(self, name: str = "a") -> CountingBackend:
        return self.backends[name][-1]

    async def state(self, name: str = "a") -> v1.ModelState.ValueType:
        return (await self.provider.get_model(name, CALL)).state

    async def load(self, name: str = "a") -> list[v1.LoadModelResponse]:
        async with aclosing(self.provider.load_model(name, CALL)) as steps:
            return [v1.LoadModelResponse.FromString(s.SerializeToString()) async for s in steps]

    async def answer(
        self, name: str = "a", limit: int = 3, stop: Collection[str] = ()
    ) -> v1.GenerateResponse:
        return await self.provider.generate(name, question("Hi", limit, stop), CALL)


def question(prompt: str = "Hi", limit: int = 3, stop: Collection[str] = ()) -> v1.GenerateRequest:
    sampling = v1.Sampling(max_output_tokens=limit, stop=stop)
    return v1.GenerateRequest(model="local/a", prompt=prompt, sampling=sampling)


@asynccontextmanager
async def started(
    preload: Collection[str] | None = None, **options: Mapping[str, object]
) -> AsyncIterator[Models]:
    models = Models(preload, **(options or {"a": {}}))
    await models.provider.start(models.health.append)
    try:
        async with asyncio.timeout(PATIENCE):
            yield models
    finally:
        for backend in (b for backends in models.backends.values() for b in backends):
            backend.may_load.set()
        await models.provider.close()


async def test_an_answer_in_events() -> None:
    async with (
        started() as models,
        aclosing(models.provider.stream("a", question(), CALL)) as events,
    ):
        heard = [event async for event in events]
    kinds = [event.WhichOneof("event") for event in heard]
    assert kinds[:2] == ["started", "part_started"]
    assert kinds[-2:] == ["part_finished", "completed"]
    answer = heard[-1].completed
    said = "".join(e.part_delta.text for e in heard if e.WhichOneof("event") == "part_delta")
    assert answer.message.parts[0].text == said != ""
    assert answer.id == heard[0].started.id != ""
    assert answer.model == "local/a"
    assert answer.finish_reason == v1.FINISH_REASON_MAX_OUTPUT_TOKENS
    assert answer.provider_finish_reason == "max_output_tokens"
    read = len(chat_tokenizer().encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"))
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (read, 3)
    assert 0 < answer.timings.queued.ToNanoseconds() < answer.timings.total.ToNanoseconds()


async def test_ids_are_unique_and_stop_strings_named() -> None:
    async with started() as models:
        first, second = await models.answer(limit=20), await models.answer(limit=20)
        assert first.id != second.id
        text = first.message.parts[0].text
        stopped = await models.answer(limit=20, stop=[text[3:5]])
    assert stopped.stop_sequence == text[3:5]
    assert stopped.message.parts[0].text == text[: text.index(text[3:5])]
    assert stopped.finish_reason == v1.FINISH_REASON_STOP


async def test_a_preloaded_model_is_healthy_once_it_is_warm() -> None:
    async with started(a={"wait_to_load": True}) as models:
        assert models.health == []
        async with aclosing(models.provider.load_model("a", CALL)) as steps_so_far:
            async for step in steps_so_far:
                if step.stage == "counting to three":
                    break
        loading = asyncio.create_task(models.load())
        model = await models.provider.get_model("a", CALL)
        assert model.state == v1.MODEL_STATE_LOADING
        assert (model.load_progress, model.state_message) == (0.1, "counting to three")
        assert not model.HasField("engine")
        assert models.health == []
        models.backend().may_load.set()
        steps = await loading
        assert [step.progress for step in steps] == sorted(step.progress for step in steps)
        assert (steps[-1].progress, steps[-1].model.state) == (1.0, v1.MODEL_STATE_READY)
        assert models.health == [True]
        assert len(models.backend().computed) == WARM_UP
        [model] = await models.provider.list_models(CALL)
        assert model.name == "local/a"
        assert set(model.capabilities) == {
            v1.CAPABILITY_GENERATE,
            v1.CAPABILITY_STREAM,
            v1.CAPABILITY_TOOLS,
            v1.CAPABILITY_THINKING,
            v1.CAPABILITY_JSON_OBJECT,
            v1.CAPABILITY_JSON_SCHEMA,
            v1.CAPABILITY_LOGPROBS,
        }
        assert model.capability_source == v1.CAPABILITY_SOURCE_PROVIDER
        assert (model.context_length, model.engine.device) == (100, "abacus")
        assert [step.model.state for step in await models.load()] == [v1.MODEL_STATE_READY]
    assert len(models.backends["a"]) == 1  # everybody waited for the same load


async def test_a_sidecar_whose_only_model_fails_does_not_serve_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        async with started(a={"fail_to_load": GONE}) as models:
            with pytest.raises(Failure) as caught:
                await models.answer()
            assert caught.value.reason == v1.ERROR_REASON_MODEL_NOT_FOUND
            assert caught.value.metadata["model"] == "local/a"
            model = await models.provider.get_model("a", CALL)
            assert (model.state, model.state_message) == (
                v1.MODEL_STATE_FAILED,
                "no such directory",
            )
            assert models.health == [False]
            with pytest.raises(Failure):
                await models.answer()
            assert len(models.backends["a"]) == 1, "a call loaded again what cannot be loaded"
            # Its operator has put the directory in place, and says so.
            models.options["a"] = {}
            assert (await models.load())[-1].model.state == v1.MODEL_STATE_READY
            assert models.health == [False, True]
            await models.answer()
    assert "model cannot be loaded" in caplog.text


async def test_an_engine_that_cannot_even_be_made(caplog: pytest.LogCaptureFixture) -> None:
    async with started(preload=(), a={"no_such_option": 1}) as models:
        with caplog.at_level(logging.CRITICAL), pytest.raises(Failure) as caught:
            await models.load()
        assert caught.value.reason == v1.ERROR_REASON_INTERNAL_ERROR
        assert await models.state() == v1.MODEL_STATE_FAILED


async def test_a_failed_model_does_not_take_the_others_along() -> None:
    async with started(a={}, b={"fail_to_load": GONE}) as models:
        await models.answer("a")
        with pytest.raises(Failure):
            await models.load("b")
        assert models.health == [True]


async def test_what_is_not_preloaded_is_loaded_by_the_first_call() -> None:
    async with started(preload=(), a={}) as models:
        assert models.health == [True]
        assert await models.state() == v1.MODEL_STATE_UNLOADED
        await asyncio.gather(models.answer(), models.answer())
        assert await models.state() == v1.MODEL_STATE_READY
        assert len(models.backends["a"]) == 1


async def test_a_caller_that_goes_does_not_stop_a_load() -> None:
    async with started(preload=(), a={"wait_to_load": True}) as models:
        calls = [asyncio.create_task(models.answer()), asyncio.create_task(models.load())]
        await models.made.wait()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        models.backend().may_load.set()
        await models.answer()
        assert len(models.backends["a"]) == 1


async def test_unloading_waits_for_running_answers_and_the_next_call_loads_again() -> None:
    async with started() as models:
        async with aclosing(models.provider.stream("a", question(), CALL)) as events:
            await anext(events)
            unloading = asyncio.create_task(models.provider.unload_model("a", CALL))
            again = asyncio.create_task(models.answer())
            async for event in events:
                if event.WhichOneof("event") == "part_started":
                    assert not unloading.done()
                last = event
            assert last.WhichOneof("event") == "completed"
        assert (await unloading).state == v1.MODEL_STATE_UNLOADED
        assert models.backends["a"][0].unloaded.is_set()
        await again
        assert len(models.backends["a"]) == 2
        assert models.health == [True]


async def test_unloading_what_is_not_in_memory() -> None:
    async with started(preload=(), a={}, b={"fail_to_load": GONE}) as models:
        assert (await models.provider.unload_model("a", CALL)).state == v1.MODEL_STATE_UNLOADED
        with pytest.raises(Failure):
            await models.load("b")
        assert (await models.provider.unload_model("b", CALL)).state == v1.MODEL_STATE_UNLOADED


async def test_unloading_while_loading_waits_for_the_load() -> None:
    async with started(a={"wait_to_load": True}) as models:
        await models.made.wait()
        unloading = asyncio.create_task(models.provider.unload_model("a", CALL))
        await asyncio.sleep(0)
        models.backend().may_load.set()
        assert (await unloading).state == v1.MODEL_STATE_UNLOADED
        assert models.backend().unloaded.is_set()
        assert models.health == [True]


async def test_unknown_models_and_near_misses() -> None:
    async with started(preload=(), tiny={}) as models:
        with pytest.raises(Failure) as caught:
            await models.provider.get_model("tinny", CALL)
        assert caught.value.reason == v1.ERROR_REASON_MODEL_NOT_FOUND
        assert "did you mean 'tiny'?" in caught.value.message
        with pytest.raises(Failure):
            await models.answer("huge")


async def test_closing_while_loading_and_while_answering() -> None:
    models = Models(preload=("a",), a={"wait_to_load": True}, b={})
    await models.provider.start(models.health.append)
    await models.load("b")
    await asyncio.to_thread(models.backend("a").in_load.wait, PATIENCE)
    models.backend("b")._free = False
    async with aclosing(models.provider.stream("b", question(limit=50), CALL)) as events:
        await anext(events)
        closing = asyncio.create_task(models.provider.close())
        await asyncio.sleep(0)
        models.backend("a").may_load.set()
        models.backend("b").allow_all()
        with pytest.raises(Failure) as caught:
            async for _ in events:
                pass
        assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
    await closing
    for name in ("a", "b"):
        with pytest.raises(Failure) as caught:
            await models.answer(name)
        assert caught.value.reason == v1.ERROR_REASON_SHUTTING_DOWN
        assert models.backend(name).unloaded.is_set()


async def test_on_the_wire_a_cancelled_or_expired_call_stops_the_engine() -> None:
    models = Models(a={})
    async with serving(models.provider) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        await stub.Generate(question(), wait_for_ready=True)
        backend = models.backend()
        for end in ("cancel", "deadline"):
            backend._free = False  # from now on it computes what a test allows
            before = len(backend.spent)
            request = v1.StreamGenerateRequest(request=question(limit=80))
            call = stub.StreamGenerate(request, timeout=0.3 if end == "deadline" else None)
            await call.read()
            backend.allow(3)
            await backend.reached(before + 3)
            if end == "cancel":
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    while await call.read():
                        pass
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    while await call.read():
                        pass
                assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await _until_idle(models)
            computed = len(backend.spent)
            backend.allow_all()
            await stub.Generate(question(limit=3))
            assert len(backend.spent) <= computed + 1 + 3


async def test_on_the_wire_a_failure_names_the_model() -> None:
    models = Models(a={})
    async with serving(models.provider) as (_, channel):
        stub = v1.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(question("fox " * 200), wait_for_ready=True)
    error = from_rpc_error(caught.value)
    assert error.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert error.metadata["model"] == "local/a"
    assert error.metadata["context_length"] == "100"


async def _until_idle(models: Models) -> None:
    """Wait until the server has noticed that the call is gone, and has closed the answer."""
    await models.provider._models["a"]._unused.wait()
