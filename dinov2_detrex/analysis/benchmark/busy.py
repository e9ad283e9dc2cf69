"""How much slower is a training step beside other programs? Wall time, with all threads, beside busy processes."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from detectron2.config import instantiate

from dinov2_detrex.analysis.benchmark.step import training_step
from dinov2_detrex.analysis.benchmark.timing import as_table, check_repeats
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.openmp import usable_cores, yield_when_busy

WAITS = {"spinning": nullcontext, "yielding": yield_when_busy}
SETTLE_S = 3.0  # before a row is timed: the watch of `yield_when_busy` sees a change of load within two looks
MAX_ROW_S = 20.0
SPIN = "while True: pass"


def report(
    device: torch.device,
    repeats: int,
    config_file: str,
    image_hw: tuple[int, int],
    most_busy: int,
    threads: int,
    overrides: Sequence[str],
) -> str:
    """The table of a recipe's training step, idle and beside busy single-threaded processes.

    Args:
        device: where the step runs; it is the CPU's threads that wait.
        repeats: steps of which the median counts; fewer where a row takes over 20 s.
        config_file: any training config; its weights stay random.
        image_hw: pixels.
        most_busy: rows for 0 to so many busy processes.
        threads: of torch; 0 for one per core.
        overrides: of the config, in Hydra's grammar.
    """
    check_repeats(repeats)
    torch.set_num_threads(threads or usable_cores())
    cfg = without_pretrained(load(config_file, list(overrides)))
    model = instantiate(cfg.model).to(device)
    batch = cfg.dataloader.train.total_batch_size
    inputs = random_inputs(image_hw, batch, len(cfg.model.get("pixel_mean", (0, 0, 0))), boxes_per_image=3)
    rows = busy_rows(training_step(cfg, model, inputs, device), repeats, most_busy)
    size = f"{batch} images of {image_hw[0]} x {image_hw[1]} pixels"
    return f"{config_file}: {size}, {torch.get_num_threads()} threads on {usable_cores()} cores\n\n{as_table(rows)}"


def busy_rows(step: Callable[[], object], repeats: int, most_busy: int) -> list[dict]:
    """A row for each way to wait and each number of busy processes: medians of wall and CPU time, ratio to idle."""
    rows = []
    for waiting, context in WAITS.items():
        idle_s = None
        for number in range(most_busy + 1):
            with context(), busy_processes(number):
                wall_s, cpu_s = median_times(step, repeats)
            idle_s = idle_s or wall_s
            times = {"step, s": wall_s, "CPU time, s": cpu_s, "step : idle": wall_s / idle_s}
            rows.append({"threads that wait are": waiting, "busy processes": number, **times})
    return rows


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """While entered, so many processes of one thread each do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def median_times(step: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of wall time and of this process's CPU time; steps of the first `SETTLE_S` are not counted."""
    start = time.perf_counter()
    while time.perf_counter() < start + SETTLE_S:
        step()
    times, deadline = [], time.perf_counter() + MAX_ROW_S
    while not times or (len(times) < repeats and time.perf_counter() < deadline):
        start, start_cpu = time.perf_counter(), time.process_time()
        step()
        times.append((time.perf_counter() - start, time.process_time() - start_cpu))
    return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)
