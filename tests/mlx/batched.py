"""A program: one model in the backend, many jobs at once, compared with mlx-lm's own answers.

    python batched.py MODEL CHECK…

Runs checks, which are functions below, by name, and prints as JSON what went wrong with each: an
empty string, or a traceback.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

sys.modules["torch"] = None  # type: ignore[assignment] # tokenizers need none; it takes seconds

import numpy as np  # noqa: E402
from penstock import v1  # noqa: E402
from penstock_mlx.backend import MLXBackend  # noqa: E402
from penstock_server.errors import Failure  # noqa: E402
from penstock_server.local.backend import Outcome, OutOfMemory  # noqa: E402
from penstock_server.local.command import ModelSpec  # noqa: E402
from penstock_server.local.engine import Loaded  # noqa: E402
from penstock_server.local.job import Job, Scores  # noqa: E402

from tests.sidecars.counting import number_text  # noqa: E402

Prompt = Sequence[int]
Row = np.ndarray[Any, np.dtype[np.int32]]

CHUNK = 16
GREEDY = v1.Sampling(temperature=0)
SEEDED: Sequence[v1.Sampling] = [
    v1.Sampling(seed=1, temperature=0.8),
    v1.Sampling(seed=2, temperature=0.9, top_p=0.9),
    v1.Sampling(seed=3, temperature=1.2, top_k=20, top_p=0.8),
    v1.Sampling(seed=4, temperature=1.0, min_p=0.05, repetition_penalty=1.3),
    v1.Sampling(seed=5, temperature=0.7, presence_penalty=1.0, frequency_penalty=0.5),
    v1.Sampling(seed=6, temperature=1.5, logit_bias={5: 4.0, 6: -100.0}),
    v1.Sampling(temperature=0, repetition_penalty=1.5),
    v1.Sampling(temperature=0),
]


class Bench:
    """A backend with a model, and what to run it with."""

    def __init__(self, source: str) -> None:
        self.backend = MLXBackend(ModelSpec(source, threads=1, prefill_chunk=CHUNK, max_batch=16))
        self.loaded: Loaded = self.backend.load(lambda progress, stage: None)
        random = np.random.default_rng(5)
        lengths = [1, 2, 60, 7, 16, 17, 33, 48, 3, 90, 12, 25, 40, 5, 70, 20, 31, 8]
        self.prompts = [
            random.integers(3, self.loaded.vocabulary, length).tolist() for length in lengths
        ]

    @property
    def batch(self) -> Any:
        return self.backend._batch

    def job(self, prompt: Prompt, sampling: v1.Sampling = GREEDY, **options: Any) -> Job:
        return Job(prompt, number_text(), sampling, **{"limit": 24, **options})

    def figures(self) -> v1.EngineStats:
        stats = v1.EngineStats()
        self.backend.measure(stats)
        return stats

    def step(self, ended: dict[Job, Failure | None] | None = None) -> list[Outcome]:
        """One step as the engine takes it; who has ended leaves, and stands in ``ended``."""
        outcomes = list(self.backend.step())
        for outcome in outcomes:
            job, failure, finished = outcome.job, outcome.failure, False
            if outcome.token is not None:
                try:
                    finished = job.accept(outcome.token, outcome.scores).finish is not None
                except Failure as error:
                    failure = error
            if failure is not None or finished:
                self.backend.leave(job)
                if ended is not None:
                    ended[job] = failure
        return outcomes

    def run(self, jobs: Sequence[Job], every: int = 0) -> dict[Job, Failure | None]:
        """Run jobs to their end; one joins with each ``every`` steps (0: all at once)."""
        waiting, ended = list(jobs), dict[Job, Failure | None]()
        for step in range(5_000):
            while waiting and (not every or step % every == 0):
                try:
                    if not self.backend.join(waiting[0]):
                        break
                except Failure as failure:
                    ended[waiting[0]] = failure
                del waiting[0]
                if every:
                    break
            self.step(ended)
            if len(ended) == len(jobs):
                return ended
        raise AssertionError(f"only {len(ended)} of {len(jobs)} jobs came to an end")

    @contextmanager
    def model(self, behaves: Callable[[Any, Any], Any]) -> Iterator[None]:
        """Have something come between the batch and its model: gets the token ids and it."""
        own = self.batch._model

        class Spoiled:
            def __call__(self, tokens: Any, cache: Any = None) -> Any:
                return behaves(tokens.tolist(), lambda: own(tokens, cache=cache))

            def __getattr__(self, name: str) -> Any:
                return getattr(own, name)

        self.batch._model = Spoiled()
        try:
            yield
        finally:
            self.batch._model = own

    @cache  # noqa: B019 # there is one
    def plainly(self, which: int, limit: int = 24) -> list[int]:
        """What mlx-lm itself says to one of the prompts."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        model = self.batch._model
        tokens = generate_step(mx.array(self.prompts[which]), model, max_tokens=limit)
        return [int(token) for token, _ in tokens]


