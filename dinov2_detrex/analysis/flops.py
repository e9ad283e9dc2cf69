"""How many floating-point operations does a model do? Its operators are counted while they run, module by module.

A formula turns the shapes that an operator gets into a number: torch's own where its registry has the operator, one of
`FORMULAS` where it has not. Which kernels torch chooses depends on its version and the device; products for which
neither has a formula are logged, so that a count which is too low says so.
"""

import logging
import math
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention

logger = logging.getLogger(__name__)


def attention_flops(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of softmax(q k^T) v: both products over all pairs, masked ones too, as torch counts them; without the softmax.

    Args:
        query: (..., heads, N, E).
        key: (..., heads or fewer, M, E).
        value: (..., heads or fewer, M, D).
    """
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


# Of operators that a supported torch runs and does not know, by name: the CPU's since torch 2.15 only.
FORMULAS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention_flops,
    "aten::_scaled_dot_product_attention_math_for_mps": attention_flops,
    "aten::_scaled_dot_product_fused_attention_overrideable": attention_flops,  # Intel's GPUs
}
# Words of an operator's name that stand for products of matrices or vectors.
PRODUCT = re.compile(r"\w*mm|\w*mv|v?dot|ger|addr|matmul|conv(olution)?(\d?d)?|attention|linear|lstm|gru|rnn|cdist")


class CurrentModule:
    """While entered, `name` is the dotted name of the module that runs, the innermost one; "" for the model itself."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._running, self._handles = [""], []

    @property
    def name(self) -> str:
        return self._running[-1]

    def __enter__(self) -> "CurrentModule":
        for name, module in self.model.named_modules():
            before = module.register_forward_pre_hook(lambda module, args, name=name: self._running.append(name))
            after = module.register_forward_hook(lambda module, args, output: self._end(), always_call=True)
            self._handles += [before, after]
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()

    def _end(self) -> None:
        self._running.pop()


class FlopsOfOperators(TorchDispatchMode):
    """While entered, adds up in `flops` what the operators do that run, by the current module.

    `uncounted` has how often products ran for which there is no formula, by operator.
    (torch's own `FlopCounterMode` follows modules too, but not without gradients, and leaves out without a word what it
    does not know.)
    """

    def __init__(self, current: CurrentModule):
        super().__init__()
        self.current, self.flops, self.uncounted = current, Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket) or FORMULAS.get(func._schema.name)
        if formula is None:
            with self:  # an operator that is made of others
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
            if is_product(func._schema.name):
                self.uncounted[func._schema.name] += 1
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        self.flops[self.current.name] += formula(*args, **kwargs, out_val=output)
        return output


def is_product(operator: str) -> bool:
    """Whether the name of an operator, as "aten::addmm", says that it multiplies matrices or vectors.

    True for any operator that is not torch's own: nobody here knows what it does. This project's own is counted by
    `sampling_flops`.
    """
    namespace, _, name = operator.partition("::")
    if namespace == "dinov2_detrex":
        return False
    return namespace not in ("aten", "prim", "profiler") or any(map(PRODUCT.fullmatch, name.split("_")))


def sampling_flops(attention: MultiScaleDeformableAttention, query: Tensor) -> int:
    """Of the weighted sums of deformable attention, whatever kernel takes them: four cells around every point."""
    samples = query.numel() // attention.embed_dim * attention.num_levels * attention.num_points
    return 2 * 4 * samples * attention.embed_dim  # each head reads its own share of the embedding


@torch.no_grad()
def flops_by_module(model: nn.Module, inputs: Any) -> Counter:
    """Floating-point operations of `model(inputs)` by the dotted name of the innermost module; a multiply-add is 2.

    Counted are convolutions, products of matrices, attention, and the weighted sums of deformable attention; not norms,
    activations, softmax, sampling weights, resizing. A warning names products that could not be counted.
    """
    with CurrentModule(model) as current, FlopsOfOperators(current) as counter:

        def add_samples(attention: MultiScaleDeformableAttention, args: tuple) -> None:
            counter.flops[current.name] += sampling_flops(attention, args[0])

        attentions = [module for module in model.modules() if isinstance(module, MultiScaleDeformableAttention)]
        handles = [attention.register_forward_pre_hook(add_samples) for attention in attentions]
        model(inputs)
        for handle in handles:
            handle.remove()
    if counter.uncounted:
        calls = ", ".join(f"{name} ({times} times)" for name, times in sorted(counter.uncounted.items()))
        logger.warning("the FLOPs are too low: no formula for %s", calls)
    return counter.flops
