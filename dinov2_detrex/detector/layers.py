"""The small layers that the transformer and the heads are made of: perceptron, feed-forward, attention."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dinov2_detrex.runtime.compiling import is_traced
from dinov2_detrex.runtime.values import require_heads, require_share, require_whole


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, float32 and float64 as they are: for coordinates, scores and losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Logit of x in 0..1, limited to +-log(1/eps)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class MLP(nn.Module):
    """Linear layers with ReLU between them: (..., input_dim) -> (..., output_dim)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        require_whole(self, 1, input_dim=input_dim, hidden_dim=hidden_dim, output_dim=output_dim, num_layers=num_layers)
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in zip(widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class FFN(nn.Module):
    """The transformer's feed-forward block with its residual (Vaswani et al. 2017, 3.3).

    Args:
        embed_dim: width of the input.
        feedforward_dim: width between the linear layers.
        output_dim: width of the output, `embed_dim` if None.
        num_fcs: number of linear layers, at least 2.
        activation: a module, used between the linear layers.
        ffn_drop: dropout after every linear layer.
        fc_bias: whether the linear layers have biases.
        add_identity: add the residual.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 1024,
        output_dim: int | None = None,
        num_fcs: int = 2,
        activation: nn.Module | None = None,
        ffn_drop: float = 0.0,
        fc_bias: bool = True,
        add_identity: bool = True,
    ):
        super().__init__()
        if num_fcs < 2:
            raise AssertionError(f"a feed-forward block has at least 2 linear layers, got num_fcs={num_fcs}")
        require_whole(self, 1, embed_dim=embed_dim, feedforward_dim=feedforward_dim)
        require_share(self, ffn_drop=ffn_drop)
        self.embed_dim = embed_dim
        self.feedforward_dim = feedforward_dim
        self.add_identity = add_identity
        activation = activation or nn.ReLU(inplace=True)
        widths = [embed_dim] + [feedforward_dim] * (num_fcs - 1)
        hidden = [
            nn.Sequential(nn.Linear(n, m, bias=fc_bias), activation, nn.Dropout(ffn_drop))
            for n, m in zip(widths, widths[1:])
        ]
        last = nn.Linear(feedforward_dim, output_dim or embed_dim, bias=fc_bias)
        self.layers = nn.Sequential(*hidden, last, nn.Dropout(ffn_drop))

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(..., embed_dim) -> (..., output_dim); `identity` is the residual, x by default."""
        out = _feed_forward(x, *self._two_linear()) if self._is_large(x) else self._layer_by_layer(x)
        if not self.add_identity:
            return out
        return out + (x if identity is None else identity)

    def _layer_by_layer(self, x: Tensor) -> Tensor:
        """With gradients as a matrix: of more dimensions a linear layer gives a view, and an activation in place on a
        view copies the gradient twice."""
        if not torch.is_grad_enabled() or is_traced():
            return self.layers(x)
        return self.layers(x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    def _is_large(self, x: Tensor) -> bool:
        """Whether some rows at a time pay: two linear layers with ReLU, no dropout at work, and many hidden values."""
        if is_traced() or len(self.layers) != 3:
            return False
        first, _ = self._two_linear()
        plain = isinstance(self.layers.get_submodule("0.1"), nn.ReLU) and first.bias is not None
        dropped = self.training and any(m.p > 0 for m in self.layers.modules() if isinstance(m, nn.Dropout))
        hidden_values = x.numel() // self.embed_dim * self.feedforward_dim
        pays = x.device.type == "cpu" or torch.is_grad_enabled()  # elsewhere for what it does not keep alone
        return plain and not dropped and pays and hidden_values > HIDDEN_AT_ONCE

    def _two_linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers.modules() if isinstance(layer, nn.Linear)]


HIDDEN_AT_ONCE = 2**22  # hidden values of a feed-forward block that fit the caches


def _feed_forward(x: Tensor, first: nn.Linear, last: nn.Linear) -> Tensor:
    """Some rows at a time, (..., D) -> (..., D_out), in the dtype of autocast where that is on."""
    tensors = [x.flatten(0, -2), first.weight, first.bias, last.weight, last.bias]
    device = x.device.type
    if torch.is_autocast_enabled(device):
        tensors = [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]
    run = _RecomputedFeedForward.apply if torch.is_grad_enabled() else _rows_in_turn
    return run(*tensors).unflatten(0, x.shape[:-1])


def _rows_in_turn(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """linear(relu(linear(x))), some rows at a time, so that the hidden values stay in the caches."""
    out = x.new_empty(len(x), len(weight2))
    count = _rows_at_once(weight1)
    for rows, found in zip(x.split(count), out.split(count)):
        torch.addmm(bias2, F.linear(rows, weight1, bias1).relu_(), weight2.t(), out=found)
    return out


class _RecomputedFeedForward(torch.autograd.Function):
    """`_rows_in_turn`, which keeps no hidden values.

    They are computed again in the backward: a sixth more arithmetic, most of which the caches give back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight1, bias1, weight2)
        return _rows_in_turn(x, weight1, bias1, weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight1, bias1, weight2 = ctx.saved_tensors
        grads = grad_x, *_ = torch.empty_like(x), *map(torch.zeros_like, (weight1, bias1, weight2))
        count = _rows_at_once(weight1)
        for rows, grad_out, grad_rows in zip(x.split(count), grad.split(count), grad_x.split(count)):
            hidden = F.linear(rows, weight1, bias1).relu_()
            grad_hidden = torch.ops.aten.threshold_backward(grad_out @ weight2, hidden, 0)
            torch.mm(grad_hidden, weight1, out=grad_rows)
            for total, left, right in ((grads[1], grad_hidden, rows), (grads[3], grad_out, hidden)):
                total.addmm_(left.t(), right)
            grads[2].add_(grad_hidden.sum(0))
        return *grads, grad.sum(0)


def _rows_at_once(weight1: Tensor) -> int:
    return max(1, HIDDEN_AT_ONCE // len(weight1))


class MultiheadAttention(nn.Module):
    """torch's multi-head attention with positions added to query and key, and with its residual.

    Args:
        embed_dim, num_heads, batch_first, kwargs: as in `torch.nn.MultiheadAttention`.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output, before the residual.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        batch_first: bool = False,
        **kwargs: Any,
    ):
        super().__init__()
        require_heads(self, embed_dim, num_heads)
        require_share(self, attn_drop=attn_drop, proj_drop=proj_drop)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.attn = nn.MultiheadAttention(embed_dim, num_heads, dropout=attn_drop, batch_first=batch_first, **kwargs)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **ignored: Any,
    ) -> Tensor:
        """Attend and add the residual.

        Args:
            query: (B, Q, D) if `batch_first`, else (Q, B, D).
            key, value, identity: default to query, key, query.
            query_pos, key_pos: added to query and key, never to the value; `key_pos` defaults to `query_pos` where
                key and query have one shape.
            attn_mask: (Q, K) or (B * heads, Q, K), True where attention is blocked.
            key_padding_mask: (B, K), True where padded.
        """
        key = query if key is None else key
        value = key if value is None else value
        identity = query if identity is None else identity
        if key_pos is None and query_pos is not None:
            if query_pos.shape == key.shape:
                key_pos = query_pos
            else:
                warnings.warn(
                    f"no key_pos given, and query_pos {tuple(query_pos.shape)} does not fit the key", stacklevel=2
                )
        shared = key is query and key_pos is query_pos
        query = query if query_pos is None else query + query_pos
        key = query if shared else key if key_pos is None else key + key_pos
        out, _ = self.attn(
            query, key, value, attn_mask=attn_mask, key_padding_mask=key_padding_mask, need_weights=False
        )
        return identity + self.proj_drop(out)
