"""Does all of this work on a GPU, and how fast? One report for whoever has one, to be pasted into an issue.

Deformable attention against float64 and against the kernel of others; detectors in training and inference; hidden waits
of the host; DDP and FSDP2. Every part says what failed and the others go on.
"""

import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from dinov2_detrex.analysis.benchmark import deformable
from dinov2_detrex.analysis.benchmark.detector import Case, Detector, measure_case
from dinov2_detrex.analysis.benchmark.limits import Limits, copy_rate, measure_limits
from dinov2_detrex.analysis.benchmark.timing import as_table, best_times, header, largest_difference
from dinov2_detrex.config.train_options import DdpOptions, FsdpOptions
from dinov2_detrex.detector.deformable_attention import multi_scale_deformable_attention
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.training import parallel
from dinov2_detrex.training.distributed import Processes, launch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}  # relative to the largest entry
ODD = deformable.Case("odd sizes", ((13, 17), (7, 9), (3, 5), (1, 1)), num_images=2, num_heads=3, width=20)
CASES = (*deformable.CASES, deformable.Case("encoder at 1024 pixels", ((128, 128), (64, 64), (32, 32), (16, 16))))
MODELS = {letter: f"dino_dinov2_{letter.lower()}_12ep" for letter in "SBL"}
TINY = "dino_dinov2_tiny_shapes"
OTHERS_KERNEL = "kernels-community/deformable-detr"

Section = Callable[[], str]


def report(
    device: torch.device,
    repeats: int = 10,
    sizes_px: Sequence[int] = (518, 800, 1024),
    models: Sequence[str] = tuple(MODELS),
    batch: int = 2,
    cases: Sequence[deformable.Case] = CASES,
    overrides: Sequence[str] = (),
) -> str:
    """The whole report, in Markdown.

    Args:
        device: "cuda", or "cpu" to try the report itself.
        repeats: the fastest run counts.
        sizes_px: sides of square images.
        models: of `MODELS`, or names of configs.
        batch: images at once.
        cases: for which the operator is timed.
        overrides: of the models' configs.
    """
    sections: dict[str, Section] = {
        "Correct?": lambda: as_table(correctness(device, [ODD, *cases])),
        "Deformable attention": lambda: operator_tables(device, repeats, cases),
        "Detectors": lambda: as_table(detector_rows(device, repeats, sizes_px, models, batch, overrides)),
        "Waits of the host in a training step": lambda: waits(device, overrides),
        "Several processes": lambda: several_processes(device, overrides),
    }
    parts = [f"## {name}\n\n{attempt(section)}" for name, section in sections.items()]
    return "\n\n".join(["# GPU check", f"```\n{header()}\n{memory_of(device)}\n```", *parts])


def attempt(section: Section) -> str:
    """What a section says, or what went wrong in it."""
    try:
        return section()
    except UserError as error:  # it names what is missing here
        return f"not tried: {error}"
    except Exception as error:  # one part that fails must not hide what the others found
        return f"FAILED: {one_line(error)}\n\n```\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}```"


def memory_of(device: torch.device) -> str:
    """The device's memory and compute capability."""
    if device.type != "cuda":
        return f"device: {device}"
    found = torch.cuda.get_device_properties(device)
    return f"device: {found.name}, {found.total_memory / 2**30:.1f} GiB, compute capability {found.major}.{found.minor}"


def correctness(device: torch.device, cases: Sequence[deformable.Case]) -> list[dict]:
    """Largest differences of the operator's output and gradients from `grid_sample` in float64, relative."""
    rows = []
    for case in cases:
        inputs = deformable.random_inputs(case, device)
        for dtype in DTYPES:
            own = [inputs[0].to(dtype), inputs[1], inputs[2].to(dtype)]
            shape = (case.num_images, case.num_cells, case.num_heads * case.width)
            grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
            found = deformable.with_gradients(multi_scale_deformable_attention, case.shapes_hw, own, grad)
            doubles = [x.double() for x in own]
            exact = deformable.with_gradients(deformable.by_grid_sample, case.shapes_hw, doubles, grad.double())
            differences = [largest_difference(x, y) for x, y in zip(found, exact)]
            names = ("output", "values", "locations", "weights")
            verdict = "ok" if max(differences) < TOLERANCE[dtype] else "WRONG"
            row = {"case": case.name, "dtype": str(dtype).removeprefix("torch."), **dict(zip(names, differences))}
            rows.append(row | {"": verdict})
    return rows


