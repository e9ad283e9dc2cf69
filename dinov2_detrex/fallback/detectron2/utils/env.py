"""How is chance made repeatable?"""

import logging
import os
import random

import numpy as np
import torch

TORCH_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])

_SEED_LIMIT = 2**32  # numpy takes 0 .. 2^32 - 1


def seed_all_rng(seed: int | None = None) -> None:
    """Seed python's, numpy's and torch's (CPU and GPU) generators, and hashing in child processes.

    Args:
        seed: 0 .. 2^32 - 1 (numpy raises ValueError for others); None draws one from the system and logs it.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") % _SEED_LIMIT
        logging.getLogger(__name__).info("Using a random seed %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
