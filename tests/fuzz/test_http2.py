"""Bytes that are no HTTP/2, frames out of order, floods, and calls that no library would make.

After each of them somebody else is served at once.
"""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable, Mapping

import grpc
from penstock import v1

from tests.fuzz.bounds import dice, examples
from tests.fuzz.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HELLO,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Wire,
    block,
    call,
    frame,
    integer,
    message,
    usual,
)
from tests.fuzz.target import LOCAL, Target

PATH = b"/penstock.v1.GenerationService/Generate"
STREAM = b"/penstock.v1.GenerationService/StreamGenerate"
QUESTION = v1.GenerateRequest(model=LOCAL, prompt="Hi", sampling=v1.Sampling(max_output_tokens=4))
BODY = QUESTION.SerializeToString()
GOOD = message(BODY)
OPENING = block(usual(PATH))

SOON = 15.0
"""Seconds within which somebody else is served."""

# What is sent, after which the connection is closed.
BROKEN: Mapping[str, bytes] = {
    "nothing": b"",
    "half a preface": PREFACE[:11],
    "zeros": bytes(100_000),
    "HTTP/1.1": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "HTTP/1.1 that upgrades": b"GET / HTTP/1.1\r\nhost: a\r\n"
    b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "no settings": PREFACE + call(usual(PATH), GOOD),
    "data without headers": HELLO + frame(DATA, GOOD, stream=1),
    "a continuation of nothing": HELLO + frame(CONTINUATION, OPENING, stream=1),
    "headers of stream 0": HELLO + frame(HEADERS, OPENING, flags=END_HEADERS),
    "headers of an even stream": HELLO + call(usual(PATH), GOOD, stream=2),
    "streams in the wrong order": HELLO
    + call(usual(PATH), GOOD, stream=9)
    + call(usual(PATH), GOOD, stream=3),
    "headers without end": HELLO + frame(HEADERS, OPENING, stream=1) + frame(DATA, GOOD, stream=1),
    "headers twice": HELLO + frame(HEADERS, OPENING, flags=END_HEADERS, stream=1) * 2,
    "a window of nothing": HELLO + frame(WINDOW_UPDATE, bytes(4)),
    "too large a window": HELLO + frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff") * 3,
    "settings of 5 bytes": HELLO + frame(SETTINGS, bytes(5)),
    "an acknowledgement that says more": HELLO + frame(SETTINGS, bytes(6), flags=ACK),
    "acknowledgements of nothing": HELLO + frame(SETTINGS, flags=ACK) * 100,
    "odd settings": HELLO
    + frame(SETTINGS, b"".join(struct.pack(">HI", n, 2**32 - 1) for n in range(12))),
    "frames of no size": HELLO + frame(SETTINGS, struct.pack(">HI", 5, 0)),
    "a table of 4 GB": HELLO
    + frame(SETTINGS, struct.pack(">HI", 1, 2**32 - 1))
    + call(usual(PATH), GOOD),
    "a ping of 7 bytes": HELLO + frame(PING, bytes(7)),
    "a stream that hangs on itself": HELLO + frame(PRIORITY, b"\0\0\0\1\0", stream=1),
    "a promise": HELLO + frame(PUSH_PROMISE, bytes(4) + OPENING, flags=END_HEADERS, stream=1),
    "a reset of nothing": HELLO + frame(RST_STREAM, bytes(4), stream=7),
    "goodbye": HELLO + frame(GOAWAY, bytes(8)) + call(usual(PATH), GOOD),
    "an unknown frame": HELLO + frame(0xFA, bytes(100), stream=1) + call(usual(PATH), GOOD),
    "a frame of 16 MB": HELLO + frame(DATA, bytes(20_000), stream=1, length=2**24 - 1),
    "a frame that is longer than it says": HELLO + frame(HEADERS, OPENING, stream=1, length=9),
    "all padding": HELLO
    + frame(HEADERS, b"\xff" + OPENING[:20], flags=PADDED | END_HEADERS, stream=1),
    "header 0": HELLO + frame(HEADERS, b"\x80", flags=END_HEADERS, stream=1),
    "header 2**40": HELLO + frame(HEADERS, integer(2**40, 7, 0x80), flags=END_HEADERS, stream=1),
    "a header that never ends": HELLO
    + frame(HEADERS, b"\0" + integer(2**31, 7), flags=END_HEADERS, stream=1),
    "no Huffman code": HELLO
    + frame(HEADERS, b"\0\x84\xff\xff\xff\xff\x01a", flags=END_HEADERS, stream=1),
    "table sizes": HELLO
    + frame(HEADERS, integer(2**31, 5, 0x20) * 50 + OPENING, flags=END_HEADERS, stream=1),
    "one header 20,000 times": HELLO
    + frame(HEADERS, OPENING + b"\x40\x01a" + integer(4_000, 7) + b"b" * 4_000, stream=1)
    + frame(CONTINUATION, b"\xbe" * 16_000, flags=END_HEADERS, stream=1),
    "20,000 continuations": HELLO
    + frame(HEADERS, OPENING, stream=1)
    + frame(CONTINUATION, b"\0\1a\1b", stream=1) * 20_000,
    "20,000 empty continuations": HELLO
    + frame(HEADERS, OPENING, stream=1)
    + frame(CONTINUATION, stream=1) * 20_000,
    "5,000 resets": HELLO
    + b"".join(
        frame(HEADERS, OPENING, flags=END_HEADERS, stream=n)
        + frame(DATA, GOOD, flags=END_STREAM, stream=n)
        + frame(RST_STREAM, b"\0\0\0\x08", stream=n)
        for n in range(1, 10_000, 2)
    ),
    "5,000 streams that say nothing": HELLO
    + b"".join(frame(HEADERS, OPENING, flags=END_HEADERS, stream=n) for n in range(1, 10_000, 2)),
    # grpc.aio never answers these; they harm nobody else.
    "half a prefix": HELLO + call(usual(PATH), GOOD[:3]),
    "half a message": HELLO + call(usual(PATH), GOOD[:-3]),
    "a call without a message": HELLO + call(usual(PATH), b""),
    "trailers for a message": HELLO
    + frame(HEADERS, OPENING, flags=END_HEADERS, stream=1)
    + frame(HEADERS, block([(b"a", b"b")]), flags=END_HEADERS | END_STREAM, stream=1),
    "20,000 settings": HELLO + frame(SETTINGS, struct.pack(">HI", 3, 100)) * 20_000,
    "20,000 pings": HELLO + frame(PING, bytes(8)) * 20_000,
    "20,000 empty frames": HELLO
    + frame(HEADERS, OPENING, flags=END_HEADERS, stream=1)
    + frame(DATA, stream=1) * 20_000,
}