def operator_tables(device: torch.device, repeats: int, cases: Sequence[deformable.Case]) -> str:
    """Times of the forms for every case and dtype, and the share of the memory's rate that each reaches."""
    rate = copy_rate(device, repeats)
    blocks = [f"memory: {rate / 1e9:.0f} GB/s, read and written"]
    others, why_not = others_operator(device)
    for case in cases:
        for dtype in DTYPES:
            rows = operator_rows(case, dtype, device, repeats, rate, others)
            blocks.append(f"{case}, {str(dtype).removeprefix('torch.')}\n\n{as_table(rows)}")
    return "\n\n".join([*blocks, *([why_not] if why_not else [])])


def operator_rows(
    case: deformable.Case,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    bytes_per_s: float,
    others: deformable.Operator | None,
) -> list[dict]:
    """A row for each form that takes the dtype: ms, ratio, and least traffic over time over the memory's rate."""
    value, locations, weights = deformable.random_inputs(case, device)
    inputs = (value.to(dtype), locations.to(dtype), weights.to(dtype))
    grad = torch.ones(case.num_images, case.num_cells, case.num_heads * case.width, device=device, dtype=dtype)
    operators = deformable.forms(device) | ({OTHERS_KERNEL: others} if others else {})
    forward, both, failed = {}, {}, []
    for name, operator in operators.items():
        forward[name] = partial(operator, inputs[0], case.shapes_hw, *inputs[1:])
        both[name] = partial(deformable.with_gradients, operator, case.shapes_hw, inputs, grad)
        try:
            both[name]()
        except (RuntimeError, TypeError) as error:  # a form may not take the dtype
            failed.append({"form": name, "forward, ms": one_line(error)[:60]})
            del forward[name], both[name]
    with torch.no_grad():
        forward_s = best_times(forward, repeats, device)
    both_s = best_times(both, repeats, device)
    least_s, rows = least_bytes(inputs) / bytes_per_s, []
    for name in both:
        share = {"share of memory's rate, %": 100 * least_s / forward_s[name]}
        row = {"form": name, "forward, ms": 1e3 * forward_s[name], **share}
        rows.append(row | {"forward + backward, ms": 1e3 * both_s[name], "of it, %": 300 * least_s / both_s[name]})
    return [*rows, *failed]


def least_bytes(inputs: Sequence[Tensor]) -> int:
    """What a forward pass has to read and write at least: every input once, and the output."""
    value, locations, _ = inputs
    num_outputs = locations.shape[0] * locations.shape[1] * value.shape[2] * value.shape[3]
    return sum(x.nbytes for x in inputs) + num_outputs * value.element_size()


class _OthersKernel(torch.autograd.Function):
    """The compiled kernel of Deformable DETR, as the Hub's `kernels` distributes it."""

    @staticmethod
    def forward(ctx, kernel, value, shapes, starts, locations, weights):
        ctx.kernel = kernel
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        return kernel.ms_deform_attn_forward(value, shapes, starts, locations, weights, len(value))

    @staticmethod
    def backward(ctx, grad):
        value, *saved = ctx.saved_tensors
        grads = ctx.kernel.ms_deform_attn_backward(value, *saved, grad.contiguous(), len(value))
        return None, grads[0], None, None, grads[1], grads[2]


