"""How does a frozen ViT adapt with few weights? By a matrix of low rank beside those of its linear layers (LoRA).

y = W x + b + (alpha / r) B A x, where W and b stay, and A (r, in) and B (out, r) are trained; B begins at zero, so that
the first output is the pretrained one (Hu et al. 2021, section 4.1). Afterwards (alpha / r) B A is added to W, and what
is left is the ViT as it was, with other numbers.

W and b keep their names: the state dict of an adapted ViT is that of the plain one with `lora_A`, `lora_B` and
`lora_scale` beside each adapted weight, which says all that merging needs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_detrex.backbone.vit_families import PlainViT
from dinov2_detrex.runtime.values import require_number, require_share, require_whole

A, B, SCALE = "lora_A", "lora_B", "lora_scale"
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class LowRank:
    """What adapters are like.

    Attributes:
        rank: r, at least 1.
        alpha: their product is multiplied by alpha / r.
        dropout: of what enters A, in training.
        layers: names of the linear layers of a block that get one, "qkv" or "attn.qkv" for example; one or several.
        blocks: which blocks; None for all.

    Raises:
        UsageError: a number is out of its range; a ValueError.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: Sequence[str] | str = ("qkv", "proj")
    blocks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        blocks = None if self.blocks is None else tuple(self.blocks)
        self.__dict__.update(layers=layers, blocks=blocks)  # of a config's lists, so that equal ones compare equal
        require_whole("TimmBackbone", 1, lora_rank=self.rank)
        require_number("TimmBackbone", 0, lora_alpha=self.alpha)
        require_share("TimmBackbone", lora_dropout=self.dropout)


class AdaptedLinear(nn.Linear):
    """A linear layer with a matrix of low rank beside its own, which takes no gradient.

    Args:
        linear: the layer, whose weight and bias it takes over as they are.
        low_rank: see there.
    """

    lora_scale: Tensor

    def __init__(self, linear: nn.Linear, low_rank: LowRank):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad_(False)
        if linear.bias is not None:
            linear.bias.requires_grad_(False)
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_A = nn.Parameter(torch.empty(low_rank.rank, linear.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, low_rank.rank, **like))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.register_buffer(SCALE, torch.tensor(low_rank.alpha / low_rank.rank, **like))
        self.lora_dropout = nn.Dropout(low_rank.dropout)
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        low = F.linear(self.lora_dropout(input), self.lora_A)
        return F.linear(input, self.weight, self.bias) + F.linear(low, self.lora_B) * self.lora_scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain linear layer that computes the same, but for rounding."""
        has_bias = self.bias is not None
        linear = nn.Linear(self.in_features, self.out_features, has_bias, device="meta").train(self.training)
        weight = merged_weight(self.weight, self.lora_A, self.lora_B, self.lora_scale)
        linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), self.bias
        return linear


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """W + scale B A, added up in float64: (out, in) of (out, in), (r, in), (out, r) and ()."""
    return (weight.double() + scale.double() * (b.double() @ a.double())).to(weight.dtype)


def attach_adapters(vit: PlainViT, low_rank: LowRank) -> None:
    """Put an adapter beside the linear layers that `low_rank` names.

    Raises:
        ValueError: a block that the model has not, a name that no linear layer of a block has, or a layer whose weight
            the block uses without calling the layer.
    """
    for index in adapted_blocks(low_rank, len(vit.blocks)):
        block = vit.blocks[index]
        chosen = _chosen(block, low_rank.layers, index)
        for name, linear in chosen.items():
            owner, _, local = name.rpartition(".")
            setattr(block.get_submodule(owner), local, AdaptedLinear(linear, low_rank))


def adapted_blocks(low_rank: LowRank, num_blocks: int) -> list[int]:
    """The numbers of the blocks with adapters, in ascending order.

    Raises:
        ValueError: none, or one that the model has not.
    """
    blocks = range(num_blocks) if low_rank.blocks is None else low_rank.blocks
    require_whole("TimmBackbone", 0, **{f"lora_blocks[{n}]": index for n, index in enumerate(blocks)})
    if not blocks or max(blocks) >= num_blocks:
        raise ValueError(f"lora_blocks={list(blocks)}: give some of the blocks 0 to {num_blocks - 1}")
    return sorted(set(blocks))


def _chosen(block: nn.Module, names: Sequence[str], index: int) -> dict[str, nn.Linear]:
    linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    for wanted in names:
        if not any(f".{name}".endswith(f".{wanted}") for name in linear):
            raise ValueError(f"lora_layers={list(names)}: block {index} has no {wanted!r}, but {', '.join(linear)}")
    chosen = {name: module for name, module in linear.items() if any(f".{name}".endswith(f".{n}") for n in names)}
    if not chosen:
        raise ValueError(f"lora_layers={list(names)}: give some of {', '.join(linear)}")
    for name in chosen:
        owner = block.get_submodule(name.rpartition(".")[0])
        if name.endswith("qkv") and getattr(owner, "q_bias", None) is not None:  # timm's EvaAttention
            raise ValueError(f"lora_layers={list(names)}: {type(owner).__name__} uses the weight of {name} directly")
    return chosen


def merge_adapters(model: Model) -> Model:
    """Put plain linear layers in the place of the adapted ones, in place; a model without any stays as it is."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, AdaptedLinear):
                setattr(owner, name, child.merged())
    return model


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with its adapters added to the weights that they stand beside; others stay as they are."""
    merged = dict(state)
    for layer in _adapted_layers(state):
        parts = [merged.pop(f"{layer}{part}") for part in (A, B, SCALE)]
        merged[f"{layer}weight"] = merged_weight(merged[f"{layer}weight"], *parts)
    return merged


def with_adapters_of(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict as it is where a model has all of its adapters in the same shape, else merged.

    Args:
        own: the model's state dict.
        state: of a file.
    """
    layers = list(_adapted_layers(state))
    fits = all(state[f"{layer}{A}"].shape == own[f"{layer}{A}"].shape for layer in layers if f"{layer}{A}" in own)
    return state if fits and all(f"{layer}{A}" in own for layer in layers) else merged_state(state)


def _adapted_layers(state: Mapping[str, Tensor]) -> Iterator[str]:
    """What stands before the names of each adapter, with its dot."""
    layers = [name.removesuffix(A) for name in state if name.endswith(f".{A}")]
    return (layer for layer in layers if all(f"{layer}{part}" in state for part in ("weight", B, SCALE)))
