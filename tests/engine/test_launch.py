"""Several processes: they are launched, exchange objects, give the gradients of one, and fail together."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm
from torch import nn

WORLD = 2


@pytest.fixture(autouse=True)
def on_the_cpu_with_one_thread(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def a_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def a_batch() -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, batch: torch.Tensor) -> list[list[float]]:
    model(batch).square().mean().backward()
    return [parameter.grad.flatten().tolist() for parameter in model.parameters()]


def report(folder: str) -> None:
    """What this process sees, as a JSON file for the test to read."""
    rank = comm.get_rank()
    np.random.seed(rank)  # the shared seed must be rank 0's
    shared = a_batch()[rank * 3 : (rank + 1) * 3]
    seen = {
        "rank": rank,
        "world": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "odd": "x" * rank}),
        "gather": comm.gather([rank]),
        "gather_to_1": comm.gather(rank, dst=1),
        "seed": comm.shared_random_seed(),
        "mean": comm.reduce_dict({"b": torch.tensor(2.0 * rank), "a": torch.tensor(1.0)})["b"].item(),
        "sum": comm.reduce_dict({"b": torch.tensor(2.0 * rank)}, average=False)["b"].item(),
        "gradients": gradients(create_ddp_model(a_model(), broadcast_buffers=False, device_ids=None), shared),
    }
    comm.synchronize()
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(seen, file)


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    """The reports of two launched processes."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        launch(report, WORLD, dist_url="auto", args=(str(folder),))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def test_each_process_knows_its_place(reports):
    assert [r["rank"] for r in reports] == [0, 1] and {r["world"] for r in reports} == {2}
    assert [r["local"] for r in reports] == [[0, 2], [1, 2]] and [r["main"] for r in reports] == [True, False]


def test_objects_travel_in_order_of_rank(reports):
    everyone = [{"rank": 0, "odd": ""}, {"rank": 1, "odd": "x"}]
    assert [r["all_gather"] for r in reports] == [everyone, everyone]
    assert [r["gather"] for r in reports] == [[[0], [1]], []]
    assert [r["gather_to_1"] for r in reports] == [[], [0, 1]]


def test_scalars_are_reduced_on_the_main_process(reports):
    assert (reports[0]["mean"], reports[0]["sum"]) == (1.0, 2.0)


def test_the_shared_seed_is_that_of_rank_0(reports):
    np.random.seed(0)
    alone = comm.shared_random_seed()
    assert reports[0]["seed"] == reports[1]["seed"] == alone < 2**31


def test_two_processes_give_the_gradients_of_one_with_the_joint_batch(reports):
    expected = gradients(a_model(), a_batch())
    for got in (reports[0]["gradients"], reports[1]["gradients"]):
        for one, other in zip(got, expected):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-7)


def fail_on_rank_1(how: str) -> None:
    if comm.get_rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ArithmeticError("rank 1 gives up")
    comm.synchronize()  # would wait for ever
    time.sleep(600)


@pytest.mark.parametrize("how, message", [("raises", "rank 1 gives up"), ("killed", "SIGKILL")])
def test_one_process_that_fails_ends_them_all(how, message):
    start = time.monotonic()
    with pytest.raises(Exception, match=message):
        launch(fail_on_rank_1, WORLD, dist_url="auto", args=(how,))
    assert time.monotonic() - start < 60


def add_to(numbers: list, number: int) -> None:
    numbers.append(number)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_single_process_is_this_one(processes):
    numbers = []
    assert launch(add_to, processes, args=(numbers, 3)) is None
    assert numbers == [3]


def test_several_machines_cannot_meet_at_an_automatic_port():
    with pytest.raises(AssertionError):
        launch(add_to, 1, num_machines=2, dist_url="auto", args=([], 1))


@pytest.mark.fallback("detectron2")
def test_several_processes_without_a_meeting_point_are_a_value_error():
    with pytest.raises(ValueError, match="dist_url"):
        launch(add_to, 2, args=([], 1))


def test_alone_every_answer_is_the_trivial_one():
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (1, 0, True)
    assert (comm.get_local_rank(), comm.get_local_size()) == (0, 1)
    assert comm.all_gather("x") == ["x"] and comm.gather("x") == ["x"]
    values = {"a": torch.tensor(1.0)}
    assert comm.reduce_dict(values) == values and comm.synchronize() is None
    model = a_model()
    assert create_ddp_model(model) is model
