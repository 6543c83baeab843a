"""Whatever transformers can load, the sidecar runs, and greedily it says what generate() says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from penstock import v1
from penstock_hf import packing
from penstock_hf.backend import HFBackend
from penstock_server.local.backend import written
from penstock_server.local.command import ModelSpec
from penstock_server.local.job import Job
from transformers import AutoModelForCausalLM

from tests.sidecars import random_models
from tests.sidecars.counting import number_text
from tests.sidecars.vocabularies import END

PROMPT = [5, 99, 200, 31, 77, 10, 250, 8, 60, 61, 62, 63]
TOKENS = 24


def continued(backend: HFBackend, sampling: v1.Sampling, limit: int = TOKENS) -> list[int]:
    """The tokens that a backend writes after `PROMPT`."""
    job = Job(PROMPT, number_text(), sampling, limit=limit, end={END})
    return [outcome.token or 0 for outcome in written(backend, job, limit)]


@pytest.fixture(params=["plain", "packed"])
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """These models are too small for weights to be packed; here they may be."""
    if request.param == "packed":
        monkeypatch.setattr(packing, "_SMALLEST", 1)
    return str(request.param)


@pytest.mark.parametrize("architecture", random_models.ARCHITECTURES)
def test_greedy_output_is_that_of_generate(architecture: str, weights: str, tmp_path: Path) -> None:
    directory = random_models.save(tmp_path, architecture)
    backend = HFBackend(ModelSpec(str(directory), device="cpu", threads=1))
    stages: list[str] = []
    loaded = backend.load(lambda progress, stage: stages.append(stage))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    expected = model.generate(  # type: ignore[misc]
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        do_sample=False,
        max_new_tokens=TOKENS,
    )[0, len(PROMPT) :].tolist()
    assert continued(backend, v1.Sampling(temperature=0)) == expected
    assert len(set(expected)) > 3, "an output that varies too little to prove anything"
    assert loaded.context_length == (0 if architecture == "mamba" else random_models.CONTEXT)
    assert loaded.vocabulary == random_models.VOCABULARY
    assert loaded.end == {END}
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    assert "reading the weights" in stages
    if not loaded.one_at_a_time and architecture != "gpt2":  # whose layers are no Linear
        assert backend._batch is not None
        assert packing.is_packed(backend._batch._model) == (weights == "packed")
    backend.unload()