def answer(job: Job) -> list[int]:
    return job.tokens[len(job.prompt) :]


def forget(bench: Bench) -> None:
    """Have nothing kept of what other checks computed."""
    bench.batch._prefixes.shrink(0)


def idle(bench: Bench) -> None:
    figures = bench.figures()
    assert figures.kv_cache_bytes == 0
    assert figures.prefix_cache_bytes <= figures.cache_limit_bytes


def staggered(bench: Bench) -> None:
    """Jobs join one after the other; some leave in the middle; the others do not notice."""
    forget(bench)
    jobs = [
        bench.job(prompt, limit=8 + which % 5 * 4) for which, prompt in enumerate(bench.prompts)
    ]
    leaves = {3: 2, 9: 20, 12: 1, 14: 6}  # which leaves with how many tokens written
    most = 0
    waiting, ended = list(enumerate(jobs)), dict[Job, Failure | None]()
    for step in range(2_000):
        if waiting and step % 2 == 0 and bench.backend.join(waiting[0][1]):
            del waiting[0]
        bench.step(ended)
        most = max(most, len(bench.batch._running))
        for which, count in leaves.items():
            if jobs[which].written >= count:
                bench.backend.leave(jobs[which])
                ended.setdefault(jobs[which], None)
        if len(ended) == len(jobs):
            break
    for which, job in enumerate(jobs):
        said = answer(job)
        assert said == bench.plainly(which)[: len(said)], which
        assert len(said) == min(leaves.get(which, 99), job.limit), which
    assert most > 3, most
    idle(bench)


def at_once(bench: Bench) -> None:
    """Sixteen at once, and again, when what was computed before is used."""
    forget(bench)
    for _ in range(2):
        jobs = [bench.job(prompt) for prompt in bench.prompts[:16]]
        assert set(bench.run(jobs).values()) == {None}
        assert [answer(job) for job in jobs] == [bench.plainly(which) for which in range(16)]
        idle(bench)


def seeds(bench: Bench) -> None:
    """Who else is there makes no difference to what is drawn."""
    forget(bench)
    alone = []
    for which, sampling in enumerate([*SEEDED, *SEEDED]):
        job = bench.job(bench.prompts[which], sampling)
        bench.run([job])
        alone.append(answer(job))
    for every in (0, 3):
        jobs = [bench.job(bench.prompts[w], s) for w, s in enumerate([*SEEDED, *SEEDED])]
        bench.run(jobs, every)
        assert [answer(job) for job in jobs] == alone
    assert alone[0] != bench.plainly(0)
    other = bench.job(bench.prompts[2], v1.Sampling(seed=99, temperature=1.2, top_k=20, top_p=0.8))
    bench.run([other])
    assert answer(other) != alone[2]


def going_on(bench: Bench) -> None:
    """A job that had to wait anew goes on as if nothing had been."""
    sampling = v1.Sampling(seed=8, temperature=1.0, frequency_penalty=0.5)
    whole = bench.job(bench.prompts[5], sampling)
    bench.run([whole])
    parts = bench.job(bench.prompts[5], sampling)
    bench.backend.join(parts)
    while parts.written < 9:
        bench.step()
    bench.backend.leave(parts)
    forget(bench)
    bench.run([parts])
    assert answer(parts) == answer(whole)


