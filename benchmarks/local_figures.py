"""From what the callers of ``local.py`` heard to figures. Pure: no processes, no files.

Of a round, only what falls into the time that counts is looked at: tokens that came in it, and
answers that were asked for in it (each heard to its end). A figure is the median over the rounds of
that round's own figure.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


class Wrong(Exception):
    """A contender did not write what it was asked for; its figures would mean nothing."""


@dataclass(frozen=True)
class Figures:
    """One contender with so many callers; times in milliseconds, memory in MiB."""

    tokens_per_second: float
    first_p50: float
    first_p99: float
    gap_p50: float
    """Between tokens of an answer; where several came at once, the gap is shared among them."""
    gap_p99: float
    answers: float
    """How many answers the times to the first token are of; 0: of those asked for before."""
    late: float
    """How many of these were not finished when patience ended; what is known of them counts."""
    tokens_per_piece: float
    cores: Mapping[str, float] = field(default_factory=dict)
    """CPU, by part; "load" is the callers', where they are a process of their own."""
    others: float = 0.0
    """CPU of everybody else on the machine; more than a little spoils the figures."""
    peak: Mapping[str, float] = field(default_factory=dict)
    proportional: Mapping[str, float] = field(default_factory=dict)

    @property
    def own_cores(self) -> float:
        """CPU of all parts, without the callers."""
        return sum(cores for part, cores in self.cores.items() if part != "load")

    @property
    def own_peak(self) -> float:
        """Memory of all parts, without the callers."""
        return sum(peak for part, peak in self.peak.items() if part != "load")


def of_round(
    answers: Sequence[Mapping[str, Any]],
    seconds: float,
    one_word_a_token: bool,
    **of_processes: Any,
) -> Figures:
    """The figures of a round, from `local_load.Heard`s as dicts. Raises `Wrong`.

    ``of_processes`` are the fields that no caller hears: "cores", "peak" and so on.
    """
    tokens = 0.0
    pieces = 0
    gaps: list[tuple[float, float]] = []
    firsts: list[float] = []
    earlier: list[float] = []
    late = 0
    for answer in answers:
        said = list(_tokens(answer, one_word_a_token))
        tokens += sum(count for at, count in said if 0 <= at < seconds)
        pieces += sum(1 for at, _ in said if 0 <= at < seconds)
        gaps += [
            ((at - before) / count, count)
            for (before, _), (at, count) in itertools.pairwise(said)
            if 0 <= at < seconds and count
        ]
        in_time = 0 <= answer["asked"] < seconds
        late += in_time and not answer["told"]
        if said:
            (firsts if in_time else earlier).append(said[0][0] - answer["asked"])
    if not tokens:
        raise Wrong(f"no token came within {seconds:g} s")
    waits = [(first, 1.0) for first in firsts or earlier]
    return Figures(
        tokens_per_second=tokens / seconds,
        first_p50=1e3 * percentile(waits, 0.5),
        first_p99=1e3 * percentile(waits, 0.99),
        gap_p50=1e3 * percentile(gaps, 0.5),
        gap_p99=1e3 * percentile(gaps, 0.99),
        answers=len(firsts),
        late=late,
        tokens_per_piece=tokens / pieces,
        **of_processes,
    )


def _tokens(answer: Mapping[str, Any], one_word_a_token: bool) -> Iterator[tuple[float, float]]:
    """When how many tokens came.

    By counting words, where each token is one. Otherwise the answer's tokens are spread over its
    text by length, and those of an answer that was not finished are taken for words.
    """
    told, wanted, pieces = answer["told"], answer["wanted"], answer["pieces"]
    words = sum(piece[1] for piece in pieces)
    if told and told != wanted:
        raise Wrong(f"question {answer['question']}: {told} tokens instead of {wanted}")
    if told and one_word_a_token and words != told:
        raise Wrong(f"question {answer['question']}: {words} words of {told} tokens came")
    if words == told or not told:
        yield from ((at, count) for at, count, _ in pieces)
        return
    length = sum(piece[2] for piece in pieces)
    yield from ((at, told * characters / length) for at, _, characters in pieces)


def percentile(values: Sequence[tuple[float, float]], share: float) -> float:
    """Of values with weights."""
    ordered = sorted(values)
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return ordered[-1][0] if ordered else 0.0


def median(rounds: Sequence[Figures]) -> Figures:
    """Figure by figure."""
    values: dict[str, Any] = {}
    for each in fields(Figures):
        column = [getattr(figures, each.name) for figures in rounds]
        if isinstance(column[0], Mapping):
            values[each.name] = {
                part: statistics.median(one[part] for one in column) for part in column[0]
            }
        else:
            values[each.name] = statistics.median(column)
    return Figures(**values)


def same_answers(mine: Mapping[int, int], theirs: Mapping[int, int]) -> float | None:
    """The share of the questions answered by both whose answers were the same, by checksum."""
    both = mine.keys() & theirs.keys()
    return sum(mine[number] == theirs[number] for number in both) / len(both) if both else None


def as_json(figures: Figures) -> dict[str, Any]:
    """Rounded, for a file."""

    def rounded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: rounded(each) for key, each in value.items()}
        return round(value, 3)

    return {name: rounded(value) for name, value in asdict(figures).items()}
