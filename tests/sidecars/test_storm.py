"""Everything at once, on the wire: what each caller gets is what it would have got alone."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator

import grpc
import pytest
from penstock import v1

from tests.sidecars import random_models
from tests.support.processes import ServerProcess, sidecar

CALLS = 200
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
)
TEXT = "the quick brown fox jumps over a lazy dog while water runs to the turbines below"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = random_models.save(tmp_path_factory.mktemp("storm"), max_position_embeddings=512)
    flags = ["--model", f"random={directory}", "--max-queue", "1000", "--prefill-chunk", "32"]
    with sidecar(*flags, "--threads", "1", "--dtype", "float32") as running:
        yield running.ready()


def question(number: int) -> v1.GenerateRequest:
    """A request with parameters of its own; some begin alike."""
    rng = random.Random(number)
    beginning = " ".join(WORDS[: rng.choice([0, 0, 6, 12])])
    prompt = " ".join([beginning, *rng.choices(WORDS, k=rng.randint(1, 40))])
    sampling = v1.Sampling(max_output_tokens=rng.randint(1, 60))
    if rng.random() < 0.7:
        sampling.temperature = rng.choice([0.5, 1.0, 1.5])
        sampling.seed = number
    else:
        sampling.temperature = 0
    if rng.random() < 0.3:
        sampling.top_p = 0.8
    if rng.random() < 0.3:
        sampling.top_k = 20
    if rng.random() < 0.2:
        sampling.min_p = 0.05
    if rng.random() < 0.3:
        sampling.repetition_penalty = 1.3
    if rng.random() < 0.2:
        sampling.presence_penalty = 0.7
        sampling.frequency_penalty = 0.4
    if rng.random() < 0.2:
        sampling.logit_bias[rng.randint(20, 300)] = 5
    if rng.random() < 0.3:
        sampling.stop.extend(rng.choices("aeiou", k=2))
    request = v1.GenerateRequest(model="local/random", prompt=prompt, sampling=sampling)
    if rng.random() < 0.2:
        request.logprobs.top_logprobs = 2
    elif rng.random() < 0.2:
        request.response_format.json_schema.schema = SCHEMA
    return request


def told(answer: v1.GenerateResponse) -> tuple[str, int, str, int, tuple[str, ...]]:
    """What must not depend on others: text, end, stop string, tokens, and names of logprobs."""
    text = "".join(part.text for part in answer.message.parts)
    names = tuple(logprob.token for logprob in answer.logprobs)
    return text, answer.finish_reason, answer.stop_sequence, answer.usage.output_tokens, names


async def test_two_hundred_at_once_get_what_each_gets_alone(
    process: ServerProcess, report: Callable[[str], None]
) -> None:
    async with grpc.aio.insecure_channel(process.address) as channel:
        generation = v1.GenerationServiceStub(channel)
        models = v1.ModelServiceStub(channel)

        async def once(number: int) -> v1.GenerateResponse | None:
            """A whole answer, unary or streamed; None where it was left or its time was up."""
            rng = random.Random(-number)
            fate = rng.random()
            await asyncio.sleep(rng.random())  # they come in the course of a second
            if fate < 0.15:
                call = generation.Generate(question(number), timeout=rng.uniform(0.01, 0.5))
                if await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return None
                return await call
            if fate < 0.5:
                return await generation.Generate(question(number))
            request = v1.StreamGenerateRequest(request=question(number))
            leave_after = rng.randint(1, 20) if fate < 0.7 else None
            stream = generation.StreamGenerate(request)
            seen = 0
            async for event in stream:
                seen += 1
                if event.HasField("completed"):
                    return event.completed
                if seen == leave_after:
                    stream.cancel()
                    return None
            raise AssertionError("a stream ended without an end")

        together = await asyncio.gather(*map(once, range(CALLS)))
        stats = v1.EngineStats()

        async def at_rest() -> bool:
            answer = await models.GetModel(v1.GetModelRequest(model="local/random"))
            stats.CopyFrom(answer.model.engine)
            return not (stats.running_requests or stats.waiting_requests or stats.kv_cache_bytes)

        async with asyncio.timeout(20):
            while not await at_rest():  # noqa: ASYNC110 # it is another process's doing
                await asyncio.sleep(0.01)
        whole = {number: answer for number, answer in enumerate(together) if answer is not None}
        different = [
            number
            for number, answer in whole.items()
            if told(await generation.Generate(question(number))) != told(answer)
        ]
    report(
        f"{CALLS} at once: {len(whole)} whole, {CALLS - len(whole)} left or too late; "
        f"{len(different)} differ from what they get alone; afterwards {stats.running_requests} "
        f"running, {stats.waiting_requests} waiting, {stats.kv_cache_bytes} bytes of keys"
    )
    assert len(whole) > CALLS // 2
    assert len(whole) < CALLS
    assert different == []
