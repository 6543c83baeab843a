"""Structured random messages, to every method of a live server: each is answered as it should."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import message_factory
from hypothesis import given
from penstock import v1

from tests.fuzz.bounds import FACTOR, tried
from tests.fuzz.dialects import HOSTED
from tests.fuzz.likely import requests_of
from tests.fuzz.target import LOCAL, METHODS, Target

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

MODELS = (LOCAL, *HOSTED, LOCAL, "either", "openai/a/b", "anthropic/../x", "local/none", "m")

# Method → how many messages are tried by the tests. What unloads and pulls is fuzzed with names
# that miss: the model is needed.
USUAL = {
    "Generate": 200,
    "StreamGenerate": 150,
    "Embed": 60,
    "ListModels": 15,
    "GetModel": 50,
    "LoadModel": 25,
    "UnloadModel": 25,
    "PullModel": 25,
}
_MISSING = tuple(name for name in MODELS if name not in (LOCAL, "either", "m"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(60 + 120 * max(1, FACTOR))
def test_every_message_is_answered(
    target: Target, method: str, report: Callable[[str], None]
) -> None:
    name = METHODS[method].name
    kind = message_factory.GetMessageClass(METHODS[method].input_type)
    answer = message_factory.GetMessageClass(METHODS[method].output_type)
    models = _MISSING if name in ("UnloadModel", "PullModel") else MODELS

    @tried(USUAL[name])
    @given(requests_of(kind, models))
    def ask(request: Any) -> None:
        if name == "UnloadModel" and request.model in ("tiny", LOCAL):
            return
        target.warmed()
        mine = _mark(request, target)
        raw = request.SerializeToString()
        answers = target.judge(method, raw)
        if answers:
            _own(answer.FromString(answers[-1]), mine)

    ask()
    target.check()
    for figure in target.figures() if method == list(METHODS)[-1] else ():
        report(figure)


def _mark(request: Any, target: Target) -> str:
    """Bound an answer, and put a nonce into a question; "" where there is none."""
    asked = request
    if isinstance(request, v1.StreamGenerateRequest) and request.HasField("request"):
        asked = request.request
    if not isinstance(asked, v1.GenerateRequest):
        return ""
    if not asked.sampling.HasField("max_output_tokens"):
        asked.sampling.max_output_tokens = 12  # the model would fill its context
    if not asked.prompt:
        return ""
    mine = target.mine()
    asked.prompt = f"{mine} {asked.prompt}"
    return mine


def _own(answer: Any, mine: str) -> None:
    """No answer holds somebody else's nonce."""
    if isinstance(answer, v1.StreamGenerateResponse):
        assert answer.HasField("completed"), "a stream that ended well without its end"
        answer = answer.completed
    if isinstance(answer, v1.GenerateResponse) and mine:
        found = set(re.findall("nonce-[0-9a-f]{8}", str(answer.message)))
        assert found <= {mine}, f"asked with {mine}, told {found}"
        if answer.model.partition("/")[0] != "local":
            assert found, "a nonce that did not come back"
