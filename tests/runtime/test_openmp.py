"""Threads that wait for each other yield their cores where others want them, at the same numbers."""

import sys
import threading
import time

import pytest
import torch

from dinov2_detrex.runtime import openmp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the run queue's delays are known on Linux only")


@pytest.fixture
def watch():
    watch = openmp._Watch()
    yield watch
    watch._release()


def threads_of_process() -> int:
    return len(list(openmp.TASKS.iterdir()))


def need_gnu_openmp():
    torch.ones(1)
    if not openmp.loaded_gnu_openmp():
        pytest.skip("this torch uses another OpenMP than GNU's")


def test_sleeping_team_exists_until_it_is_dissolved():
    need_gnu_openmp()
    before = threads_of_process()
    team = openmp.SleepingTeam()
    assert threads_of_process() >= before + 1 + openmp.usable_cores()  # its master, and its other members
    team.dissolve()
    deadline = time.monotonic() + 30  # the members end by themselves, a moment after their master
    while threads_of_process() >= before + openmp.usable_cores() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads_of_process() < before + openmp.usable_cores()


def test_sleeping_team_changes_no_number_and_no_setting():
    torch.manual_seed(0)
    left, right = torch.randn(300, 400, requires_grad=True), torch.randn(400, 500)
    expected = (left @ right).sum(), torch.get_num_threads()
    team = openmp.SleepingTeam()
    try:
        assert torch.equal((left @ right).sum(), expected[0])
        assert torch.get_num_threads() == expected[1]
    finally:
        team.dissolve()


def test_threads_yield_as_soon_as_they_wait_for_cores_and_spin_again_after_a_calm(watch):
    need_gnu_openmp()
    watch._judge(openmp.BUSY_SHARE + 0.1, moment=0.0)
    assert watch._team is not None
    watch._judge(0.0, moment=openmp.CALM_S / 2)
    assert watch._team is not None
    watch._judge(0.0, moment=openmp.CALM_S * 1.1)
    assert watch._team is None


def test_waits_of_an_idle_machine_leave_threads_spinning(watch):
    for moment in range(5):
        watch._judge(openmp.BUSY_SHARE / 2, moment=float(moment))
    assert watch._team is None


def test_calm_that_turned_out_short_has_to_be_longer_the_next_time(watch):
    need_gnu_openmp()
    busy = openmp.BUSY_SHARE + 0.1
    watch._judge(busy, moment=0.0)
    watch._judge(0.0, moment=openmp.CALM_S * 1.1)
    watch._judge(busy, moment=openmp.CALM_S * 1.2)
    watch._judge(0.0, moment=openmp.CALM_S * 2.4)
    assert watch._team is not None
    watch._judge(0.0, moment=openmp.CALM_S * 3.3)
    assert watch._team is None


def test_kernel_without_delays_leaves_everything_as_it_is(monkeypatch, tmp_path):
    (tmp_path / "1").mkdir()
    monkeypatch.setattr(openmp, "TASKS", tmp_path)
    assert openmp.waited_for_cores_s() is None
    before = names_of_threads()
    with openmp.yield_when_busy():
        assert names_of_threads() == before


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_watch_ends_with_its_block():
    with openmp.yield_when_busy():
        assert "openmp-watch" in names_of_threads()
    assert "openmp-watch" not in names_of_threads()
