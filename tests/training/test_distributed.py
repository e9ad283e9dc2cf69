"""Several processes: they do what one does with the joint batch, and none of them waits for a dead one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.distributed import Processes, check_processes
from dinov2_detrex.training.parallel import has_fsdp2

ONE_STEP = (  # of plain gradient descent, so that the change of a weight is its gradient
    "train.max_iter=1",
    "train.eval_period=0",
    "train.model_ema.enabled=false",
    "train.clip_grad.enabled=false",
    "optimizer._target_=torch.optim.SGD",
    "optimizer.lr=10",
    "optimizer.weight_decay=0",
    "model.norm=false",
    "model.dropout=0",
    "model.noise=0",
    "dataloader.train.aspect_ratio_grouping=false",
)
SHARDED = ("train.fsdp.enabled=true", "train.fsdp.modules=[conv]")
needs_fsdp = pytest.mark.skipif(not has_fsdp2(), reason="train.fsdp needs torch 2.8 or later")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def weights(folder):
    return checkpoint.read(folder / "model_final.pth")["model"]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text().splitlines()[-1])


def changes(folder, start):
    return {name: value - start[name] for name, value in weights(folder).items()}


@pytest.fixture(scope="module")
def initial_weights():
    """Of the tiny detector under the config's seed."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tiny_detector import TinyDetector

    from dinov2_detrex.runtime.seeding import seed_generators

    seed_generators(7)
    return TinyDetector(3, 8, norm=False).state_dict()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="DDP"),
        pytest.param(("train.accumulate.steps=2",), id="DDP, accumulated"),
        pytest.param(SHARDED, id="FSDP2", marks=needs_fsdp),
        pytest.param((*SHARDED, "train.accumulate.steps=2"), id="FSDP2, accumulated", marks=needs_fsdp),
    ],
)
def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(train, initial_weights, options):
    status, folder = train("two", "--num-gpus", "2", *ONE_STEP, *options)
    assert status == 0
    _, alone = train("one", *ONE_STEP)
    expected, found = changes(alone, initial_weights), changes(folder, initial_weights)
    assert expected["box.weight"].abs().max() > 1e-3 and not expected["frozen.weight"].any()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert metrics(folder) == pytest.approx(metrics(alone), nan_ok=True)  # the evaluation


@pytest.mark.parametrize("kind", [(), pytest.param(SHARDED, marks=needs_fsdp)], ids=["DDP", "FSDP2"])
def test_two_processes_resume_to_the_last_bit(train, kind):
    options = ("--num-gpus", "2", "train.max_iter=6", "train.checkpointer.period=3", "train.eval_period=4", *kind)
    _, whole = train("whole", *options)
    _, resumed = train("resumed", *options)
    (resumed / "model_final.pth").unlink()
    (resumed / "last_checkpoint").write_text("model_0000002.pth")
    assert train("resumed", "--resume", *options)[0] == 0
    found, expected = weights(resumed), weights(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@needs_fsdp
def test_a_sharded_run_has_the_checkpoint_of_a_whole_one_and_resumes_as_one(train):
    options = ("--num-gpus", "2", "train.max_iter=4", "train.checkpointer.period=2", "model.norm=false")
    _, sharded = train("sharded", *options, *SHARDED)
    _, replicated = train("replicated", *options)
    found, expected = (checkpoint.read(f / "model_final.pth") for f in (sharded, replicated))
    for part in ("model", "ema_state"):
        assert found[part].keys() == expected[part].keys()
        for name in expected[part]:
            torch.testing.assert_close(found[part][name], expected[part][name], rtol=1e-4, atol=1e-6)
    (sharded / "last_checkpoint").write_text("model_0000001.pth")
    (sharded / "model_final.pth").unlink()
    assert train("sharded", "--resume", *options)[0] == 0  # goes on unsharded
    for name, value in weights(sharded).items():
        torch.testing.assert_close(value, expected["model"][name], rtol=1e-4, atol=1e-6)


def test_torchrun_starts_the_processes_of_a_run(call):
    result, folder = call("run", "train.max_iter=2", "train.eval_period=0", launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr  # DDP's keywords have their present names
    assert checkpoint.read(folder / "model_final.pth")["iteration"] == 1
    assert sorted(p.name for p in folder.glob("log.txt*")) == ["log.txt", "log.txt.rank1"]


def test_a_process_of_torchrun_ends_well_while_a_collective_does(python_env):
    """Rank 0 leaves while a thread of its process group waits for Python's lock, to let go of a tensor."""
    line = [*TORCHRUN, str(Path(__file__).parent / "late_collective.py")]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, env=python_env)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("exit handlers ran") == 2


@pytest.mark.slow
def test_two_machines_meet_at_the_given_address(command):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    machines = []
    for rank in ("0", "1"):
        line, keywords, folder = command(
            "run", "--num-machines", "2", "--machine-rank", rank, "--dist-url", url, *ONE_STEP
        )
        machines.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **keywords))
    outputs = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert "process 0 of 2" in outputs[0] and checkpoint.read(folder / "model_final.pth")["iteration"] == 0


def children(pid):
    """The processes that `pid` spawned for the run, by rank."""
    found = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the children through /proc")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_one_process_is_killed_the_run_ends_and_says_so(command, rank):
    line, keywords, folder = command("run", "--num-gpus", "2", "train.max_iter=100000", "model.pause=0.05")
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **keywords)
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("model_*.pth")) and time.monotonic() < deadline:
            time.sleep(0.05)
        ranks = children(process.pid)
        assert len(ranks) == 2
        os.kill(ranks[rank], signal.SIGKILL)
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and f"process {rank}" in last and "SIGKILL" in last
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_an_error_of_the_request_in_a_child_is_one_line_and_its_status(train, capfd):
    status, _ = train("run", "--num-gpus", "2", "train.init_checkpoint=missing.pth")
    stderr = capfd.readouterr().err.strip()
    assert status == 1 and "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("error: train.init_checkpoint=missing.pth does not exist")


@pytest.mark.parametrize(
    "processes, device, words",
    [
        (Processes(per_machine=64), "cuda", "--num-gpus 64 (--nproc-per-node of torchrun), but this machine has"),
        (Processes(per_machine=0), "cpu", "at least 1"),
        (Processes(machines=2), "cpu", "--dist-url tcp://HOST:PORT"),
        (Processes(machines=2, machine_rank=2, url="tcp://a:1"), "cpu", "--machine-rank 2 must be in 0..1"),
    ],
)
def test_processes_that_cannot_be_started_are_refused_before_any_is(processes, device, words):
    with pytest.raises(UsageError) as caught:
        check_processes(processes, device)
    assert words in str(caught.value)
