"""What processes tell each other: where they are, objects, reduced scalars, a shared seed."""

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

WORLD = 2


def report(rank: int, folder: str) -> None:
    """What this process sees, as a JSON file for the test to read."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    comm.create_local_process_group(WORLD)
    np.random.seed(rank)  # the shared seed must be rank 0's
    seen = {
        "rank": comm.get_rank(),
        "world": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "odd": "x" * rank}),
        "gather": comm.gather([rank]),
        "gather_to_1": comm.gather(rank, dst=1),
        "seed": comm.shared_random_seed(),
        "mean": comm.reduce_dict({"b": torch.tensor(2.0 * rank), "a": torch.tensor(1.0)})["b"].item(),
        "sum": comm.reduce_dict({"b": torch.tensor(2.0 * rank)}, average=False)["b"].item(),
    }
    comm.synchronize()
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(seen, file)
    dist.destroy_process_group()
    os._exit(0)  # detectron2's own `comm` keeps its groups, which can abort a process that ends with them


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    """The reports of two processes."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        mp.start_processes(report, (str(folder),), WORLD, start_method="spawn")
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


def test_alone_every_answer_is_the_trivial_one():
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (1, 0, True)
    assert (comm.get_local_rank(), comm.get_local_size()) == (0, 1)
    assert comm.all_gather("x") == ["x"] and comm.gather("x") == ["x"]
    values = {"a": torch.tensor(1.0)}
    assert comm.reduce_dict(values) == values and comm.synchronize() is None
