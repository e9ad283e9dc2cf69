"""How to sum rows of a table with weights, many rows per output: the inner loop of deformable attention.

    out[n] = sum_k weights[n, k] * table[rows[n, k]]        table (R, D), rows and weights (N, K), out (N, D)

The same sum in several forms, each right everywhere and each best somewhere:

- `sum_rows_bag`: torch's `embedding_bag`, any device. A fast forward; on the CPU a slow backward.
- `sum_rows_sparse`: the same forward, and a CPU backward that reads the weights as a sparse N x R matrix: the gradient
  of the table is a product with the transposed matrix, that of the weights a product sampled at its entries.
- `sum_rows_gather`: plain indexing, for exported graphs. The slowest on the CPU.

`python tools/benchmark.py deformable` measures them; the results are in benchmarks/RESULTS.md.
"""

import warnings
from typing import Any

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinov2_detrex.runtime.compiling import is_traced


def sum_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """The best form for where this runs. A kernel for another device would be chosen here.

    Args:
        table: (R, D), float32 or float64.
        rows: (N, K), int32 or int64, in [0, R).
        weights: (N, K), of the table's dtype.

    Returns:
        (N, D).
    """
    device = table.device.type
    if device not in ("cpu", "cuda") or is_traced():
        return sum_rows_gather(table, rows, weights)
    return (sum_rows_sparse if suits_sparse_backward(table) else sum_rows_bag)(table, rows, weights)


def suits_sparse_backward(values: Tensor) -> bool:
    """Whether gradients on the CPU are wanted and sparse products are to be had."""
    wanted = torch.is_grad_enabled() and not is_traced()
    return wanted and values.device.type == "cpu" and torch.backends.mkl.is_available()


def sum_rows_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def sum_rows_gather(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return (table[rows] * weights[..., None]).sum(dim=-2)


def sum_rows_sparse(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return _SparseSum.apply(table, rows, weights)


class _SparseSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        return sum_rows_bag(table, rows, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, weights = ctx.saved_tensors
        needs_table, _, needs_weights = ctx.needs_input_grad
        grad_table = transposed_product(rows, weights, grad, len(table)) if needs_table else None
        return grad_table, None, sampled_product(rows, grad, table) if needs_weights else None


def transposed_product(rows: Tensor, weights: Tensor, grad: Tensor, num_rows: int) -> Tensor:
    """The table's gradient: for every of its rows the weighted sum of the `grad` rows that used it, once more in bags.

    Args:
        rows, weights: (N, K), of `sum_rows`.
        grad: (N, D).
        num_rows: R, of the table.

    Returns:
        (R, D).
    """
    if _has_no_data(grad):
        return grad.new_empty(num_rows, grad.shape[1])
    arrays = (weights.flatten().numpy(), rows.flatten().numpy(), _row_pointers(rows).numpy())
    users = scipy.sparse.csr_matrix(arrays, shape=(len(rows), num_rows)).tocsc()
    index, offsets, weights = map(torch.from_numpy, (users.indices, users.indptr, users.data))
    grad = grad.contiguous()
    return F.embedding_bag(index, grad, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def sampled_product(rows: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """The weights' gradient (N, K): the dot products grad[n] . table[rows[n, k]]; arguments as above."""
    if _has_no_data(grad):
        return grad.new_empty(rows.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        zeros, shape = grad.new_zeros(rows.numel()), (len(rows), len(table))
        pattern = torch.sparse_csr_tensor(_row_pointers(rows), rows.flatten(), zeros, shape, check_invariants=False)
    torch.sparse.sampled_addmm(pattern, grad.contiguous(), table.t(), beta=0.0, out=pattern)
    return pattern.values().view_as(rows)


def _row_pointers(rows: Tensor) -> Tensor:
    """Where each row's entries begin in a sparse matrix of K entries a row; its length ends them."""
    return torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=rows.dtype)


def _has_no_data(tensor: Tensor) -> bool:
    """Whether this is one to plan with."""
    return type(tensor) is not Tensor
