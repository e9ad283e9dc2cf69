"""How to sum rows of a table with weights, many rows per output: the inner loop of deformable attention.

    out[n] = sum_k weights[n, k] * table[rows[n, k]]        table (R, D), rows and weights (N, K), out (N, D)

Two forms of it, each right everywhere:

- `sum_rows_bag`: torch's `embedding_bag`, any device. A fast forward; on the CPU a slow backward.
- `sum_rows_gather`: plain indexing, for exported graphs. The slowest on the CPU.

And the gradients of the sum on a CPU, for which the weights are read as a sparse N x R matrix: that of the table is a
product with the transposed matrix, that of the weights a product sampled at its entries (`sampled_sum` takes them).

`python tools/benchmark.py deformable` measures them; the results are in benchmarks/RESULTS.md.
"""

import warnings

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2_detrex.runtime.compiling import is_traced


def sum_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """The better form for where this runs.

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
    return sum_rows_bag(table, rows, weights)


def suits_sparse_backward(values: Tensor) -> bool:
    """Whether gradients on the CPU are wanted and sparse products are to be had."""
    wanted = torch.is_grad_enabled() and not is_traced()
    return wanted and values.device.type == "cpu" and torch.backends.mkl.is_available()


def sum_rows_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def sum_rows_gather(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return (table[rows] * weights[..., None]).sum(dim=-2)


def transposed_product(rows: Tensor, weights: Tensor, grad: Tensor, num_rows: int) -> Tensor:
    """The table's gradient: for every of its rows the weighted sum of the `grad` rows that used it.

    scipy reads the weights as the columns of the transposed matrix and adds as it goes; MKL and bags of torch's would
    have them sorted by table row first, which takes longer than the sums.

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
    used = scipy.sparse.csr_matrix(arrays, shape=(len(rows), num_rows))
    return torch.from_numpy(used.T @ grad.numpy())


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
