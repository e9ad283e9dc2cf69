"""How does a backward pass run on a GPU that is not there? The graph is walked in Python: torch's engine wants streams.

Nodes run in the engine's order, the one that was made last first; what a node saved is let go once it has run, so that
memory is held as long as under the engine. Hooks of tensors are not called.
"""

import contextlib
import heapq
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_unpacked: list["_Saved"] = []  # by the node that runs


class _Saved:
    """A tensor that a node saved, until it has run."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor: Tensor | None = tensor.detach()  # the output of a node would keep the node


def lacks_engine(device_type: str) -> bool:
    """True for tensors on CUDA where there is no GPU."""
    return device_type == "cuda" and not torch.cuda.is_available()


def released_by_unpacking() -> saved_tensors_hooks:
    """Inside, what nodes save is let go by `walk_backward`; a forward pass whose graph it is to walk runs in this."""

    def unpack(saved: _Saved) -> Tensor:
        if saved.tensor is None:
            raise RuntimeError("a second backward pass through the same graph")
        _unpacked.append(saved)
        return saved.tensor

    return saved_tensors_hooks(_Saved, unpack)


@torch.no_grad()
def walk_backward(loss: Tensor) -> None:
    """Accumulate the gradients of a scalar, as `loss.backward()` does."""
    count = itertools.count()
    queue: list[tuple[int, int, Any]] = []
    received: dict[Any, list[Tensor | None]] = {}

    def give(node: Any, number: int, grad: Tensor | None) -> None:
        if node not in received:
            received[node] = []
            heapq.heappush(queue, (-node._sequence_nr(), next(count), node))
        inputs = received[node]
        inputs += [None] * (number + 1 - len(inputs))
        before = inputs[number]
        inputs[number] = grad if before is None else before if grad is None else before + grad

    give(loss.grad_fn, 0, torch.ones_like(loss))
    with replaced(torch._C, "_current_graph_task_id", lambda: 1):  # recomputing layers ask which pass they are in
        while queue:
            node = heapq.heappop(queue)[-1]
            grads = _run(node, received.pop(node))
            for (following, number), grad in zip(node.next_functions, grads):
                if following is not None:
                    give(following, number, grad)
            del grads, node


def _run(node: Any, inputs: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The gradients that a node passes on; what it saved is let go."""
    inputs += [None] * (len(node._input_metadata) - len(inputs))
    if all(grad is None for grad in inputs):
        return (None,) * len(node.next_functions)
    grads = node.apply(*inputs) if hasattr(node, "_forward_cls") else node(*inputs)
    for saved in _unpacked:
        saved.tensor = None
    _unpacked.clear()
    return grads if isinstance(grads, tuple) else (grads,)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
