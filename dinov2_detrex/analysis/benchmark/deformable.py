"""Which form of deformable attention is fastest, and are they all the same? Time, and difference from float64.

The one that the detector takes, the plain sums of `detector.weighted_rows`, and the usual one, a `grid_sample` for
every level (Zhu et al. 2021).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dinov2_detrex.analysis.benchmark.timing import as_table, best_times, largest_difference, peak_column
from dinov2_detrex.detector import weighted_rows
from dinov2_detrex.detector.deformable_attention import multi_scale_deformable_attention
from dinov2_detrex.detector.deformable_kernel import attend, by_grid_sample, kernel_serves
from dinov2_detrex.detector.sampled_rows import bilinear_rows, bordered

Operator = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Self-attention over all cells of the levels (height, width), as in the encoder."""

    name: str
    shapes_hw: tuple[tuple[int, int], ...]
    num_images: int = 1
    num_heads: int = 8
    width: int = 32
    num_points: int = 4

    @property
    def num_cells(self) -> int:
        return sum(h * w for h, w in self.shapes_hw)

    def __str__(self) -> str:
        size = f"{self.num_images} x {self.num_cells:,} queries, {self.num_heads} heads of {self.width}"
        return f"{self.name}: {size}, {len(self.shapes_hw)} levels, {self.num_points} points"


CASES = (
    Case("encoder at 512 pixels", ((64, 64), (32, 32), (16, 16), (8, 8))),
    Case("encoder of the quickstart", ((16, 16), (8, 8), (4, 4), (2, 2)), num_images=8, num_heads=4),
)


def report(device: torch.device, repeats: int, cases: Sequence[Case] = CASES) -> str:
    """A table of `form_rows` for every case."""
    return "\n\n".join(f"{case}\n\n{as_table(form_rows(case, repeats, device))}" for case in cases)


def form_rows(case: Case, repeats: int, device: torch.device) -> list[dict]:
    """One row for each form: time of the forward pass, of forward and backward, and largest differences."""
    inputs = random_inputs(case, device)
    shape = (case.num_images, case.num_cells, case.num_heads * case.width)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    operators = forms(device)
    forward = {name: lambda op=op: op(inputs[0], case.shapes_hw, *inputs[1:]) for name, op in operators.items()}
    both = {name: lambda op=op: with_gradients(op, case.shapes_hw, inputs, grad) for name, op in operators.items()}
    with torch.no_grad():
        forward_s = best_times(forward, repeats, device)
    both_s = best_times(both, repeats, device)
    exact = with_gradients(by_grid_sample, case.shapes_hw, [x.double() for x in inputs], grad.double())
    rows = []
    for name in operators:
        row = {"form": name, **columns("forward", forward_s, name), **columns("forward + backward", both_s, name)}
        differences = [largest_difference(x, y) for x, y in zip(both[name](), exact)]
        row |= {"difference: output": differences[0], "gradients": max(differences[1:])}
        rows.append(row | peak_column(both[name], device))
    return rows


def columns(what: str, seconds: dict[str, float], name: str) -> dict[str, float]:
    """A time, and its ratio to the `grid_sample` form's."""
    return {f"{what}, ms": 1000 * seconds[name], f"{what} : grid_sample": seconds[name] / seconds["grid_sample"]}


def forms(device: torch.device) -> dict[str, Operator]:
    """The forms that run on this device; `in pieces` is for CPUs, the Triton kernel for GPUs."""
    found: dict[str, Operator] = {"grid_sample": by_grid_sample}
    if kernel_serves(torch.empty(0, device=device)):
        found["Triton kernel"] = attend
    if device.type == "cpu":
        found["in pieces, backward in closed form"] = multi_scale_deformable_attention
    found["embedding_bag, torch's backward"] = in_form(weighted_rows.sum_rows_bag)
    found["gather"] = in_form(weighted_rows.sum_rows_gather)
    return found


def in_form(form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Operator:
    """The operator with one of the forms of the weighted sum."""

    def operator(value, shapes_hw, locations, weights):
        table = bordered(value.flatten(2), shapes_hw).reshape(-1, value.shape[-1])
        return form(table, *bilinear_rows(locations, weights, shapes_hw)).view(len(value), -1, value[0, 0].numel())

    return operator


def with_gradients(operator: Operator, shapes_hw, inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Output, and gradients of values, locations and weights for the output's gradient `grad`."""
    value, locations, weights = (x.detach().requires_grad_() for x in inputs)
    out = operator(value, shapes_hw, locations, weights)
    return (out, *torch.autograd.grad(out, (value, locations, weights), grad))


def random_inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations a few cells around each query's own cell, and weights that add up to 1; always the same.

    No location lies just between two cells, where the gradient jumps and rounding would decide which one is right.
    """
    generator = torch.Generator().manual_seed(0)
    per_query = (case.num_images, case.num_cells, case.num_heads, len(case.shapes_hw), case.num_points)
    value = torch.randn(case.num_images, case.num_cells, case.num_heads, case.width, generator=generator)
    sizes_wh = torch.tensor([(w, h) for h, w in case.shapes_hw], dtype=torch.float32)[:, None]  # L 1 2
    moved = 2 * torch.randn(*per_query, 2, generator=generator)
    cells = centres(case.shapes_hw)[:, None, None, None] * sizes_wh + moved
    cells = cells.floor() + (cells - cells.floor()).clamp(0.01, 0.99)
    weights = torch.randn(*per_query, generator=generator).flatten(3).softmax(-1).view(per_query)
    return value.to(device), ((cells + 0.5) / sizes_wh).to(device), weights.to(device)


def centres(shapes_hw: Sequence[tuple[int, int]]) -> Tensor:
    """(S, 2): (x, y) of every cell's centre, normalised to its level."""
    levels = []
    for h, w in shapes_hw:
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        levels.append(torch.stack((x, y), dim=-1).flatten(0, 1))
    return torch.cat(levels)
