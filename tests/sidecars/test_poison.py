"""What goes wrong with one request is that request's alone: its neighbours do not notice."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from penstock import v1
from penstock.errors import from_rpc_error
from penstock_hf import sampling as hf_sampling
from penstock_hf import slots as hf_slots
from penstock_hf.backend import HFBackend
from penstock_server.errors import Failure
from penstock_server.local.batching import BatchEngine
from penstock_server.local.command import ModelSpec
from penstock_server.local.provider import LocalProvider
from penstock_server.local.sampling import SamplingParams

from tests.sidecars import random_models
from tests.sidecars.asking import ask, quiet, running
from tests.sidecars.counting import MadeHere
from tests.sidecars.stepping import (
    Course,
    Run,
    Wish,
    alone,
    batch_of,
    load,
    model_of,
    prompt_of,
    settle,
)
from tests.sidecars.vocabularies import chat_tokenizer
from tests.support.scripted import serving

if TYPE_CHECKING:
    from penstock_server.local.constraint import Row

POISON = 300
"""The token that does harm; innocent requests neither have nor write it."""
_INNOCENT = {POISON: -100.0}


def clean(length: int, seed: int) -> list[int]:
    """Some prompt without the poison."""
    return [token if token != POISON else 9 for token in prompt_of(length, seed)]


def innocent(number: int) -> Wish:
    """Prompts of several lengths, drawn greedily and at random in turn."""
    length = [3, 10, 17, 40, 70, 64, 25, 90][number]
    prompt = clean(length, 40 + number)
    settings: dict[str, Any] = {"temperature": 0.0}
    if number % 2:
        settings = {"temperature": 0.9, "seed": number, "top_p": 0.9}
    sampling = v1.Sampling(**settings, logit_bias=_INNOCENT)
    return Wish(prompt, 20 + 2 * number, sampling, caller=f"caller {number}")


INNOCENT = [innocent(number) for number in range(8)]


class Held:
    """A constraint that lets everything pass, and does harm at the third token."""

    finished = False

    def __init__(self, harm: Callable[[Row], bool], at: str) -> None:
        self._harm, self._at = harm, at
        self._count = 0

    def fill(self, row: Row) -> bool:
        self._count += 1
        return self._harm(row) if self._at == "fill" and self._count >= 3 else False

    def accept(self, token: int) -> None:
        if self._at == "accept" and self._count == 3:
            self._harm(None)  # type: ignore[arg-type]


def raises(error: Exception) -> Callable[[Row], bool]:
    def harm(row: Row) -> bool:
        raise error

    return harm


def forbids(row: Row) -> bool:
    row[:] = 0
    return True


REFUSED = Failure(v1.ERROR_REASON_ENGINE_FAILURE, "the form breaks here")


@contextmanager
def nothing(backend: HFBackend) -> Iterator[None]:
    yield


@contextmanager
def no_numbers(backend: HFBackend) -> Iterator[None]:
    """The embedding of one token is damaged."""
    embeddings: Any = model_of(backend).get_input_embeddings()
    weight = embeddings.weight.data
    kept = weight[POISON].clone()
    weight[POISON] = math.nan
    yield
    weight[POISON] = kept


def raising(error: Exception) -> Callable[[HFBackend], Any]:
    """The model raises wherever one token is in a step."""

    @contextmanager
    def harm(backend: HFBackend) -> Iterator[None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            if bool((kwargs["input_ids"] == POISON).any()):
                raise error

        model = model_of(backend)
        # In its middle, so that some layers have filed keys and values already.
        removable = model.register_forward_pre_hook(hook, with_kwargs=True)
        yield
        removable.remove()

    return harm


@contextmanager
def raising_inside(backend: HFBackend) -> Iterator[None]:
    """The model's last layer raises, when the first ones have filed keys and values."""
    model = model_of(backend)
    seen: list[bool] = []

    def look(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen[:] = [bool((kwargs["input_ids"] == POISON).any())]

    def harm(module: torch.nn.Module, args: Any) -> None:
        if seen == [True]:
            raise ZeroDivisionError("a bug in the last layer")

    hooks = [
        model.register_forward_pre_hook(look, with_kwargs=True),
        model.model.layers[-1].mlp.register_forward_pre_hook(harm),
    ]
    yield
    for hook in hooks:
        hook.remove()


class Allocator:
    """Stands in for ``torch.zeros`` and has no memory for slots of one capacity."""

    def __init__(self, capacity: int, after: int) -> None:
        self.capacity, self.after = capacity, after
        self.refused = 0

    def __call__(self, *size: int, **options: Any) -> torch.Tensor:
        if len(size) == 4 and size[2] == self.capacity:
            self.after -= 1
            if self.after < 0:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 EiB.")
        return torch.zeros(*size, **options)


class TorchBeside:
    """The module ``torch`` with another ``zeros``."""

    def __init__(self, zeros: Callable[..., torch.Tensor]) -> None:
        self.zeros = zeros

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def no_memory(after: int) -> Callable[[HFBackend], Any]:
    @contextmanager
    def harm(backend: HFBackend) -> Iterator[None]:
        """Slots of 256 tokens do not fit: not at all, or not for the later layers."""
        hf_slots.torch = TorchBeside(Allocator(256, after))  # type: ignore[assignment, attr-defined]
        yield
        hf_slots.torch = torch  # type: ignore[attr-defined]

    return harm


@dataclass(frozen=True)
class Case:
    """How a request is poisoned, and what it must be told."""

    wish: Wish
    told: str
    harm: Callable[[HFBackend], Any] = nothing
    after: int = 0
    """The tokens that it may get before."""


def poisoned(length: int = 40, **options: Any) -> Wish:
    """A prompt that ends with the poison."""
    return Wish([*clean(length, 7), POISON], 60, **options)


WRITES_POISON = v1.Sampling(temperature=0, logit_bias={POISON: 100.0})
CASES = {
    "a token that the model does not know": Case(
        Wish([5, 6, 5_000], 60),
        "INVALID_REQUEST: prompt: has the token 5000, which the model does not know; its ids end "
        "at 319: tokenizer and model do not fit",
    ),
    "a negative token": Case(Wish([5, -1, 6], 60), "INVALID_REQUEST: prompt: has the token -1"),
    "no numbers from a prompt": Case(
        poisoned(),
        "ENGINE_FAILURE: the model computed no finite scores (NaN or infinity)",
        no_numbers,
    ),
    "no numbers from the middle of a long prompt": Case(
        Wish([*clean(60, 7), POISON, *clean(80, 8)], 60),
        "ENGINE_FAILURE: the model computed no finite scores",
        no_numbers,
    ),
    "no numbers from an answer's token": Case(
        Wish(clean(9, 7), 60, WRITES_POISON),
        "ENGINE_FAILURE: the model computed no finite scores",
        no_numbers,
        after=1,
    ),
    "a constraint that fails": Case(
        Wish(clean(9, 7), 60, constraint=partial(Held, raises(REFUSED), "fill")),
        "ENGINE_FAILURE: the form breaks here",
        after=2,
    ),
    "a constraint that raises": Case(
        Wish(clean(9, 7), 60, constraint=partial(Held, raises(ZeroDivisionError("bug")), "fill")),
        "ENGINE_FAILURE: drawing this answer's token failed: ZeroDivisionError: bug",
        after=2,
    ),
    "a constraint that forbids everything": Case(
        Wish(clean(9, 7), 60, constraint=partial(Held, forbids, "fill")),
        "ENGINE_FAILURE: the answer's form allows no further token",
        after=2,
    ),
    "a constraint that does not take what was drawn": Case(
        Wish(clean(9, 7), 60, constraint=partial(Held, raises(REFUSED), "accept")),
        "ENGINE_FAILURE: the form breaks here",
        after=3,
    ),
    "a constraint that raises at what was drawn": Case(
        Wish(clean(9, 7), 60, constraint=partial(Held, raises(ZeroDivisionError("bug")), "accept")),
        "ENGINE_FAILURE: the engine failed at this answer: ZeroDivisionError: bug",
        after=3,
    ),
    "a bias for a token that there is not": Case(
        Wish(clean(9, 7), 60, v1.Sampling(temperature=0, logit_bias={5_000: 1.0})),
        "ENGINE_FAILURE: drawing this answer's token failed: IndexError",
    ),
    "a model that raises": Case(
        poisoned(),
        "ENGINE_FAILURE: the model failed at this answer: ZeroDivisionError: a bug of the model's",
        raising(ZeroDivisionError("a bug\nof the model's")),
    ),
    "a model that raises in its last layer": Case(
        poisoned(),
        "ENGINE_FAILURE: the model failed at this answer: ZeroDivisionError: a bug in the last",
        raising_inside,
    ),
    "a model that raises at an answer's token": Case(
        Wish(clean(9, 7), 60, WRITES_POISON),
        "ENGINE_FAILURE: the model failed at this answer: ZeroDivisionError: a bug of the model's",
        raising(ZeroDivisionError("a bug of the model's")),
        after=1,
    ),
    "a step without memory": Case(
        poisoned(),
        "ENGINE_FAILURE: there is too little memory for this answer",
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 EiB.")),
    ),
    "a prompt without memory for its slot": Case(
        Wish(clean(180, 7), 60),
        "ENGINE_FAILURE: there is too little memory for this answer",
        no_memory(0),
    ),
    "a prompt without memory for half of its slot": Case(
        Wish(clean(180, 7), 60),
        "ENGINE_FAILURE: there is too little memory for this answer",
        no_memory(3),
    ),
    "an answer without memory to move to a longer slot": Case(
        Wish(clean(60, 7), 180),
        "ENGINE_FAILURE: there is too little memory for this answer",
        no_memory(3),
        after=69,
    ),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Input and output embeddings of their own: else a damaged one damages everybody's scores.
    directory = tmp_path_factory.mktemp("model")
    return random_models.save(directory, "llama", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def expected(directory: Path) -> list[list[int]]:
    """What the innocent ones get with nobody beside them."""
    backend = load(directory)
    return [alone(backend, wish) for wish in INNOCENT]


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("name", CASES)
async def test_a_poisoned_request_fails_alone(
    name: str,
    place: str,
    directory: Path,
    expected: list[list[int]],
    report: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = CASES[name]
    async with running(directory, prefill_chunk=16) as (engine, backend):
        with case.harm(backend):
            wishes = [case.wish, *INNOCENT] if place == "first" else [*INNOCENT, case.wish]
            told = await asyncio.gather(*(ask(engine, wish) for wish in wishes))
        victim = told.pop(0 if place == "first" else -1)
        for neighbour, tokens in zip(told, expected, strict=True):
            assert neighbour.problem == "none"
            assert neighbour.tokens == tokens
        assert victim.problem.startswith(case.told)
        assert "\n" not in victim.problem
        assert len(victim.tokens) == case.after
        # Nothing is left of it, and the engine goes on.
        assert (await ask(engine, INNOCENT[3])).tokens == expected[3]
        assert (await quiet(engine)).kv_cache_bytes == 0
    if place == "last":
        report(f"{victim.problem[:110]}; 8 neighbours unchanged")


async def test_a_step_too_large_for_the_memory_is_computed_in_smaller_ones(
    directory: Path, expected: list[list[int]]
) -> None:
    refused = 0

    def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal refused
        if kwargs["input_ids"].shape[1] > 5:
            refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    async with running(directory, prefill_chunk=4) as (engine, backend):
        model_of(backend).register_forward_pre_hook(hook, with_kwargs=True)
        told = await asyncio.gather(*(ask(engine, wish) for wish in INNOCENT))
    assert refused > 0
    assert [each.problem for each in told] == ["none"] * len(told)
    assert [each.tokens for each in told] == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), ZeroDivisionError("bug")])
async def test_a_step_that_fails_after_drawing_costs_nobody_a_random_number(
    error: Exception, directory: Path, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find, failed = hf_sampling._find, 0

    def sometimes(reached: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        nonlocal failed
        if reached.shape[0] > 1 and failed < 5:
            failed += 1
            raise error
        return find(reached, numbers)

    monkeypatch.setattr(hf_sampling, "_find", sometimes)
    async with running(directory) as (engine, _):
        told = await asyncio.gather(*(ask(engine, wish) for wish in INNOCENT))
    assert failed == 5
    assert [each.tokens for each in told] == expected


_GREEDY = v1.Sampling(temperature=0, logit_bias=_INNOCENT)
LONG = Wish(clean(40, 1), 24, _GREEDY)
SHORT = [Wish(clean(3, seed), 20, _GREEDY) for seed in (2, 3, 4)]
_DAMAGED = [POISON, *clean(49, 5)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_damaged_keys_of_a_prompt_that_was_given_up_reach_nobody(
    steps: int, directory: Path
) -> None:
    # Nobody knows that they are damaged: no score has been looked at yet. What comes next into
    # that slot has to step over them, as long as a longer one is beside it.
    backend = load(directory, prefill_chunk=16)
    expected = [alone(backend, wish) for wish in (LONG, *SHORT)]
    runs = [Run(LONG), *(Run(wish, arrives=5 + steps) for wish in SHORT)]
    with no_numbers(backend):
        given_up = Run(Wish(_DAMAGED, 5), arrives=5, cancel_at=5 + steps)
        Course(backend, [*runs, given_up]).run()
    assert given_up.tokens == []
    assert [run.failure for run in runs] == [None] * 4
    assert [run.tokens for run in runs] == expected
    assert settle(backend)["kv_cache_bytes"] == 0


@pytest.mark.parametrize("gone", [True, False])
def test_damaged_keys_that_have_moved_are_left_behind_nowhere(gone: bool, directory: Path) -> None:
    # A neighbour leaves while the damaged prompt is half computed, which therefore moves.
    backend = load(directory, prefill_chunk=16)
    expected = [alone(backend, wish) for wish in (LONG, *SHORT)]
    runs = [Run(LONG), *(Run(wish, arrives=10) for wish in SHORT)]
    with no_numbers(backend):
        damaged = Run(Wish(_DAMAGED, 5), arrives=5, cancel_at=8 if gone else None)
        neighbour = Run(Wish(clean(5, 9), 30, _GREEDY), cancel_at=7)
        Course(backend, [runs[0], neighbour, damaged, *runs[1:]]).run()
    assert damaged.tokens == []
    assert (damaged.failure is None) == gone
    assert [run.failure for run in runs] == [None] * 4
    assert [run.tokens for run in runs] == expected


def test_a_failure_at_joining_leaves_nothing_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(directory)

    def broken(self: object, *args: object) -> None:
        raise ZeroDivisionError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(SamplingParams, "__init__", broken)
        with pytest.raises(ZeroDivisionError):
            backend.join(INNOCENT[0].job())
    assert settle(backend)["kv_cache_bytes"] == 0
    assert not list(batch_of(backend).slots.arenas)


class Damaged:
    """On the wire: what only a request's text can do."""

    INNOCENT: ClassVar[list[str]] = ["a", "bcd", "x y z", "q", "1234", "kkkkk", "o o o", "u"]

    def __init__(self, directory: Path) -> None:
        tokenizer = chat_tokenizer()
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
            for text in (*self.INNOCENT, "日本語テキスト")
        ]
        # The engine's own first words are innocent, too.
        known = [*chats[:-1], tokenizer.encode("Hello")]
        self.vocabulary = 1 + max(map(max, known))
        assert max(chats[-1]) >= self.vocabulary, "a poison that the model knows"
        random_models.save(directory, "llama", vocab_size=self.vocabulary)
        spec = ModelSpec(str(directory), device="cpu", threads=1)
        self.provider = LocalProvider(
            "local", {"tiny": MadeHere(lambda *_: BatchEngine(HFBackend(spec), "tiny"))}, ["tiny"]
        )


def asked(text: str, **fields: Any) -> v1.GenerateRequest:
    sampling = v1.Sampling(max_output_tokens=24, temperature=0.8, seed=len(text))
    return v1.GenerateRequest(model="local/tiny", prompt=text, sampling=sampling, **fields)


def system_last(text: str) -> v1.GenerateRequest:
    request = asked("")
    for role in (v1.ROLE_USER, v1.ROLE_SYSTEM):
        request.messages.add(role=role).parts.add(text=text)
    return request


ON_THE_WIRE = {
    "a tokenizer that is larger than the model": (
        asked("日本語テキスト"),
        "INVALID_REQUEST",
        "tokenizer and model do not fit",
    ),
    "a chat template that raises": (
        system_last("hi"),
        "INVALID_REQUEST",
        "a system message must come first",
    ),
    "a schema that nothing fits": (
        asked(
            "a",
            response_format=v1.ResponseFormat(
                json_schema=v1.JsonSchemaFormat(
                    name="none", schema='{"type":"string","minLength":5,"maxLength":2}', strict=True
                )
            ),
        ),
        None,
        "",
    ),
}


@pytest.mark.parametrize("name", ON_THE_WIRE)
async def test_a_poisoned_request_on_the_wire_fails_alone(
    name: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    request, reason, message = ON_THE_WIRE[name]
    damaged = Damaged(tmp_path)
    async with serving(damaged.provider) as (_, channel):
        stub = v1.GenerationServiceStub(channel)

        async def text(request: v1.GenerateRequest) -> str:
            answer = await stub.Generate(request, wait_for_ready=True)
            return "".join(part.text for part in answer.message.parts)

        innocent = [asked(prompt) for prompt in damaged.INNOCENT]
        expected = [await text(each) for each in innocent]
        calls = [asyncio.create_task(text(each)) for each in [request, *innocent, request]]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1:-1] == expected
    for result in (results[0], results[-1]):
        assert isinstance(result, Exception)
        error = from_rpc_error(result)  # type: ignore[arg-type]
        if reason is None and error.reason == "UNSUPPORTED_FEATURE":
            pytest.skip("local models take no schemas yet")
        assert error.reason == (reason or "INVALID_REQUEST")
        assert message in error.message
        report(f"{error.reason}: {error.message[:110]}; 8 neighbours unchanged")
