"""An engine's chunks in the contract's events: text, thoughts, tool calls, log probabilities.

What the pieces of a chunk mean was found out before (``splitter``); how parts are put together is
the assembler's to know.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from penstock import v1

from penstock_server.local.job import END_OF_SEQUENCE, Chunk, Finish, Job
from penstock_server.local.text import Piece
from penstock_server.providers.assembler import Assembler, Kind

_Events = list[v1.StreamGenerateResponse]


class Reply:
    """Tells one answer. Arguments are those of `Assembler`.

    Example::

        reply = Reply("gen-1", "local/tiny", call.arrived)
        yield reply.started()
        for event in reply.add(chunk): yield event
        for event in reply.complete(finish, job, stop=()): yield event
    """

    def __init__(self, answer_id: str, model: str, arrived: float) -> None:
        self._assembler = Assembler(answer_id, model, arrived)
        self._calls = 0
        self._logprobs: Sequence[v1.TokenLogprob] = ()  # of tokens that no delta has come of yet

    def started(self) -> v1.StreamGenerateResponse:
        """The first event."""
        return self._assembler.started()

    def add(self, chunk: Chunk) -> _Events:
        """More of the answer."""
        if chunk.logprobs:
            self._logprobs = [*self._logprobs, *chunk.logprobs]
        if chunk.pieces:
            return [event for piece in chunk.pieces for event in self._piece(piece)]
        return self._more("text", chunk.text) if chunk.text else []

    def complete(self, finish: Finish, job: Job, stop: Collection[str]) -> _Events:
        """The answer is whole. ``stop`` are the caller's stop strings."""
        response = self._assembler.response
        reason = finish.reason
        if self._calls and finish is END_OF_SEQUENCE:
            reason = v1.FINISH_REASON_TOOL_CALLS
        response.provider_finish_reason = finish.word
        if finish.stop in stop:  # not one that the model brought itself
            response.stop_sequence = finish.stop
        response.timings.queued.FromNanoseconds(int(job.queued * 1e9))
        response.logprobs.extend(self._logprobs)  # after the last delta
        usage = v1.Usage(
            input_tokens=len(job.prompt),
            output_tokens=job.written,
            cached_input_tokens=job.cached,
            thinking_tokens=job.thinking_tokens,
        )
        return self._assembler.complete(reason, usage)

    def _piece(self, piece: Piece) -> _Events:
        if piece.kind == "call":
            self._calls += 1
            events = self._assembler.finish_parts()
            call_id = f"call-{uuid.uuid4().hex[:24]}"
            return events + self._assembler.start_tool_call(
                self._calls, call_id=call_id, name=piece.text
            )
        if piece.kind == "arguments":
            return self._more("tool_call", piece.text, self._calls)
        return self._more(piece.kind, piece.text)

    def _more(self, kind: Kind, text: str, key: int | None = None) -> _Events:
        if not self._logprobs:
            return self._assembler.add(kind, text, key=key)
        logprobs, self._logprobs = self._logprobs, ()
        return self._assembler.add(kind, text, key=key, logprobs=logprobs)
