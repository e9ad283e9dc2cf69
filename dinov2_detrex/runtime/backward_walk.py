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
        grad = None if grad is None else _fitting(grad, node._input_metadata[number])
        before = inputs[number]
        inputs[number] = grad if before is None else before if grad is None else before + grad

    give(loss.grad_fn, 0, torch.ones_like(loss))
    with replaced(torch._C, "_current_graph_task_id", lambda: 1):  # recomputing layers ask which pass they are in
        while queue:
            node = heapq.heappop(queue)[-1]
            for (following, number), grad in _run(node, received.pop(node)):
                give(following, number, grad)
            del node


def _fitting(grad: Tensor, wanted: Any) -> Tensor:
    """The gradient summed over what was broadcast, and in the dtype of what it is the gradient of."""
    grad = grad if grad.shape == wanted.shape else grad.sum_to_size(wanted.shape)
    return grad.to(wanted.dtype)


def _run(node: Any, inputs: list[Tensor | None]) -> list[tuple[tuple[Any, int], Tensor | None]]:
    """The edges along which a node passes on gradients, each with its gradient; what the node saved is let go."""
    inputs += [None] * (len(node._input_metadata) - len(inputs))
    if all(grad is None for grad in inputs):
        return [(edge, None) for edge in node.next_functions if edge[0] is not None]
    in_python = hasattr(node, "_forward_cls")  # then there is a gradient for every argument, also one that is no tensor
    grads = node.apply(*inputs) if in_python else node(*inputs)
    for saved in _unpacked:
        saved.tensor = None
    _unpacked.clear()
    grads = grads if isinstance(grads, tuple) else (grads,)
    if in_python:
        grads = [grad for grad, needed in zip(grads, node.needs_input_grad) if needed]
        return list(zip([edge for edge in node.next_functions if edge[0] is not None], grads))
    return [(edge, grad) for edge, grad in zip(node.next_functions, grads) if edge[0] is not None]


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
