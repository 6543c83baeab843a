"""A sidecar's other entrance: whatever comes by a link, other links' calls are not touched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from penstock import v1
from penstock.errors import from_rpc_error
from penstock.link import v1 as link

from tests.fuzz.bounds import FACTOR, tried
from tests.fuzz.likely import requests_of
from tests.fuzz.messages import messages_of
from tests.fuzz.target import resources
from tests.fuzz.wires import alternating, field
from tests.support.processes import ServerProcess, sidecar

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

PATH = "/penstock.link.v1.LinkService/Link"
BOUND = 30.0

_questions = requests_of(v1.GenerateRequest, ("tiny", "tiny", "none"))
_begins: st.SearchStrategy[Any] = st.builds(
    link.Begin,
    call=st.integers(0, 3) | st.integers(0, 2**64 - 1),
    request=_questions,
    stream=st.booleans(),
    credit=st.sampled_from([0, 1, 8, 2**32 - 1]),
    metadata=st.dictionaries(
        st.sampled_from(["x-request-id", "x-penstock-caller", "é", ""]),
        st.text(max_size=5) | st.sampled_from(["a\r\nb", "x" * 9_000]),
        max_size=2,
    ),
)
_requests: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        link.LinkRequest,
        begin=st.lists(_begins, max_size=3),
        credit=st.lists(
            st.builds(link.Credit, call=st.integers(0, 4), events=st.integers(0, 9)), max_size=3
        ),
        cancel=st.lists(st.integers(0, 4), max_size=2),
    ),
    messages_of(
        link.LinkRequest.DESCRIPTOR, {"penstock.v1.Sampling.max_output_tokens": st.integers(1, 12)}
    ),
)
_SPECIAL = (
    b"\xff" * 50,
    b"\x0b" * 5_000,
    field(1, 2, b"\xff"),
    field(1, 2, field(2, 2, field(1, 2, b"\xff"))),
    alternating((1, 2, 12, 1, 2, 5), 300),
    field(3, 2, b"\x01" * 100_000),
    field(2, 2, b"\x08\x01") * 50_000,
)
_raw = st.one_of(
    _requests.map(lambda request: request.SerializeToString()),
    _requests.map(lambda request: request.SerializeToString()),
    _requests.map(lambda request: request.SerializeToString()[:-1]),
    st.sampled_from(_SPECIAL),
    st.binary(max_size=40),
)


class Beside:
    """Another link, on which one question is asked again and again."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._numbers = itertools.count(1)
        self._asked: list[int] = []
        self._send = _Queue()
        self._answers: Iterator[link.LinkResponse] = channel.stream_stream(
            PATH,
            request_serializer=link.LinkRequest.SerializeToString,
            response_deserializer=link.LinkResponse.FromString,
        )(self._send)
        self._known = self.ask()

    def ask(self) -> str:
        """The answer to the question, which is this link's own."""
        number = next(self._numbers)
        sampling = v1.Sampling(max_output_tokens=8, seed=3, temperature=1)
        request = v1.GenerateRequest(model="tiny", prompt="Hi", sampling=sampling)
        self._send.put(link.LinkRequest(begin=[link.Begin(call=number, request=request)]))
        (frame,) = next(self._answers).frames
        assert frame.call == number
        return frame.response.message.parts[0].text

    def same(self) -> None:
        assert self.ask() == self._known

    def close(self) -> None:
        self._send.put(None)


class _Queue:
    """Messages for gRPC to take."""

    def __init__(self) -> None:
        import queue

        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.put = self._queue.put

    def __iter__(self) -> _Queue:
        return self

    def __next__(self) -> Any:
        told = self._queue.get()
        if told is None:
            raise StopIteration
        return told


@pytest.fixture(scope="module")
def alone() -> Iterator[ServerProcess]:
    with sidecar() as process:
        yield process.ready()


@pytest.mark.timeout(60 + 200 * max(1, FACTOR))
def test_whatever_comes_by_a_link(alone: ServerProcess, report: Callable[[str], None]) -> None:
    tried_messages = 0
    codes: dict[str, int] = {}
    before: tuple[int, int] | None = None
    with grpc.insecure_channel(alone.address) as channel:
        beside = Beside(channel)

        @tried(40)
        @given(st.lists(_raw, max_size=4), st.booleans())
        def ask(raw: Sequence[bytes], leave: bool) -> None:
            nonlocal tried_messages, before
            before = before or resources(alone.pid)
            tried_messages += len(raw)
            method: Any = channel.stream_stream(PATH)  # whose stubs know no calls of bytes
            call = method(iter(raw), timeout=BOUND)
            if leave:
                call.cancel()
            try:
                for _ in call:
                    pass
                code = "OK"
            except grpc.RpcError as error:
                code = from_rpc_error(error).code.name
            codes[code] = codes.get(code, 0) + 1
            assert code in ("OK", "CANCELLED", "INVALID_ARGUMENT"), code
            beside.same()

        ask()
        beside.close()
    bad = [line for line in alone.log if line.get("level") in ("error", "raw", "critical")]
    assert not bad, bad[:3]
    assert before is not None
    after = resources(alone.pid)
    assert after[0] - before[0] < 96 * 2**20
    assert after[1] - before[1] < 20
    report(f"{tried_messages:,} messages by links, which ended {codes}; beside: its own answers")