def too_little_room(bench: Bench) -> None:
    """Where caches are full, nobody joins, and the newest waits anew."""
    batch = bench.batch
    if not batch._token_bytes:
        return
    forget(bench)
    own, batch._limit = batch._limit, 130 * batch._token_bytes
    try:
        first, second = bench.job(bench.prompts[6], limit=60), bench.job(bench.prompts[7], limit=9)
        assert bench.backend.join(first)
        assert bench.backend.join(second)  # 33 and 48 tokens, later 93 and 57
        assert not bench.backend.join(bench.job(bench.prompts[9]))
        outcomes: list[Outcome] = []
        third = bench.job(bench.prompts[4], limit=60)
        while bench.batch._texts:
            outcomes += bench.step()
            if second.written == 9 and not third.written and third not in bench.batch._texts:
                bench.backend.join(third)
        back = [o.job for o in outcomes if o.token is None and o.failure is None]
        assert back == [third]
        assert answer(first) == bench.plainly(6, 60)
        assert answer(second) == bench.plainly(7, 9)
        bench.run([third])
        assert answer(third) == bench.plainly(4, 60)
        try:
            bench.backend.join(bench.job([3] * 200))
        except Failure as failure:
            assert failure.reason == v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED  # noqa: PT017
        else:
            raise AssertionError("a text was taken that there is no room for")
    finally:
        batch._limit = own


def cancelled_in_its_prompt(bench: Bench) -> None:
    """Whoever leaves while a prompt is computed costs a part of it at most."""
    forget(bench)
    computed = 0

    def count(tokens: list[list[int]], model: Callable[[], Any]) -> Any:
        nonlocal computed
        computed += len(tokens[0])
        return model()

    long, neighbour = bench.job(bench.prompts[9]), bench.job(bench.prompts[0])
    with bench.model(count):
        bench.backend.join(long)
        bench.step()
        bench.step()
        assert computed == 2 * CHUNK
        assert bench.figures().kv_cache_bytes > 0
        bench.backend.leave(long)
        bench.step()
        assert computed == 2 * CHUNK
    idle(bench)
    bench.run([neighbour])
    assert answer(neighbour) == bench.plainly(0)


def a_long_prompt_holds_up_nobody(bench: Bench) -> None:
    forget(bench)
    quick, long = bench.job(bench.prompts[0], limit=40), bench.job(bench.prompts[9])
    bench.backend.join(quick)
    bench.step()
    bench.backend.join(long)
    before = quick.written
    steps = 0
    while not long.written:
        bench.step()
        steps += 1
    assert steps >= len(long.prompt) // CHUNK
    assert quick.written - before >= steps - 1, "a token with every step"
    bench.backend.leave(long)
    bench.backend.leave(quick)


POISON = 11  # a token that a spoiled model trips over


