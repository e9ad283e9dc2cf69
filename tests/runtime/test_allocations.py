"""What a process says of its memory is its own."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from dinov2_detrex.runtime.allocations import resident_peak_bytes

PEAK = "from dinov2_detrex.runtime.allocations import resident_peak_bytes as peak; print(peak())"


def test_the_peak_grows_with_what_is_touched():
    before = resident_peak_bytes()
    held = np.ones(before // 8 + 2**24)  # as much again, and 128 MiB
    assert resident_peak_bytes() > before + 2**26 and held.size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="other systems keep no parent's peak")
def test_a_child_of_a_large_process_has_its_own(python, python_env):
    held = np.ones(2**28)  # 2 GiB
    done = subprocess.run([python, "-c", PEAK], env=python_env, capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < held.nbytes
