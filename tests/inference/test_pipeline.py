"""Inputs of one shape go in together, answers come in order, and what goes in together does not depend on time."""

import random
import time

import numpy as np
import pytest

from dinov2_detrex.inference.pipeline import Job, answered

SHAPES = [(3, 4), (4, 3), (3, 4), (3, 4), (4, 3), (5, 5), (3, 4), (4, 3)]


def run(jobs, batch_size, window, delay_s=0.0, num_threads=2):
    """(pictures in order with their outputs, the batches that the model saw)."""
    batches = []

    def prepare(number):
        time.sleep(delay_s * random.random())
        return Job(number, [{"image": np.zeros(shape), "key": (number, i)} for i, shape in enumerate(jobs[number])])

    def model(inputs):
        assert len({record["image"].shape for record in inputs}) == 1
        batches.append([record["key"] for record in inputs])
        return [record["key"] for record in inputs]

    done = list(answered(range(len(jobs)), prepare, model, batch_size, window, num_threads))
    return [(job.picture, job.outputs) for job in done], batches


@pytest.mark.parametrize("batch_size, window", [(1, 1), (2, 4), (3, 8), (8, 100)])
def test_every_picture_gets_its_own_output_in_order(batch_size, window):
    answers, batches = run([[shape] for shape in SHAPES], batch_size, window)
    assert answers == [(i, [(i, 0)]) for i in range(len(SHAPES))]
    assert max(map(len, batches)) <= batch_size
    if window == 100:
        assert sorted(map(len, batches)) == [1, 3, 4]


def test_what_goes_in_together_does_not_depend_on_the_speed_of_reading():
    jobs = [[shape] for shape in SHAPES * 3]
    batches = [run(jobs, 3, 6, delay_s, threads)[1] for delay_s, threads in ((0, 1), (0.003, 4), (0.01, 3))]
    assert batches[0] == batches[1] == batches[2]


def test_a_picture_in_parts_fills_batches_and_one_without_any_passes():
    answers, batches = run([[(2, 2)] * 5, [], [(2, 2)]], 2, 1)
    assert [len(outputs) for _, outputs in answers] == [5, 0, 1]
    assert list(map(len, batches)) == [2, 2, 1, 1]


def test_it_reads_no_further_than_the_window_and_stops_when_left():
    read = []

    def pictures():
        for i in range(1000):
            read.append(i)
            yield i

    def prepare(number):
        return Job(number, [{"image": np.zeros((1, 1))}])

    stream = answered(pictures(), prepare, lambda inputs: [0] * len(inputs), 2, 4, 2)
    assert next(stream).picture == 0 and len(read) <= 6
    stream.close()
    assert len(read) <= 6


def test_an_error_of_the_reader_reaches_the_caller():
    def broken(number):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        next(answered([1], broken, lambda inputs: inputs, 1, 1, 1))
