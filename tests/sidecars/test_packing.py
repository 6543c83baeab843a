"""Packed weights: the same numbers, no more memory, and undone where a model does not bear them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from penstock_hf import fitting, packing
from penstock_hf.packing import PackedLinear, pack, padded, unpack
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.sidecars import random_models


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_SMALLEST", 1)


def llama(directory: Path, **config: Any) -> PreTrainedModel:
    random_models.save(directory, "llama", **config)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(384, 1024), (1024, 384), (7, 5), (33, 1)])
def test_a_packed_layer_computes_the_same(inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(inputs, outputs, bias=bias)
    layer = PackedLinear(linear)
    with torch.inference_mode():
        for tokens in (1, 2, 3, 16, 65):
            given = torch.randn(1, tokens, inputs)
            torch.testing.assert_close(layer(given), linear(given), rtol=1e-4, atol=1e-5)
            turned = torch.randn(1, inputs, tokens).transpose(1, 2)
            torch.testing.assert_close(layer(turned), linear(turned), rtol=1e-4, atol=1e-5)
    back = layer.unpacked()
    assert torch.equal(back.weight, linear.weight)
    assert (back.bias is None) == (not bias)


def test_what_is_packed(tmp_path: Path) -> None:
    tied = llama(tmp_path / "tied")
    bytes_before = sum(t.nbytes for t in (*tied.parameters(), *tied.buffers()))
    assert pack(tied) == 2 * 7  # two layers; the head is the embedding, too
    assert isinstance(tied.lm_head, torch.nn.Linear)
    assert sum(t.nbytes for t in (*tied.parameters(), *tied.buffers())) == bytes_before
    assert pack(llama(tmp_path / "apart", tie_word_embeddings=False)) == 2 * 7 + 1
    assert pack(llama(tmp_path / "half").to(torch.bfloat16)) == 0  # type: ignore[arg-type]


def test_packing_is_undone_bit_by_bit(tmp_path: Path) -> None:
    model = llama(tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(model)
    assert packing.is_packed(model)
    unpack(model)
    assert not packing.is_packed(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_model_that_looks_at_its_weights_keeps_them(tmp_path: Path) -> None:
    model = llama(tmp_path / "model")
    layer = model.model.layers[0].mlp
    plain = layer.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = plain(hidden) + 0 * layer.up_proj.weight.sum()
        return found

    layer.forward = forward
    with torch.inference_mode():
        fitting.fit(model, "auto")
    assert not packing.is_packed(model)


def test_numbers_of_tokens_are_few() -> None:
    sizes = [padded(tokens) for tokens in range(1, 321)]
    assert all(tokens <= size for tokens, size in enumerate(sizes, 1))
    assert max(size - tokens for tokens, size in enumerate(sizes, 1)) < 16
    assert len(set(sizes)) == 25
