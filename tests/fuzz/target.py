"""What is fuzzed: a gateway with the embedded model, an upstream for each dialect, and a witness.

`Target.judge` makes one call and says whether its answer may be; `Target.check` whether the server
is what it was. The witness is another caller, who gets its own answers all the while.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import penstock
from google.protobuf.descriptor import MethodDescriptor
from penstock import v1
from penstock.errors import from_rpc_error
from penstock.v1 import embedding_service_pb2, generation_service_pb2, model_service_pb2

from tests.fuzz.dialects import HOSTED, Dialects, nonce
from tests.support.processes import ServerProcess, children, eventually, gateway, local_tiny

BOUND = 30.0
"""Seconds in which every call is answered."""

MORE_MEMORY = 256 * 2**20
"""How much larger a server may become, in bytes: caches fill, floods wait, and allocators
keep what they had. What is tried twice as often is held to the same."""

MORE_DESCRIPTORS = 40

LOCAL = "local/tiny"
MODELS = (LOCAL, *HOSTED, "either", LOCAL, "openai/a/b", "local/none", "m")

METHODS: Mapping[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (generation_service_pb2, model_service_pb2, embedding_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method of ours, by its path."""

# What gRPC says of others' metadata.
_REMARK = re.compile("Invalid encoding on b'")

_SERVERS_OWN = frozenset(
    {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}
)


class Witness:
    """A caller with known questions, who wants its own answers, again and again."""

    def __init__(self, address: str) -> None:
        self.answers = 0
        self.wrong: list[str] = []
        self._client = penstock.Client(address, timeout=BOUND)
        self._questions = [
            (text, temperature) for text in ("Hi", "A boat?") for temperature in (0, 1)
        ]
        self._known = [self._whole(text, heat) for text, heat in self._questions]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2 * BOUND)
        self._client.close()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self._ask(self.answers)
            except Exception as error:
                self.wrong.append(repr(error)[:500])
            self.answers += 1

    def _ask(self, number: int) -> None:
        which = number % len(self._questions)
        text, heat = self._questions[which]
        whole = self._streamed(text, heat) if number % 2 else self._whole(text, heat)
        if whole != self._known[which]:
            self.wrong.append(f"{text}: {whole!r} instead of {self._known[which]!r}")
        model, mine = HOSTED[number % len(HOSTED)], nonce(2**31 + number)
        told = self._client.generate(v1.GenerateRequest(model=model, prompt=mine))
        if told.message.parts[0].text != mine:
            self.wrong.append(f"{model}: {told.message.parts[0].text!r} instead of {mine!r}")

    def _request(self, text: str, heat: float) -> v1.GenerateRequest:
        sampling = v1.Sampling(max_output_tokens=12, temperature=heat, seed=7)
        return v1.GenerateRequest(model=LOCAL, prompt=text, sampling=sampling)

    def _whole(self, text: str, heat: float) -> str:
        return self._client.generate(self._request(text, heat)).message.parts[0].text

    def _streamed(self, text: str, heat: float) -> str:
        events = list(self._client.stream(self._request(text, heat)))
        assert events[-1].HasField("completed"), "a stream without its end"
        return "".join(event.part_delta.text for event in events)


class Target:
    """The server, and what became of it."""

    def __init__(self, process: ServerProcess, dialects: Dialects) -> None:
        self.process = process
        self.dialects = dialects
        self.tried: Counter[tuple[str, str]] = Counter()
        self.witness = Witness(process.address)
        self.channel = grpc.insecure_channel(
            process.address, [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        )
        self._sidecars = children(process.pid)
        self._seen = 0
        self._asked = 0
        self._before: Mapping[int, tuple[int, int]] = {}

    def close(self) -> None:
        self.witness.close()
        self.channel.close()

    def warmed(self) -> None:
        """What the server takes from now on counts; the first call sets the mark."""
        if not self._before:
            self._before = {pid: resources(pid) for pid in (self.process.pid, *self._sidecars)}

    def mine(self) -> str:
        """A nonce that nobody has used."""
        self._asked += 1
        return nonce(self._asked)

    def judge(self, method: str, raw: bytes, timeout: float = BOUND) -> list[bytes]:
        """Make one call with these bytes; its answers. AssertionError where they may not be."""
        name = METHODS[method].name
        started = time.monotonic()
        answers: list[bytes] = []
        channel: Any = self.channel  # whose stubs know no calls of bytes
        try:
            if METHODS[method].server_streaming:
                answers += channel.unary_stream(method)(raw, timeout=timeout)
            else:
                answers.append(channel.unary_unary(method)(raw, timeout=timeout))
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            code = failure.code.name
            self.tried[name, code] += 1
            if code in _SERVERS_OWN or not failure.reason:
                took = time.monotonic() - started
                problem = f"{code} {failure.reason!r} after {took:.1f} s: {failure.message[:600]}"
                raise AssertionError(f"{name}: {problem}") from None
            return []
        self.tried[name, "OK"] += 1
        return answers

    def check(self) -> None:
        """Process, sidecar, witness, log and resources are as they should be."""
        assert children(self.process.pid) == self._sidecars, "the sidecar is another one"
        before = self.witness.answers
        eventually(lambda: self.witness.answers > before + 2, BOUND)
        assert not self.witness.wrong, self.witness.wrong[:5]
        assert not self.dialects.nonsense, self.dialects.nonsense[:3]
        log, self._seen = self.process.log[self._seen :], len(self.process.log)
        bad = [line for line in log if line.get("level") in ("error", "raw", "critical")]
        bad = [line for line in bad if not _REMARK.match(line["message"])]
        assert not bad, bad[:3]
        for pid, (memory, descriptors) in self._before.items():
            now = resources(pid)
            assert now[0] - memory < MORE_MEMORY, f"{pid}: {memory:,} bytes, now {now[0]:,}"
            assert now[1] - descriptors < MORE_DESCRIPTORS, f"{pid}: {descriptors}, now {now[1]}"

    def figures(self) -> Iterator[str]:
        """What was tried, for people to read."""
        total, codes = sum(self.tried.values()), Counter[str]()
        methods: dict[str, Counter[str]] = {}
        for (name, code), count in self.tried.items():
            codes[code] += count
            methods.setdefault(name, Counter())[code] += count
        codes.setdefault("INTERNAL", 0)
        yield f"{total:,} messages tried: {_counts(codes)}; witness: {self.witness.answers} answers"
        for name, found in sorted(methods.items()):
            yield f"  {name}: {_counts(found)}"
        for pid, (memory, descriptors) in self._before.items():
            now = resources(pid)
            who = "gateway" if pid == self.process.pid else "sidecar"
            yield (
                f"  {who}: {memory / 2**20:.0f} MiB, {descriptors} descriptors before; "
                f"{now[0] / 2**20:.0f} MiB, {now[1]} after"
            )


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counted.most_common())


def resources(pid: int) -> tuple[int, int]:
    """A process's memory in bytes, and how many descriptors it has open."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096, len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextmanager
def aimed(folder: Path) -> Iterator[Target]:
    """A target, running."""
    dialects = Dialects()
    try:
        file = folder / "fuzz.toml"
        file.write_text(dialects.table())
        with gateway("--config", str(file), *local_tiny()) as process:
            target = Target(process.ready(), dialects)
            try:
                yield target
            finally:
                target.close()
    finally:
        dialects.close()