_TIMEOUTS = (
    b"99999999S",
    b"999999999999H",
    b"-1S",
    b"0n",
    b"1",
    b"S",
    b"1.5S",
    b"\xff",
    b"1X",
    b"",
)
_IDS = (b"\xc3\xa9", b"\xff\xfe", b"a b", b"x" * 9_000, b"\t", b"a\0b", b"a\r\nb: c", b"", b"%0a")
_PATHS = (b"", b"/", b"//", b"*", PATH[1:], PATH + b"/", PATH + b"?x=1", b"/penstock.v1.x/y",
          b"/penstock.v1.GenerationService/", "/é".encode(), b"/" + b"x" * 7_000, PATH.upper(),
          b"/penstock.link.v1.LinkService/Link")  # fmt: skip
_TYPES = (b"text/plain", b"application/json", b"application/grpc+json", b"application/grpcx", b"")

# Calls as no library makes them (a path that is no text has a test of its own in ``tests/server``);
# each has to be answered, or its connection closed.
CALLS: Mapping[str, bytes] = {
    **{f"timeout {t!r}": call(usual(PATH, (b"grpc-timeout", t)), GOOD) for t in _TIMEOUTS},
    **{f"path {p[:30]!r}": call(usual(p), GOOD) for p in _PATHS},
    **{f"content type {t!r}": call(usual(PATH, (b"content-type", t)), GOOD) for t in _TYPES},
    **{
        f"{name.decode()} {value[:9]!r}": call(usual(PATH, (name, value)), GOOD)
        for name in (b"x-request-id", b"x-penstock-caller", b"x-bin", b"grpc-encoding")
        for value in _IDS
    },
    "no te": call(usual(PATH, without=[b"te"]), GOOD),
    "no authority": call(usual(PATH, without=[b":authority"]), GOOD),
    "no path": call(usual(PATH, without=[b":path"]), GOOD),
    "no method": call(usual(PATH, without=[b":method"]), GOOD),
    "GET": call(usual(PATH, (b":method", b"GET")), GOOD),
    "two paths": call([*usual(PATH), (b":path", PATH)], GOOD),
    "a connection header": call(usual(PATH, (b"connection", b"close")), GOOD),
    "CAPITALS": call(usual(PATH, (b"X-Request-ID", b"a")), GOOD),
    "no name": call(usual(PATH, (b"", b"a")), GOOD),
    "300 headers": call([*usual(PATH), *((b"x-%d" % n, b"v" * 20) for n in range(300))], GOOD),
    "a length that lies": call(usual(PATH), message(BODY, length=2**31)),
    "4 GB": call(usual(PATH), message(BODY, length=2**32 - 1)),
    "two messages": call(usual(PATH), GOOD * 2),
    "two messages for a stream": call(usual(STREAM), GOOD * 2),
    "10,000 empty messages": call(usual(PATH), message(b"") * 10_000),
    "compressed as nothing": call(usual(PATH), message(BODY, compressed=1)),
    "compressed 7": call(usual(PATH), message(BODY, compressed=7)),
    "no gzip": call(usual(PATH, (b"grpc-encoding", b"gzip")), message(BODY, compressed=1)),
    "gzip": call(
        usual(PATH, (b"grpc-encoding", b"gzip")), message(gzip.compress(BODY), compressed=1)
    ),
}