class Form:
    """A constraint by hand: tokens of a set, in which ``trips`` is what happens at the third."""

    def __init__(self, *allowed: int, trips: Exception | None = None) -> None:
        self.allowed = allowed
        self.told: list[int] = []
        self.filled = 0
        self.trips = trips

    @property
    def finished(self) -> bool:
        return len(self.told) >= 10

    def fill(self, row: Row) -> bool:
        assert len(self.told) == self.filled, "asked before it was told of the last token"
        self.filled += 1
        if self.trips is not None and self.filled == 3:
            raise self.trips
        row[:] = 0
        for token in self.allowed:
            row[token // 32] |= np.array(1 << token % 32, np.uint32).view(np.int32)
        return True

    def accept(self, token: int) -> None:
        assert token in self.allowed
        self.told.append(token)


def constraints(bench: Bench) -> None:
    """A constraint is told of each token before it is asked for the next; neighbours run on."""
    sampled = v1.Sampling(seed=3, temperature=1.5, top_p=0.95)
    forms = [Form(31, 32, 63, 64, 7), Form(5, 6, 9, 33), Form(*range(100, 164))]
    jobs = [bench.job(bench.prompts[w], sampled, constraint=f) for w, f in enumerate(forms)]
    jobs[1].sampling = GREEDY
    free = [bench.job(bench.prompts[which]) for which in range(4, 9)]
    assert set(bench.run([*jobs, *free]).values()) == {None}
    for job, form in zip(jobs, forms, strict=True):
        assert set(answer(job)) <= set(form.allowed)
        assert answer(job) == form.told
        assert len(form.told) == 10
    assert len(set(answer(jobs[2]))) > 4
    assert [answer(job) for job in free] == [bench.plainly(which) for which in range(4, 9)]


def log_probabilities(bench: Bench) -> None:
    """Those of the model's own scores, whatever is drawn and how."""
    import mlx.core as mx

    odd = v1.Sampling(seed=1, temperature=1.7, presence_penalty=2.0, top_k=40)
    jobs = [bench.job(bench.prompts[5], odd, top_logprobs=4, limit=6),
            bench.job(bench.prompts[6], top_logprobs=0, limit=6),
            bench.job(bench.prompts[7], limit=6)]  # fmt: skip
    found: dict[Job, list[Scores | None]] = {job: [] for job in jobs}
    for job in jobs:
        bench.backend.join(job)
    while bench.batch._texts:
        for outcome in bench.step():
            found[outcome.job].append(outcome.scores)
    assert found[jobs[2]] == [None] * 6
    for job in jobs[:2]:
        scores = bench.batch._model(mx.array([job.tokens]))[0]
        expected = np.asarray((scores - mx.logsumexp(scores, -1, keepdims=True)).astype(mx.float32))
        for place, its in enumerate(found[job]):
            assert its is not None
            row = expected[len(job.prompt) - 1 + place]
            token = job.tokens[len(job.prompt) + place]
            assert math.isclose(its.logprob, row[token], abs_tol=1e-3)
            assert len(its.top) == job.top_logprobs
            likeliest = np.sort(row)[::-1][: len(its.top)]
            assert np.allclose([value for _, value in its.top], likeliest, atol=1e-3)


def poison(bench: Bench) -> None:
    """Whatever is wrong with one job, its eight neighbours get what they would have got."""

    def trip(tokens: list[list[int]], model: Callable[[], Any]) -> Any:
        if any(POISON in row for row in tokens):
            raise ValueError("tripped")
        return model()

    def nonsense(tokens: list[list[int]], model: Callable[[], Any]) -> Any:
        import mlx.core as mx

        bad = mx.array([POISON in row for row in tokens])[:, None, None]
        return mx.where(bad, mx.nan, model())

    def plain(tokens: list[list[int]], model: Callable[[], Any]) -> Any:
        return model()

    beyond = bench.loaded.vocabulary
    says = v1.Sampling(temperature=0, logit_bias={POISON: 100.0})
    broken = Failure(v1.ERROR_REASON_ENGINE_FAILURE, "the form is broken")
    cases: Mapping[str, tuple[Any, Job, str]] = {
        "unknown token": (plain, bench.job([5, beyond, 6]), "token ids"),
        "negative token": (plain, bench.job([5, -1]), "token ids"),
        "constraint": (plain, bench.job([5], constraint=Form(5, trips=KeyError("x"))), "KeyError"),
        "form": (plain, bench.job([5], constraint=Form(5, trips=broken)), "form is broken"),
        "no token": (plain, bench.job([5], constraint=Form()), "no further token"),
        "in the prompt": (trip, bench.job([5, 6, POISON, 7]), "tripped"),
        "at its end": (trip, bench.job([5, 6, POISON]), "tripped"),
        "in the answer": (trip, bench.job([5, 6, 7], says), "tripped"),
        "not a number": (nonsense, bench.job([5, 6, 7], says), "NaN"),
    }
    others = [which for which in range(18) if POISON not in bench.plainly(which)]
    others = [which for which in others if POISON not in bench.prompts[which]][:8]
    assert len(others) == 8
    for name, (behaves, bad, word) in cases.items():
        for place in (0, 4, 8):
            forget(bench)
            bad = bench.job(bad.prompt, bad.sampling, constraint=again(bad.constraint))
            neighbours = [bench.job(bench.prompts[which]) for which in others]
            with bench.model(behaves):
                ended = bench.run([*neighbours[:place], bad, *neighbours[place:]], 2)
            failure = ended.pop(bad)
            assert failure is not None, name
            assert failure.reason == v1.ERROR_REASON_ENGINE_FAILURE, name
            assert word in str(failure.message), (name, failure.message)
            assert set(ended.values()) == {None}, name
            said = [answer(job) for job in neighbours]
            assert said == [bench.plainly(which) for which in others], name
            idle(bench)


def again(form: Any) -> Any:
    return None if form is None else Form(*form.allowed, trips=form.trips)


def memory(bench: Bench) -> None:
    """Where a step does not fit, the engine is told so, and can go on with fewer."""

    def full(tokens: list[list[int]], model: Callable[[], Any]) -> Any:
        if len(tokens) > 2:
            raise RuntimeError("[malloc_or_wait] Unable to allocate 1 bytes.")
        return model()

    jobs = [bench.job(bench.prompts[which]) for which in (4, 5, 6, 7)]
    running, ended = list(jobs), dict[Job, Failure | None]()
    with bench.model(full):
        for job in jobs:
            bench.backend.join(job)
        while len(ended) < len(running):
            try:
                bench.step(ended)
            except OutOfMemory as error:
                assert "allocate" in str(error)  # noqa: PT017
                bench.backend.leave(running.pop())
    assert running == jobs[:2]
    assert [answer(job) for job in running] == [bench.plainly(4), bench.plainly(5)]
    idle(bench)


def prefixes(bench: Bench) -> None:
    """What an earlier text began with is not computed again, and nothing else is different."""
    forget(bench)
    before = bench.prompts[7]
    first = bench.job(before)
    bench.run([first])
    kept = bench.figures().prefix_cache_bytes
    assert (first.cached, kept > 0) == (0, True)
    goes_on = bench.job([*first.tokens, 9, 8, 7])
    parts = bench.job([*before[:20], 4, 5, 6])
    same = bench.job(before)
    jobs = [goes_on, parts, same]
    bench.run(jobs)
    # The first one's last token was never computed.
    assert [job.cached for job in jobs] == [len(first.tokens) - 1, 20, len(before) - 1]
    assert answer(same) == answer(first)
    forget(bench)
    for job in jobs[:2]:
        anew = bench.job(job.prompt)
        bench.run([anew])
        forget(bench)
        assert (anew.cached, answer(anew)) == (0, answer(job))
    bench.run([bench.job([3, 4], limit=4)])
    assert bench.figures().prefix_cache_bytes == 0, "too short to be of use"


def one_at_a_time(bench: Bench) -> None:
    """A model whose caches hold one text: said so, and otherwise the same."""
    assert bench.loaded.max_running == bench.figures().max_running_requests == 1
    assert "cannot" in bench.loaded.one_at_a_time
    jobs = [bench.job(bench.prompts[which]) for which in range(6)]
    assert bench.backend.join(jobs[0])
    assert not bench.backend.join(jobs[1])
    bench.backend.leave(jobs[0])
    bench.run(jobs)
    assert [answer(job) for job in jobs] == [bench.plainly(which) for which in range(6)]
    idle(bench)


def many_at_a_time(bench: Bench) -> None:
    assert bench.loaded.one_at_a_time == ""
    assert bench.loaded.max_running == bench.figures().max_running_requests == 16


def main() -> None:
    source, *names = sys.argv[1:]
    bench = Bench(source)
    wrong = {}
    for name in names:
        try:
            globals()[name](bench)
            wrong[name] = ""
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
