"""Running a model for many at once: what is in a step, one forward pass, and what came of it.

How keys and values are kept is ``slots``' to know, how tokens look at them ``attention``'s, how
they are drawn ``sampling``'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local.backend import Outcome
from penstock_server.local.job import Job
from penstock_server.local.sampling import Defaults
from transformers import PreTrainedModel

from penstock_hf.attention import Decoding, Layout, Part, laid_out, slot_cache
from penstock_hf.failures import (
    check_tokens,
    failure_of,
    no_memory,
    no_room,
    out_of_memory,
    vocabulary,
)
from penstock_hf.packing import is_packed, padded
from penstock_hf.prefixes import Prefixes, as_tokens
from penstock_hf.rows import Row, Step, lay_decoding, lay_parts
from penstock_hf.sampling import Draw, Drawn, draw
from penstock_hf.sharing import Sharing
from penstock_hf.slots import NoRoom, Place, Slots, is_out_of_memory

# Room for so many tokens of an answer is taken at once, so that few answers have to move.
_HEADROOM = 64

# Query tokens times key tokens of one prompt's part: bounds the memory of its mask.
_LARGEST_MASK = 1 << 25

# So many times the usual part of prompts where no answer is being written that would wait.
_UNDISTURBED = 2


class SlotBatch:
    """Computes for up to ``most`` jobs at a time, with one forward pass a step.

    In a step stand one token of every answer being written and, of prompts, at most ``chunk``
    tokens in all (fewer where they have much to look back on, since they take longer then): so a
    long prompt costs the others a little at each step instead of everything at once. Half of it is
    the oldest prompt's, the rest goes to the shortest first, so that long
    prompts come to an end and short ones do not wait for them. All tokens are one row without
    padding; only attention tells them apart.

    A prompt that begins as something computed before (or being computed right now, by another row)
    takes that over. Where memory runs out, what is kept of finished answers goes first, then the
    newest row, which has to join anew.

    Example::

        batch = SlotBatch(model, slots, defaults, most=64, chunk=256)
        batch.join(job)
        outcomes = batch.step()
    """

    def __init__(
        self,
        model: PreTrainedModel,
        slots: Slots,
        defaults: Defaults,
        *,
        most: int,
        chunk: int,
    ) -> None:
        self.slots = slots
        self.prefixes = Prefixes()
        self._sharing = Sharing(slots, self.prefixes)
        self.most = most
        self._model = model
        self._defaults = defaults
        self._chunk = chunk
        self._cache = slot_cache(len(slots.shapes))
        self._rows: dict[Job, Row] = {}  # in the order of joining
        self._device = model.device
        self._vocabulary = vocabulary(model)
        heads: int = model.config.get_text_config().num_attention_heads
        self._shared_heads = max(1, heads // slots.shapes[0].heads)
        # A token's own work is with the weights; it looks back on every token before it. So many
        # of those double its work.
        looks = sum(shape.key_size + shape.value_size for shape in slots.shapes) * heads
        weights = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
        self._doubling: float = weights / looks
        self._packed = is_packed(model)
        forward = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in forward
        self._counting = torch.arange(max(most, 1), device=self._device)

    def join(self, job: Job) -> bool:
        """See `Backend.join`."""
        if len(self._rows) >= self.most:
            return False
        check_tokens(job.tokens, self._vocabulary)
        if not isinstance(job.memo, Draw):
            job.memo = Draw(job, self._defaults)
        tokens = as_tokens(job.tokens)
        wanted = len(tokens) + min(_HEADROOM, job.limit - job.written)
        place = self._take(job, wanted)
        if place is None:
            return False
        row = Row(job, job.memo, place, tokens)
        self._sharing.begin(row, self._rows.values())
        self._rows[job] = row
        if not job.written:
            job.cached = max(place.length, row.shared)
        return True

    def leave(self, job: Job) -> None:
        """See `Backend.leave`."""
        row = self._rows.pop(job, None)
        if row is None:
            return
        place = row.place
        for other in self._rows.values():
            if other.leader is row:
                self._sharing.part_ways(other)
        if not row.dirty:
            self._sharing.keep(row)
        # What has given no scores yet may be no numbers, and nobody would know.
        self.slots.release(place, dirty=row.dirty or not place.decoding)
        self._sharing.bound()

    def step(self) -> list[Outcome]:
        """See `Backend.step`."""
        outcomes: list[Outcome] = []
        step = Step()
        try:
            for outcome in self._make_room():
                outcomes.append(outcome)  # kept, whatever comes after it
            step = self._plan()
            if step.decoding or step.parts:
                decoding = list(lay_decoding(step.decoding, self._counting))
                parts = lay_parts(step.parts, len(step.decoding))
                outcomes += self._forward(step, decoding, parts)
        except Exception as error:
            if not step.decoding and not step.parts:
                raise  # it would come again and again
            apart = self._apart(step)
            if apart is None and not outcomes:  # else it comes again, once these are known
                raise out_of_memory(error, self._device) from error
            outcomes += apart or ()
        return outcomes

    def figures(self) -> dict[str, int]:
        """What `Backend.measure` tells, by the contract's names."""
        return {
            "kv_cache_bytes": self.slots.bytes,
            "prefix_cache_bytes": self.prefixes.bytes,
            "cache_limit_bytes": self.slots.limit,
        }

    def _take(self, job: Job, wanted: int) -> Place | None:
        for forgetting in (False, True):
            if forgetting:
                self._forget_for(wanted)
            try:
                return self.slots.take(job, wanted, self.prefixes.bytes)
            except NoRoom as error:
                ran_out = error.ran_out
        if self._rows:
            return None
        if ran_out:
            raise no_memory()
        raise Failure(
            v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {len(job.tokens):,} tokens, whose keys and values take more than the "
            f"{self.slots.limit:,} bytes that there are for them; shorten the prompt, or raise "
            "--cache-memory",
            input_tokens=str(len(job.tokens)),
        )

    # One step.

    def _make_room(self) -> Iterator[Outcome]:
        """Have every row's slot be long enough for its next token; the newest may have to go."""
        for row in list(self._rows.values()):
            while row.job in self._rows:
                try:
                    self._extend(row)
                    break
                except NoRoom as error:
                    newest = next(reversed(self._rows))
                    if len(self._rows) == 1:
                        failure = no_memory() if error.ran_out else no_room(self.slots.limit)
                        yield Outcome(newest, failure=failure)
                    else:
                        yield Outcome(newest)
                    self.leave(newest)

    def _extend(self, row: Row) -> None:
        wanted = row.place.length + 1
        if wanted <= row.place.arena.capacity:
            return
        try:
            self.slots.extend(row.place, wanted, self.prefixes.bytes)
        except NoRoom:
            self._forget_for(wanted)
            self.slots.extend(row.place, wanted, self.prefixes.bytes)

    def _forget_for(self, wanted: int) -> None:
        """Forget as much as a sequence of so many tokens needs."""
        self.prefixes.shrink(self.slots.limit - self.slots.bytes - self.slots.needed(wanted))

    def _plan(self) -> Step:
        step = Step()
        for arena in self.slots.arenas:
            step.decoding += (self._rows[place.owner] for place in arena.places[: arena.decoding])
        filling = [
            row
            for row in self._rows.values()
            if not row.place.decoding and self._sharing.follow(row)
        ]
        if filling:
            oldest, *others = filling
            left = float(self._chunk if step.decoding else _UNDISTURBED * self._chunk)
            reserved = min(self._cost(oldest, oldest.left), left / 2)
            for row in sorted(others, key=lambda row: row.left):
                tokens = self._affordable(row, left - reserved)
                if tokens < 1:
                    break
                step.parts.append((row, tokens))
                left -= self._cost(row, tokens)
            step.parts.append((oldest, max(1, self._affordable(oldest, left))))
        return step

    def _cost(self, row: Row, tokens: int) -> float:
        """What a prompt's next tokens cost, as tokens that have nothing to look back on."""
        return tokens * (1 + row.place.length / self._doubling)

    def _affordable(self, row: Row, cost: float) -> int:
        """How many of a prompt's next tokens may be in a step for that."""
        most = _LARGEST_MASK // (self._shared_heads * len(row.job.tokens))
        return min(row.left, int(cost / (1 + row.place.length / self._doubling)), max(16, most))

    def _apart(self, step: Step) -> list[Outcome] | None:
        """After a step that failed: in halves, so that the failure is only whose it is.

        What is too much memory for all may be little enough for half; None where it is too much
        for each of several by itself, so that it is nobody's own.
        """
        rows = list(step.rows)
        failed: list[tuple[Row, Exception]] = []
        outcomes = list(self._halves(rows, failed))
        if 1 < len(failed) == len(rows) and all(is_out_of_memory(error) for _, error in failed):
            return None
        for row, error in failed:
            row.dirty = True
            outcomes.append(Outcome(row.job, failure=failure_of(error)))
        return outcomes

    def _halves(
        self, rows: Sequence[tuple[Row, int]], failed: list[tuple[Row, Exception]]
    ) -> Iterator[Outcome]:
        middle = (len(rows) + 1) // 2
        for half in filter(None, (rows[:middle], rows[middle:])):
            try:
                yield from self._forward(Step(parts=[*half]), [], lay_parts(half, 0))
            except Exception as error:
                if is_out_of_memory(error) and self._device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(half) > 1:
                    yield from self._halves(half, failed)
                else:
                    failed.append((half[0][0], error))

    def _forward(
        self, step: Step, decoding: Sequence[Decoding], parts: Sequence[Part]
    ) -> list[Outcome]:
        tokens: list[int] = []
        positions: list[int] = []
        ready: list[Row] = []
        kept: list[int] = []
        for row, count in step.rows:
            begin = row.place.length
            tokens += row.job.tokens[begin : begin + count]
            positions += range(begin, begin + count)
            if count == row.left:
                ready.append(row)
                kept.append(len(tokens) - 1)
        if self._packed:
            padding = [0] * (padded(len(tokens)) - len(tokens))  # nobody's, and nobody sees them
            tokens += padding
            positions += padding
        keep = torch.tensor(kept, dtype=torch.long, device=self._device)
        narrowed = {"logits_to_keep": keep} if self._keeps_logits else {}
        with laid_out(Layout(decoding, parts)):
            output = self._model(
                input_ids=torch.tensor([tokens], device=self._device),
                position_ids=torch.tensor([positions], device=self._device),
                past_key_values=self._cache,
                use_cache=True,
                **narrowed,
            )
        logits = output.logits[0]
        if not self._keeps_logits:
            logits = logits[keep]
        drawn = draw(logits, [row.draw for row in ready]) if ready else []
        for row, count in step.rows:
            row.place.length += count
        return [self._outcome(row, each) for row, each in zip(ready, drawn, strict=True)]

    def _outcome(self, row: Row, drawn: Drawn) -> Outcome:
        if drawn.failure is not None:
            row.dirty = True
            return Outcome(row.job, failure=drawn.failure)
        if not row.place.decoding:
            # Without the memory for that, its next token is a prompt's part of one token.
            with suppress(MemoryError, RuntimeError):
                self.slots.start_decoding(row.place)
        return Outcome(row.job, drawn.token, drawn.scores)
