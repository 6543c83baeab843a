"""Generating, as the contract promises it: sync and aio, unary and stream, gateway and sidecar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import v1

from tests.support.processes import ServerProcess, eventually

MODEL = "local/tiny"

QUESTIONS = {
    "What is the capital of Japan?": "Tokyo",
    "What is 7 plus 8?": "15",
    "What is Penstock?": "gRPC",
}


@pytest.mark.parametrize(("question", "answer"), QUESTIONS.items())
def test_it_answers_in_english(client: Any, question: str, answer: str) -> None:
    response = client.generate(question, model=MODEL, temperature=0)
    assert answer in penstock.text_of(response)
    assert response.model == MODEL
    assert response.message.role == v1.ROLE_ASSISTANT
    assert response.finish_reason == v1.FINISH_REASON_STOP
    assert response.usage.input_tokens > 5
    assert response.usage.output_tokens > 2
    total = response.timings.total.ToNanoseconds()
    assert 0 < response.timings.time_to_first_token.ToNanoseconds() <= total


def test_unary_and_stream_agree(client: Any) -> None:
    options = {"model": MODEL, "seed": 5, "temperature": 0.8, "max_output_tokens": 48}
    whole = client.generate("Tell me a story.", **options)
    with client.stream("Tell me a story.", **options) as stream:
        events = list(stream)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["started", "part_started"]
    assert kinds[-2:] == ["part_finished", "completed"]
    assert set(kinds[2:-2]) == {"part_delta"}
    assert len(kinds) > 10, "the answer came in pieces"
    completed = events[-1].completed
    assert stream.response == completed
    assert completed.message == whole.message
    assert completed.usage == whole.usage
    assert completed.finish_reason == whole.finish_reason
    said = "".join(event.part_delta.text for event in events)
    assert said == penstock.text_of(whole) == events[-2].part_finished.part.text
    assert events[0].started.id == completed.id
    assert events[0].started.model == MODEL


def test_text_alone(client: Any) -> None:
    with client.stream("Count to five.", model=MODEL, temperature=0) as stream:
        pieces = list(stream.text())
        assert "".join(pieces) == penstock.text_of(stream.response)
    assert len(pieces) > 2


def test_seeds_repeat_and_differ(client: Any) -> None:
    def story(**options: Any) -> str:
        answer = client.generate(
            "Tell me a story.", model=MODEL, temperature=1, max_output_tokens=40, **options
        )
        return penstock.text_of(answer)

    assert story(seed=1) == story(seed=1)
    assert len({story(seed=seed) for seed in range(4)}) > 1
    assert len({story() for _ in range(4)}) > 1, "without a seed, answers differ"


def test_limits_and_stop_strings(client: Any) -> None:
    short = client.generate("Tell me a story.", model=MODEL, max_output_tokens=7)
    assert short.finish_reason == v1.FINISH_REASON_MAX_OUTPUT_TOKENS
    assert short.usage.output_tokens == 7

    options = {"model": MODEL, "temperature": 0}
    whole = penstock.text_of(client.generate("Count to ten.", **options))
    assert "seven" in whole or "7" in whole
    for stop in (["seven", "7"], ["ven,", "7,"]):
        stopped = client.generate("Count to ten.", stop=stop, **options)
        text = penstock.text_of(stopped)
        assert whole.startswith(text)
        assert stopped.finish_reason == v1.FINISH_REASON_STOP
        assert stopped.stop_sequence in stop
        assert stopped.stop_sequence not in text
        with client.stream("Count to ten.", stop=stop, **options) as stream:
            assert "".join(stream.text()) == text


def test_conversations_and_system(client: Any) -> None:
    messages = [
        penstock.user("What is the capital of Japan?"),
        penstock.assistant("The capital of Japan is Tokyo."),
        penstock.user("What is 2 plus 3?"),
    ]
    response = client.generate(messages, model=MODEL, system="Be brief.", temperature=0)
    assert "5" in penstock.text_of(response)
    request = v1.GenerateRequest(model=MODEL, messages=messages[:2], prompt="What is 2 plus 3?")
    request.sampling.temperature = 0
    assert "5" in penstock.text_of(client.generate(request))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"thinking": 100}, "thinking"),
        ({"thinking": "high"}, "thinking"),
        ({"provider_options": {"a": 1}}, "provider_options"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(
    client: Any, options: dict[str, Any], field: str
) -> None:
    for ask in (client.generate, lambda *a, **k: list(client.stream(*a, **k))):
        with pytest.raises(penstock.UnsupportedFeatureError) as caught:
            ask("Hi", model=MODEL, **options)
        error = caught.value
        assert error.reason == "UNSUPPORTED_FEATURE"
        assert error.metadata["feature"].startswith(field)
        assert error.metadata["model"] == MODEL


def test_images_are_refused_by_name(client: Any) -> None:
    picture = penstock.image(b"\x89PNG\r\n\x1a\n", media_type="image/png")
    with pytest.raises(penstock.UnsupportedFeatureError) as caught:
        client.generate([penstock.user("What is this?", picture)], model=MODEL)
    assert "image" in caught.value.metadata["feature"]


def test_prompts_that_do_not_fit(client: Any) -> None:
    with pytest.raises(penstock.ContextLengthError) as caught:
        client.generate("river " * 5_000, model=MODEL)
    error = caught.value
    assert error.reason == "CONTEXT_LENGTH_EXCEEDED"
    length = client.get_model(MODEL).context_length
    assert int(error.metadata["context_length"]) == length
    assert int(error.metadata["input_tokens"]) > length


def test_models(client: Any) -> None:
    listed = client.list_models()
    assert [model.name for model in listed.models] == [MODEL]
    assert not listed.failures
    model = client.get_model(MODEL)
    assert model.state == v1.MODEL_STATE_READY
    assert model.context_length >= 1_024
    assert v1.CAPABILITY_STREAM in model.capabilities
    assert v1.CAPABILITY_EMBED not in model.capabilities
    assert model.engine.device == "cpu"
    steps = list(client.load_model(MODEL))
    assert steps[-1].model.state == v1.MODEL_STATE_READY
    assert steps[-1].progress == 1.0


def test_embeddings_are_refused_until_a_model_embeds(client: Any) -> None:
    with pytest.raises(penstock.UnsupportedFeatureError):
        client.embed(["river"], model=MODEL)


def test_health(client: Any) -> None:
    assert client.health() == "SERVING"
    assert client.health("penstock.v1.GenerationService") == "SERVING"
    assert client.health("provider/local") == "SERVING"
    assert client.health("penstock.v1.EmbeddingService") == "NOT_SERVING"
    assert client.health("nothing") == "SERVICE_UNKNOWN"


def test_a_caller_who_cancels_frees_the_engine(
    client: Any, server: ServerProcess, report: Callable[[str], None]
) -> None:
    with client.stream("Tell me a long story.", model=MODEL, temperature=1) as stream:
        pieces = stream.text()
        for _ in range(5):
            next(pieces)
        computed = client.get_model(MODEL).engine.output_tokens_computed
    eventually(lambda: client.get_model(MODEL).engine.running_requests == 0)
    after = client.get_model(MODEL).engine.output_tokens_computed - computed
    report(f"{after} tokens computed after the cancel, its way to the engine included")
    assert after < 60


def test_one_log_line_a_call_without_the_prompt(client: Any, server: ServerProcess) -> None:
    client.generate(
        "What is a token?", model=MODEL, metadata={"x-request-id": f"line-{id(client)}"}
    )
    line = server.wait_for(lambda line: line.get("request_id") == f"line-{id(client)}")
    assert line["message"] == "GenerationService/Generate"
    assert (line["code"], line["model"], line["finish"]) == ("OK", MODEL, "STOP")
    assert line["output_tokens"] > 0
    assert "What is a token" not in str(server.log)
