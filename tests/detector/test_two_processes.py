"""Two processes train like one with the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradients_of_rank import CASES, WORLD_SIZE, batch_of, dino_of, gradients

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Case -> gradients that DDP averaged over the processes."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parents[1]), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "gradients_of_rank.py")]
    arguments = [str(folder / "init"), str(folder / "gradients.pt")]
    processes = [subprocess.Popen([*command, str(rank), *arguments], env=env) for rank in range(WORLD_SIZE)]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * WORLD_SIZE
    finally:
        for process in processes:
            process.kill()
    return torch.load(folder / "gradients.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_averaged_gradients_of_two_processes_are_those_of_the_joint_batch(case, averaged):
    wanted = gradients(dino_of(case), batch_of(case))
    assert list(averaged[case]) == list(wanted)
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in wanted.items():
        torch.testing.assert_close(
            averaged[case][name], grad, rtol=1e-4, atol=1e-5 * largest, msg=lambda m, name=name: f"{name}: {m}"
        )
