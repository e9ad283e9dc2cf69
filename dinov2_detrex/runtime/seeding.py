"""Where randomness comes from: every step and every sample seeds the generators from (run seed, its own number).

Nothing is drawn from a stream that a restart would have to restore: the noise of iteration i and the augmentation of
the n-th sample are the same after a resume, with any number of workers, whatever drew numbers in between.
"""

import contextlib
import random

import numpy as np
import torch

STEP, SAMPLE, EVALUATION = range(3)  # what a seed is for, so that the three never coincide


def derive_seed(*numbers: int) -> int:
    """A 63-bit seed that depends on all of the non-negative `numbers` and on their order."""
    low, high = np.random.SeedSequence(numbers).generate_state(2, dtype=np.uint32)
    return (int(high) << 31 ^ int(low)) & (2**63 - 1)


def seed_generators(seed: int) -> None:
    """Seed python's, numpy's and torch's global generators (CUDA's included) from one number below 2^63."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int):
    """Inside, python, numpy and torch's CPU generator start from `seed`; afterwards they go on as before."""
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


def draw_run_seed() -> int:
    """A fresh seed from the operating system's randomness, below 2^31."""
    return random.SystemRandom().randrange(2**31)
