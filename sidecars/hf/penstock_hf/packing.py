"""Weights laid out for the CPU's caches once, instead of anew in every product.

A product of a few tokens with a large matrix spends most of its time on laying out the matrix,
which plain ``torch.nn.Linear`` has done each time. Measured on two cores with AVX2, float32,
2,048 x 8,192: 4 tokens 3.5 times as fast, 16 tokens 2.3 times, 64 tokens 1.6 times, one token the
same. oneDNN does the laying out, by the operators that torch's own compiler uses for frozen models
(``torch/_inductor/fx_passes/mkldnn_fusion.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

# For so many tokens in a step; the layout is good for others, too.
_TOKENS = 64

# Below that many weights, what a call costs more is more than the laying out.
_SMALLEST = 1 << 17


class PackedLinear(torch.nn.Module):
    """A ``torch.nn.Linear`` that gives up its weights for packed ones of the same size.

    ``weight`` still has a shape and a type, and `unpacked` gets the very numbers back; nothing else
    can be computed with it.
    """

    weight: torch.Tensor

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TOKENS)
        self.register_buffer("weight", packed)
        self.bias = linear.bias

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """As ``torch.nn.Linear``."""
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            tokens, self.weight, self.bias, "none", [], ""
        )
        return found

    def unpacked(self) -> torch.nn.Linear:
        """The layer that it was made of."""
        linear = torch.nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        linear.weight = torch.nn.Parameter(self.weight.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear.eval()


def pack(model: torch.nn.Module) -> int:
    """Pack a model's layers where that helps; how many those are.

    float32 on a CPU, and no weights that something else uses, too: those would be there twice.
    """
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return 0
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return _replace(
        model,
        lambda layer: (
            PackedLinear(layer)
            if type(layer) is torch.nn.Linear
            and _packs(layer.weight)
            and users[id(layer.weight)] == 1
            else None
        ),
    )


def is_packed(model: torch.nn.Module) -> bool:
    """Whether `pack` has found anything."""
    return any(isinstance(layer, PackedLinear) for layer in model.modules())


def padded(tokens: int) -> int:
    """How many tokens to compute where there are so many.

    oneDNN makes code for each number of tokens and shape of weights: about a millisecond and half a
    MiB, which is nothing where few numbers occur, and a quarter of the time where each step has
    another one.
    """
    if tokens <= 2:
        return tokens
    multiple = 4 if tokens <= 16 else 16
    return -(-tokens // multiple) * multiple


def unpack(model: torch.nn.Module) -> None:
    """Undo `pack`."""
    _replace(model, lambda layer: layer.unpacked() if isinstance(layer, PackedLinear) else None)


_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")


def _packs(weight: torch.Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and weight.numel() >= _SMALLEST


def _replace(
    model: torch.nn.Module, other: Callable[[torch.nn.Module], torch.nn.Module | None]
) -> int:
    """Put something else in the place of some layers, one by one, so that memory suffices."""
    replaced = 0
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if (instead := other(layer)) is not None:
                setattr(parent, name, instead)
                replaced += 1
    return replaced
