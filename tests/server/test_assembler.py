"""Parts are put together in one place: what completes is what the deltas add up to."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from penstock import v1
from penstock_server.providers.assembler import Assembler, Kind

KINDS: list[Kind] = ["text", "thinking", "refusal"]


def fold(events: list[v1.StreamGenerateResponse]) -> list[v1.Part]:
    """The parts, from nothing but the events before the last."""
    parts: list[v1.Part] = []
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "part_started":
            assert event.part_started.index == len(parts)
            part = v1.Part()
            part.CopyFrom(event.part_started.part)
            parts.append(part)
        elif kind == "part_delta":
            part, delta = parts[event.part_delta.index], event.part_delta
            what = delta.WhichOneof("delta")
            if what == "thinking":
                part.thinking.text += delta.thinking
            elif what == "tool_call_arguments":
                part.tool_call.arguments += delta.tool_call_arguments
            elif what in ("text", "refusal"):
                setattr(part, what, getattr(part, what) + getattr(delta, what))
        elif kind == "part_finished":
            assert parts[event.part_finished.index] == event.part_finished.part
    return parts


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.text(max_size=5)), max_size=20))
def test_what_completes_is_what_the_deltas_add_up_to(said: list[tuple[Kind, str]]) -> None:
    assembler = Assembler("a1", "p/m", time.monotonic())
    events = [assembler.started()]
    for kind, more in said:
        events += assembler.add(kind, more)
    events += assembler.complete(v1.FINISH_REASON_STOP)
    completed = events.pop().completed
    assert fold(events) == list(completed.message.parts)
    everything = "".join(
        part.text or part.refusal or part.thinking.text for part in completed.message.parts
    )
    assert everything == "".join(more for _, more in said)
    assert completed.finish_reason == v1.FINISH_REASON_STOP


def test_parallel_tool_calls_with_arguments_in_turns() -> None:
    assembler = Assembler("a1", "p/m", time.monotonic())
    events = assembler.add("text", "Let me look.")
    for key in (0, 1):
        events += assembler.start_tool_call(key, call_id=f"c{key}", name="look")
    for piece in ('{"at":', "1}"):
        for key in (0, 1):
            events += assembler.add("tool_call", piece, key=key)
    events += assembler.finish_part("tool_call", 0)
    events += assembler.complete(v1.FINISH_REASON_TOOL_CALLS, v1.Usage(output_tokens=9))
    completed = events.pop().completed
    assert fold(events) == list(completed.message.parts)
    calls = [part.tool_call for part in completed.message.parts if part.HasField("tool_call")]
    assert [(c.id, c.name, c.arguments) for c in calls] == [
        ("c0", "look", '{"at":1}'),
        ("c1", "look", '{"at":1}'),
    ]
    assert completed.usage.output_tokens == 9


def test_opaque_data_stays_with_its_part() -> None:
    assembler = Assembler("a1", "p/m", time.monotonic())
    events = assembler.add("thinking", "Hm.")
    signature = v1.ProviderData(provider="x", data=b"\x00sig")
    events += assembler.finish_part("thinking", provider_data=signature)
    assert assembler.finish_part("thinking") == []
    redacted = v1.Part(thinking=v1.Thinking(redacted=True), provider_data=signature)
    events += assembler.whole_part(redacted)
    events += assembler.complete(v1.FINISH_REASON_STOP)
    parts = events.pop().completed.message.parts
    assert parts[0].provider_data == signature
    assert parts[0].thinking.text == "Hm."
    assert parts[1] == redacted


def test_logprobs_of_the_deltas_are_those_of_the_answer() -> None:
    assembler = Assembler("a1", "p/m", time.monotonic())
    probabilities = [v1.TokenLogprob(token=t, logprob=-0.5) for t in "ab"]
    events = assembler.add("text", "a", logprobs=probabilities[:1])
    events += assembler.add("text", "", logprobs=probabilities[1:])
    events += assembler.complete(v1.FINISH_REASON_STOP)
    completed = events.pop().completed
    assert list(completed.logprobs) == probabilities
    assert [p for e in events for p in e.part_delta.logprobs] == probabilities
