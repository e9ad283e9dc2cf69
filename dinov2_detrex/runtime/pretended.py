"""How does a program run on a device that is not there? Its tensors have shapes and dtypes, and no data.

Tensors of the host stay real, so that what the host computes is computed. Where the host would have to wait for the
device it gets an answer that was made up, and the place is noted: so a run also tells how often it waits.
"""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion, __version__
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dinov2_detrex.runtime.backward_walk import lacks_engine, released_by_unpacking, replaced, walk_backward
from dinov2_detrex.runtime.errors import UserError

aten = torch.ops.aten
_attention = F.scaled_dot_product_attention
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST_TORCH = "2.14"  # older ones look for the GPU's driver on the way, and may end the process
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear")  # and all with "attention"


def pretends_here() -> bool:
    """Whether this torch can do without the device."""
    return TorchVersion(__version__) >= TorchVersion(OLDEST_TORCH)


@dataclass(frozen=True)
class Wait:
    """A place where the host waits for the device: the operator, and the innermost line of this project that asks."""

    operator: str
    place: str

    def __str__(self) -> str:
        return f"{self.operator} in {self.place}"


class PretendedDevice(TorchDispatchMode):
    """While entered, tensors on `device` hold no data.

    The made-up answers are those of a run in which all is well: a flag is true, a number is zero, and every element is
    selected by a mask. A Generator's state is not touched.

    Args:
        device: a kind of device, there or not.

    Attributes:
        waits: where the host waited for the device, in order.
        products: how often matrices were multiplied and convolved on the device, by (operator, dtype of its inputs,
            line of this project).
    """

    def __init__(self, device: str | torch.device = "cuda"):
        super().__init__()
        self.device = torch.device(device)
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: list[Wait] = []
        self.products: Counter[tuple[str, torch.dtype, str]] = Counter()

    def __enter__(self) -> "PretendedDevice":
        """UserError where this torch cannot do without the device."""
        if lacks_engine(self.device.type) and not pretends_here():
            raise UserError(
                f"a {self.device.type} device can be pretended from torch {OLDEST_TORCH} on, this is {__version__}"
            )
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # there is no thread for the device
            stack.enter_context(self.fake)  # below this mode; torch looks for it before it looks for a GPU
            stack.enter_context(_AboveOperators())
            if lacks_engine(self.device.type):
                stack.enter_context(released_by_unpacking())
                stack.enter_context(replaced(F, "scaled_dot_product_attention", _efficient_attention))
            if self.device.type == "cuda":  # autocast asks for the GPU itself
                stack.enter_context(replaced(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
                stack.enter_context(replaced(torch.cuda, "is_bf16_supported", lambda *of_what: True))
            super().__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fakes = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)]
        with unset_fake_temporarily():
            if not fakes and not self._is_ours(kwargs.get("device")):
                return func(*args, **kwargs)
            answer = self._made_up(func, args, kwargs)
        if answer is not None:
            return answer
        self._count(func, fakes)
        return func(*self._selecting_all(func, args), **kwargs)

    def _is_ours(self, device: Any) -> bool:
        return device is not None and torch.device(device).type == self.device.type

    def _made_up(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """What the host gets when it asks for data; None where it does not."""
        if func is aten._local_scalar_dense.default:
            self._note(func)
            return True if args[0].dtype is torch.bool else torch.zeros((), dtype=args[0].dtype).item()
        if func is aten._to_copy.default and kwargs.get("device") is not None and not self._is_ours(kwargs["device"]):
            self._note(func)
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=kwargs["device"])
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            self._note(func)
            return args[0].zero_()
        if func is aten.nonzero.default:
            self._note(func)
            return self._send(torch.ones(args[0].shape).nonzero())
        return None

    def _selecting_all(self, func: Any, args: tuple) -> tuple:
        """An index by a mask, for which a device counts what is set, as one that takes everything."""
        if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            return args
        if not any(x is not None and x.dtype is torch.bool for x in args[1]):
            return args
        self._note(func)
        indices = []
        for index in args[1]:
            by_mask = index is not None and index.dtype is torch.bool
            indices += self._everywhere(index.shape) if index is not None and by_mask else [index]
        return (args[0], indices, *args[2:])

    def _everywhere(self, shape: torch.Size) -> list[Tensor]:
        """The indices of a mask that is set everywhere."""
        with unset_fake_temporarily():
            found = torch.ones(shape).nonzero().unbind(1)
        return [self._send(index) for index in found]

    def _send(self, tensor: Tensor) -> Tensor:
        with self.fake:
            return self.fake.from_tensor(tensor).to(self.device)

    def _note(self, func: Any) -> None:
        in_list = any(frame.f_code.co_name == "tolist" for frame in _frames())
        wait = Wait("tolist" if in_list else func._schema.name.partition("::")[2], _asking_line())
        if not in_list or wait not in self.waits[-1:]:  # a list is asked for number by number, where it is one transfer
            self.waits.append(wait)

    def _count(self, func: Any, fakes: list[FakeTensor]) -> None:
        name = func._schema.name.partition("::")[2]
        if name in PRODUCTS or "attention" in name:
            self.products[name, fakes[0].dtype, _asking_line()] += 1

    def move(self, model: nn.Module) -> nn.Module:
        """The model with its parameters and buffers on the device, in place; what modules share stays shared."""
        moved: dict[Tensor, Tensor] = {}
        for module in model.modules():
            for slots in cast("list[dict[str, Any]]", [module._parameters, module._buffers]):
                for name, tensor in slots.items():
                    if tensor is not None:
                        slots[name] = moved.setdefault(tensor, self._like(tensor))
        return model

    def _like(self, tensor: Tensor) -> Any:
        with self.fake:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.device)
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


class _AboveOperators(TorchFunctionMode):
    """What cannot be pretended operator by operator: arrays of tensors without data, and backward passes without a GPU.

    An array is zeros, which is what a CPU that is pretended shows the host.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            return np.zeros(args[0].shape, str(args[0].dtype).removeprefix("torch."))
        if func is Tensor.backward and lacks_engine(args[0].device.type):
            return walk_backward(args[0])
        return func(*args, **kwargs)


def _efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """As `F.scaled_dot_product_attention` on a GPU, which keeps no matrix of all pairs; without a GPU torch would.

    In autocast's dtype where that is on.
    """
    if not lacks_engine(query.device.type):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=dtype).masked_fill(~attn_mask, -torch.inf)
    bias = None if attn_mask is None else attn_mask.to(dtype).expand(*query.shape[:-1], key.shape[-2])
    keeps = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    attend = aten._scaled_dot_product_efficient_attention
    return attend(query, key, value, bias, keeps, dropout_p, is_causal, scale=scale)[0]


def _frames() -> Iterator[FrameType]:
    """The calls that are under way, innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _asking_line() -> str:
    """The innermost line of this project, outside of this file."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and file != __file__:
            return f"{file}:{frame.f_lineno} ({frame.f_code.co_name})"
    return "code of others"
