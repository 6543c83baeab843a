"""The embedded model held to schemas, on the wire: valid, or cut and said to be."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable

import grpc
from jsonschema import Draft202012Validator
from penstock import v1

from tests.sidecars.test_grammar import random_schema
from tests.support.processes import ServerProcess

SCHEMAS = 100
TOKENS = 200


async def test_whatever_the_model_writes_is_valid_or_cut(
    gateway_process: ServerProcess, report: Callable[[str], None]
) -> None:
    ends: Counter[v1.FinishReason.ValueType] = Counter()

    async def one(seed: int, generation: v1.GenerationServiceAsyncStub) -> None:
        schema = random_schema(random.Random(seed))
        request = v1.GenerateRequest(model="local/tiny", prompt="Tell me of sleep, as JSON.")
        request.response_format.json_schema.schema = json.dumps(schema)
        request.sampling.max_output_tokens = TOKENS
        request.sampling.seed = seed
        answer = await generation.Generate(request, timeout=100)
        text = "".join(part.text for part in answer.message.parts)
        ends[answer.finish_reason] += 1
        if answer.finish_reason == v1.FINISH_REASON_STOP:
            Draft202012Validator(schema).validate(json.loads(text))
        else:
            assert answer.finish_reason == v1.FINISH_REASON_MAX_OUTPUT_TOKENS
            assert answer.usage.output_tokens == TOKENS

    async with grpc.aio.insecure_channel(gateway_process.address) as channel:
        generation = v1.GenerationServiceStub(channel)
        await asyncio.gather(*(one(seed, generation) for seed in range(SCHEMAS)))
    valid, cut = ends[v1.FINISH_REASON_STOP], ends[v1.FINISH_REASON_MAX_OUTPUT_TOKENS]
    report(f"{SCHEMAS} schemas: {valid} answers valid, {cut} cut at {TOKENS} tokens")
    assert valid >= SCHEMAS * 0.8
