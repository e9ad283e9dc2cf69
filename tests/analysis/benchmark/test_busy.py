"""The measurement beside busy processes measures, and leaves none of them behind."""

import time

import pytest

from dinov2_detrex.analysis.benchmark import busy


def test_every_way_to_wait_is_measured_beside_every_number_of_processes(monkeypatch):
    monkeypatch.setattr(busy, "SETTLE_S", 0.0)
    rows = busy.busy_rows(lambda: time.sleep(0.01), repeats=2, most_busy=1)
    seen = [(row["threads that wait are"], row["busy processes"]) for row in rows]
    assert seen == [("spinning", 0), ("spinning", 1), ("yielding", 0), ("yielding", 1)]
    assert [row["step : idle"] for row in rows if row["busy processes"] == 0] == [1.0, 1.0]
    assert all(row["step, s"] >= 0.01 for row in rows)


def test_busy_processes_end_with_their_block_also_after_an_error(monkeypatch):
    started = []
    popen = busy.subprocess.Popen
    monkeypatch.setattr(busy.subprocess, "Popen", lambda *args: started.append(popen(*args)) or started[-1])
    with pytest.raises(KeyError), busy.busy_processes(2):
        assert [process.poll() for process in started] == [None, None]
        raise KeyError
    assert all(process.poll() is not None for process in started)