def served(target: Target) -> float:
    """Somebody with a new connection is served; after how many seconds."""
    started = time.monotonic()
    # A channel of its own options has connections of its own.
    options: list[tuple[str, int]] = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target.process.address, options) as channel:
        answer = v1.GenerationServiceStub(channel).Generate(QUESTION, timeout=SOON)
    assert answer.message.parts[0].text
    return time.monotonic() - started


def test_broken_connections(target: Target, report: Callable[[str], None]) -> None:
    target.warmed()
    slowest = 0.0, ""
    for name, data in [*BROKEN.items()] * examples(1):
        with Wire(target.process.address) as wire:
            wire.send(data)
            slowest = max(slowest, (served(target), name))
    target.check()
    report(f"{len(BROKEN)} broken connections; others were served within "
           f"{slowest[0] * 1000:.0f} ms ({slowest[1]})")  # fmt: skip


def test_calls_that_no_library_makes(target: Target, report: Callable[[str], None]) -> None:
    target.warmed()
    for name, data in CALLS.items():
        with Wire(target.process.address) as wire:
            wire.send(HELLO + data)
            assert wire.ended(1), f"{name}: no answer"
    served(target)
    target.check()
    report(f"{len(CALLS)} odd calls, all answered or closed")


def test_a_bomb(target: Target) -> None:
    """Bytes that unpack to more than any message may have."""
    target.warmed()
    bomb = message(gzip.compress(bytes(200 * 2**20), 1), compressed=1)
    for path in (PATH, STREAM):
        with Wire(target.process.address) as wire:
            wire.send(HELLO + call(usual(path, (b"grpc-encoding", b"gzip")), bomb))
            served(target)
            assert wire.ended(1)
    target.check()


def test_frames_in_any_order(target: Target, report: Callable[[str], None]) -> None:
    """Frames of all kinds, with flags, streams and contents that go together or do not."""
    target.warmed()
    random = dice("frames")
    payloads = [b"", OPENING, GOOD, bytes(4), bytes(8), block([(b"a", b"b")]), b"\xbe\xbf\x80"]
    count = examples(60)
    for number in range(count):
        data = HELLO
        for _ in range(random.randint(1, 12)):
            payload = random.choice([*payloads, random.randbytes(random.randint(0, 60))])
            data += frame(
                random.choice([*range(10), HEADERS, HEADERS, DATA, DATA]),
                payload,
                flags=random.choice([0, END_HEADERS, END_HEADERS | END_STREAM, END_STREAM, 0xFF]),
                stream=random.choice([0, 1, 1, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1]),
                length=None if random.random() < 0.9 else random.randint(0, 70),
            )
        with Wire(target.process.address) as wire:
            wire.send(data)
            if number % 10 == 0:
                served(target)
    served(target)
    target.check()
    report(f"{count} connections of frames in any order")
