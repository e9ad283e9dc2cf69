"""One process of the two-process test: the gradients of its share of every case's batch under DDP.

python gradients_of_rank.py RANK INIT_FILE OUTPUT
"""

import sys

import torch
import torch.distributed as dist

import dinov2_detrex  # noqa: F401  makes detectron2 and detrex importable for what follows

# isort: split
from tiny_dino import image, record, small_dino
from torch.nn.parallel import DistributedDataParallel

from dinov2_detrex.runtime.processes import end_process

WORLD_SIZE = 2
CASES = {  # objects of each image, and whether there are denoising queries
    # (the number of their groups follows from a process's fullest image, here the same for both)
    "objects": ((3, 1, 0, 3), True),
    "an object in one process alone": ((0, 0, 1, 0), False),
    "no object": ((0, 0, 0, 0), True),
}


def batch_of(case: str) -> list[dict]:
    """Images of one size with the case's numbers of objects."""
    boxes = [[10, 12, 70, 50], [30, 8, 90, 60], [5, 5, 25, 25]]
    counts, _ = CASES[case]
    return [record(image(64, 128, seed), boxes[:count], [4, 1, 2][:count]) for seed, count in enumerate(counts)]


def dino_of(case: str):
    """Without noise, so that the denoising queries of both ways of training are the same."""
    _, denoising = CASES[case]
    return small_dino(label_noise_ratio=0.0, box_noise_scale=0.0, dn_number=12 if denoising else 0).train()


def gradients(model, batch) -> dict[str, torch.Tensor]:
    sum(model(batch).values()).backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def main(rank: str, init_file: str, output: str) -> None:
    torch.set_num_threads(1)
    rank = int(rank)
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=WORLD_SIZE)
    found = {}
    for case in CASES:
        batch = batch_of(case)
        share = len(batch) // WORLD_SIZE
        found[case] = gradients(DistributedDataParallel(dino_of(case)), batch[rank * share : (rank + 1) * share])
    if rank == 0:
        torch.save(found, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
