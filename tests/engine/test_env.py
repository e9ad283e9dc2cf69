"""Chance is made repeatable, and torch's version is known."""

import random

import numpy as np
import pytest
import torch
from detectron2.utils.env import TORCH_VERSION, seed_all_rng


@pytest.fixture
def restored_generators():
    """The random generators are the same afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.usefixtures("restored_generators")
def test_a_seed_repeats_every_generator():
    seed_all_rng(3)
    first = draws()
    seed_all_rng(3)
    assert draws() == first
    seed_all_rng(None)
    assert draws() != first
    for seed in (-1, 2**32):
        with pytest.raises(ValueError):
            seed_all_rng(seed)


def test_the_torch_version_is_a_pair_of_numbers():
    assert TORCH_VERSION == tuple(int(part) for part in torch.__version__.split(".")[:2])
