"""How does Muon step? Weight matrices move by the whole of their momentum's directions, everything else by AdamW.

The gradient of a matrix is dominated by a few directions. Muon takes the momentum U S V^T of a matrix as U V^T, so that
rare directions move as far as frequent ones (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
networks"). Scaled as by Liu et al. 2025 ("Muon is scalable for LLM training", section 2.2), an update is as large as
one of AdamW, so both share learning rate and weight decay.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from detectron2.solver.build import get_default_optimizer_params
from torch import Tensor, nn

from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.values import require_share
from dinov2_detrex.training.parallel import distribute_like, whole

SMALLEST_SIDE = 32  # of a matrix; smaller ones are heads and embeddings of a few things
UPDATE_RMS = 0.2  # root mean square of an update's entries, of AdamW as of this
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1 (Jordan et al. 2024)
ITERATIONS = 5
OUTPUTS = "class_embed"  # the last layers of the class heads


def matrices_apart(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    """detectron2's parameter groups, each divided into weight matrices of hidden layers and the rest.

    Args:
        model: the trainer sets it.
        settings: as of `get_default_optimizer_params`.

    Returns:
        groups with "params", their hyper-parameters, and "orthogonal": whether `Muon` takes them for matrices.
    """
    hidden = {id(p) for p in hidden_matrices(model)}
    divided = []
    for group in get_default_optimizer_params(model, **settings):
        for orthogonal in (False, True):
            params = [p for p in group["params"] if (id(p) in hidden) == orthogonal]
            divided += [group | {"params": params, "orthogonal": orthogonal}] if params else []
    return divided


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of linear layers and attention, but for class heads, embeddings, and matrices with a short side."""
    return [
        parameter
        for module_name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.MultiheadAttention)) and OUTPUTS not in module_name
        for parameter in module.parameters(recurse=False)
        if parameter.dim() == 2 and min(parameter.shape) >= SMALLEST_SIDE
    ]


class Muon(torch.optim.AdamW):
    """AdamW whose groups with "orthogonal" step by orthogonalised momentum.

    Args:
        params: groups of `matrices_apart`.
        lr, weight_decay: of all groups.
        momentum: of the matrices (Nesterov's).
        adamw: `betas`, `eps` and so on, for everything else.

    Raises:
        UsageError: no group is marked.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        **adamw: Any,
    ):
        require_share(self, momentum=momentum)
        self.momentum = momentum
        super().__init__(params, lr=lr, weight_decay=weight_decay, **adamw)
        if not any(group.get("orthogonal") for group in self.param_groups):
            raise UsageError(
                "Muon got no weight matrices; its params must be those of dinov2_detrex.training.muon.matrices_apart"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = self.param_groups
        self._step_matrices([group for group in every if group.get("orthogonal")])
        self.param_groups = [group for group in every if not group.get("orthogonal")]
        try:
            super().step()
        finally:
            self.param_groups = every
        return loss

    def _step_matrices(self, groups: list[dict[str, Any]]) -> None:
        """Matrices of one shape are orthogonalised together."""
        by_shape: dict[tuple[Any, ...], list[tuple[nn.Parameter, dict[str, Any]]]] = defaultdict(list)
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape, parameter.device, parameter.dtype].append((parameter, group))
        for (shape, *_), members in by_shape.items():
            directions = torch.stack([whole(self._direction(parameter)) for parameter, _ in members])
            scale = UPDATE_RMS * max(shape) ** 0.5
            for (parameter, group), update in zip(members, orthogonalised(directions)):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(distribute_like(update, parameter), alpha=group["lr"] * scale)

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """The gradient and its momentum, which is kept."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["step"] = torch.zeros(())  # which AdamW looks for when it loads a state
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["step"] += 1
        return grad.add(state["momentum_buffer"].mul_(self.momentum).add_(grad), alpha=self.momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(N, n, m), U S V^T each, to about U V^T: singular values come to lie between 0.7 and 1.2.

    Newton-Schulz iterations with the coefficients of Jordan et al. 2024; products of matrices alone.
    """
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        x = polynomial @ x
    return x.mT if tall else x
