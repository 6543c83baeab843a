"""Steady callers whose every answer can be checked, while something goes wrong.

Every call has a number, and an answer that no other has. The upstream of these tests writes the
number's own words in order ("7.0 7.1 7.2 …"); the embedded model draws by a seed, of which there
are `SEEDS`, and each one's answer was learned in peace. So an answer that lacks something, has
something twice, or is another call's is seen.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from penstock import Client, PenstockError, text_of, v1

from tests.faults.callers import CALLERS, Caller

LOCAL, HOSTED = "local/tiny", "up/any"

WORDS = 20
"""How many words a hosted answer has."""

SEEDS = 40
"""How many answers of the embedded model there are."""

RATES = {LOCAL: 4.0, HOSTED: 30.0}
"""Calls a second, begun whatever became of the ones before."""

DEADLINES = {LOCAL: 6.0, HOSTED: 3.0}
"""Seconds that a call may take."""

_PAUSE = 0.02
_numbers = itertools.count(1000)
_learned: dict[int, str] = {}


def request(model: str, number: int) -> v1.GenerateRequest:
    """Asks for the answer of that number."""
    if model == HOSTED:
        return v1.GenerateRequest(model=model, prompt=f"say {number} {WORDS}")
    asked = v1.GenerateRequest(model=model, prompt="Tell me a story.")
    asked.sampling.temperature = 1.5
    asked.sampling.seed = number % SEEDS
    asked.sampling.max_output_tokens = 32
    return asked


def right(model: str, number: int) -> str:
    """The only right answer to it."""
    if model == HOSTED:
        return " ".join(f"{number}.{index}" for index in range(WORDS))
    return _learned[number % SEEDS]


def learn(address: str) -> None:
    """Have the embedded model's answers, from a server where all is well; once for all."""
    if _learned:
        return
    with Client(address, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        ask = lambda seed: text_of(client.generate(request(LOCAL, seed)))  # noqa: E731
        answers = list(pool.map(ask, range(SEEDS)))
    assert len({*answers}) == SEEDS, "answers that cannot be told apart"
    _learned.update(enumerate(answers))


@dataclass(slots=True)
class Asked:
    """One call, and what became of it."""

    number: int
    model: str
    streamed: bool
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: str = ""
    """"OK", else code and reason; "" while it runs."""
    wrong: str = ""
    """"lost", "doubled" or "mixed", where the answer is not its own and whole."""

    def check(self, said: str) -> None:
        """Look at what came, whole or (where the call failed) in part."""
        own = right(self.model, self.number)
        if said == own or (self.status != "OK" and own.startswith(said)):
            return
        if own.startswith(said):
            self.wrong = "lost"
        elif self.model == HOSTED and {w.partition(".")[0] for w in said.split()} == {
            str(self.number)
        }:
            self.wrong = "doubled"
        else:
            self.wrong = "mixed"


class Load:
    """Callers, half of whom stream, on an event loop and a thread of their own.

    ``asked`` has all calls. No call is tried again by the client unless ``retries``: what is
    counted is what the gateway said.

    Example::

        with Load(process.address) as load:
            ...
            load.normal_again(since=moment)
        assert not load.wrong
    """

    def __init__(
        self,
        address: str,
        models: Sequence[str] = (LOCAL, HOSTED),
        *,
        deadlines: dict[str, float] | None = None,
        options: dict[str, Any] | None = None,
        retries: bool = False,
        rates: dict[str, float] | None = None,
        flavour: str = "aio.Client",
    ) -> None:
        self._flavour = flavour
        self.asked: list[Asked] = []
        self.models = models
        self._address = address
        self._deadlines = {**DEADLINES, **(deadlines or {})}
        self._options = {"grpc.enable_retries": int(retries), **(options or {})}
        self._rates = {**RATES, **(rates or {})}
        self._over = threading.Event()
        self._done: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def wrong(self) -> Counter[str]:
        """Answers that were lost, doubled or mixed up; a call that never ended is lost."""
        found = Counter(one.wrong for one in self.asked if one.wrong)
        found["lost"] += sum(not one.status for one in self.asked if self._over.is_set())
        return +found

    def statuses(self, since: float, until: float, model: str = "") -> Counter[str]:
        """What became of the calls that ran at some time in between."""
        return Counter(
            one.status
            for one in self.asked
            if one.started <= until and one.ended >= since and model in ("", one.model)
        )

    def normal_again(self, since: float, *, window: float = 0.7, patience: float = 40.0) -> float:
        """Seconds from then to the first window in which all calls that began were answered."""
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            begun = [one for one in list(self.asked) if one.started >= since]
            failed = [one.started for one in begun if one.status not in ("", "OK")]
            after = [one for one in begun if one.started > max(failed, default=0.0)]
            if after and time.monotonic() > after[0].started + window:
                seen = [one for one in after if one.started <= after[0].started + window]
                if {one.model for one in seen if one.status == "OK"} == {*self.models} and all(
                    one.status for one in seen
                ):
                    return after[0].started - since if failed else 0.0
            time.sleep(_PAUSE)
        raise AssertionError(f"not normal within {patience} s: {self.statuses(since, give_up)}")

    def __enter__(self) -> Load:
        self._thread.start()
        try:
            self.normal_again(time.monotonic())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._done.result(max(self._deadlines.values()) + 10)
        self._thread.join(5)

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    async def _all(self) -> None:
        caller = CALLERS[self._flavour](self._address, self._options)
        try:
            await asyncio.gather(*(self._steadily(caller, model) for model in self.models))
        finally:
            await caller.close()

    async def _steadily(self, caller: Caller, model: str) -> None:
        calls: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self._over.is_set():
            number = next(_numbers)
            one = Asked(number, model, streamed=number % 2 == 0)
            self.asked.append(one)
            task = asyncio.create_task(self._ask(caller, one))
            calls.add(task)
            task.add_done_callback(calls.discard)
            due += 1 / self._rates[model]
            await asyncio.sleep(due - time.monotonic())
        if calls:
            await asyncio.wait(list(calls), timeout=self._deadlines[model] + 5)

    async def _ask(self, caller: Caller, one: Asked) -> None:
        asked = request(one.model, one.number)
        timeout = self._deadlines[one.model]
        heard: list[str] = []
        status = "OK"
        try:
            if one.streamed:
                whole = await caller.streamed(asked, timeout, heard.append)
                if whole != "".join(heard):
                    one.wrong = "mixed"
            else:
                heard.append(await caller.whole(asked, timeout))
        except PenstockError as error:
            status = f"{error.code.name}/{error.reason}" if error.reason else error.code.name
        one.ended, one.status = time.monotonic(), status
        if not one.wrong:
            one.check("".join(heard))