def others_operator(device: torch.device) -> tuple[deformable.Operator | None, str]:
    """Their operator in the form of ours, where it can be had; else why not."""
    if device.type != "cuda":
        return None, f"{OTHERS_KERNEL} needs CUDA"
    try:
        from kernels import get_kernel  # pyright: ignore[reportMissingImports]  # not a dependency

        kernel = get_kernel(OTHERS_KERNEL)
    except Exception as error:  # not installed, no network, no build for this torch: all are reasons to go on without
        return None, f"{OTHERS_KERNEL} is not compared: {one_line(error)} (pip install kernels)"

    def operator(value: Tensor, shapes_hw, locations: Tensor, weights: Tensor) -> Tensor:
        shapes = torch.tensor(shapes_hw, device=device)
        areas = shapes.prod(1)
        return _OthersKernel.apply(kernel, value, shapes, areas.cumsum(0) - areas, locations, weights)

    return operator, ""


def detector_rows(
    device: torch.device,
    repeats: int,
    sizes_px: Sequence[int],
    models: Sequence[str],
    batch: int,
    overrides: Sequence[str],
) -> list[dict]:
    """Images a second of inference and training steps in bfloat16 autocast, or what an error says."""
    dtype = "bfloat16"
    limits: Limits = measure_limits(device, [torch.bfloat16], repeats)
    rows = []
    for name in models:
        detector = Detector(MODELS.get(name, name), overrides, device)
        for side in sizes_px:
            try:
                measured = measure_case([detector], Case((side, side), batch, dtype), limits, repeats)
            except (torch.cuda.OutOfMemoryError, UserError) as error:
                rows.append({"model": name, "size": side, "work": one_line(error)[:60]})
                continue
            for row in measured:
                kept = {key: row[key] for key in ("work", "batch", "images/s", "limit : time", "peak, MiB")}
                rows.append({"model": name, "size": side, **kept})
        del detector
    return rows


def waits(device: torch.device, overrides: Sequence[str] = ()) -> str:
    """Where CUDA says that the host waits in a step of the tiny detector; one place is meant: the assignment."""
    if device.type != "cuda":
        return "counted on CUDA alone"
    detector = Detector(TINY, overrides, device)
    step = detector.runs(Case((128, 128), 2, "bfloat16"))
    model, inputs = detector.model.train(), detector.inputs(Case((128, 128), 2, "bfloat16"))
    step["training step"]()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with torch.autocast("cuda", torch.bfloat16):
                losses = model(inputs)
            torch.as_tensor(sum(losses.values())).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    return f"{len(places)}: {', '.join(places)}"


def several_processes(device: torch.device, overrides: Sequence[str] = (), count: int = 2) -> str:
    """A step of the tiny detector in `count` processes, by DDP and by FSDP2: finite and equal losses."""
    if device.type == "cuda" and torch.cuda.device_count() < count:
        return f"not tried: {torch.cuda.device_count()} GPU"
    found = []
    for name in ("DDP", "FSDP2"):
        arguments = (device.type, name == "FSDP2", tuple(overrides))
        found.append(f"{name}: {attempt(partial(_launched, arguments, count, device.type == 'cuda'))}")
    return "\n".join(found)


def _launched(arguments: tuple, count: int, use_cuda: bool) -> str:
    status = launch(one_step, arguments, Processes(count), use_cuda)
    return f"{count} processes, ok" if status == 0 else f"ended with status {status}"


def one_step(device_type: str, sharded: bool, overrides: tuple[str, ...]) -> int:
    """Forward, backward and optimizer in one process of several; 0 if the weights are the same in all afterwards."""
    device = torch.device(device_type, dist.get_rank()) if device_type == "cuda" else torch.device(device_type)
    torch.manual_seed(0)
    detector = Detector(TINY, overrides, device)
    model = parallel.wrap(detector.model.train(), DdpOptions(), FsdpOptions(enabled=sharded), device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = model(detector.inputs(Case((128, 128), 2, "float32")))
    total = torch.as_tensor(sum(losses.values()))
    total.backward()
    optimizer.step()
    weights = [parallel.full_tensor(p.detach()).double().sum() for p in model.parameters()]
    own = torch.stack([total.detach().double(), *(w.to(device) for w in weights)])
    all_ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(all_ranks, own)
    same = all(torch.equal(other[1:], own[1:]) for other in all_ranks)
    return 0 if same and bool(own.isfinite().all()) else 1
