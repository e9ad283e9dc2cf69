"""Which device and precision a run takes."""

import pytest
import torch

from dinov2_detrex.config.schema import completed, taken
from dinov2_detrex.config.train_options import AmpDtype, AmpOptions
from dinov2_detrex.runtime.devices import choose_device, emulates_bfloat16
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.training import precision
from dinov2_detrex.training.precision import Precision, choose_dtype, told_of_emulation

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "enabled, dtype, expected",
    [
        (False, "bfloat16", None),
        (True, None, torch.bfloat16),
        (True, "float16", torch.float16),
        (True, "bf16", torch.bfloat16),
        (True, "torch.float16", torch.float16),
    ],
)
def test_amp_takes_bfloat16_on_a_cpu_that_has_it_unless_told_otherwise(monkeypatch, enabled, dtype, expected):
    monkeypatch.setattr(precision, "emulates_bfloat16", lambda device: False)
    options = taken(completed(AmpOptions, {"enabled": enabled, "dtype": dtype}, "amp"), "amp")
    assert choose_dtype(options, CPU) is expected
    assert not told_of_emulation(options, CPU)


def test_where_bfloat16_is_emulated_amp_stays_in_float32_unless_it_insists_and_a_line_says_so(monkeypatch):
    monkeypatch.setattr(precision, "emulates_bfloat16", lambda device: device == CPU)
    left, insisted = AmpOptions(enabled=True), AmpOptions(enabled=True, dtype=AmpDtype.bfloat16)
    assert choose_dtype(left, CPU) is None
    assert "left out" in told_of_emulation(left, CPU)
    assert choose_dtype(insisted, CPU) is torch.bfloat16
    assert "enabled=false is faster" in told_of_emulation(insisted, CPU)
    for silent in (AmpOptions(), AmpOptions(enabled=True, dtype=AmpDtype.float16)):
        assert not told_of_emulation(silent, CPU)


def test_a_gpu_that_is_not_there_is_taken_to_have_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_dtype(AmpOptions(enabled=True), torch.device("cuda")) is torch.bfloat16


def test_a_gpu_without_bfloat16_takes_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # a Turing GPU
    assert choose_dtype(AmpOptions(enabled=True), torch.device("cuda", 0)) is torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert choose_dtype(AmpOptions(enabled=True), torch.device("cuda", 0)) is torch.bfloat16


@pytest.mark.parametrize("avx512, amx, emulated", [(False, False, True), (True, False, False), (False, True, False)])
def test_bfloat16_is_emulated_on_an_x86_cpu_without_its_instructions(monkeypatch, avx512, amx, emulated):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert emulates_bfloat16(CPU) is emulated
    assert not emulates_bfloat16(torch.device("cuda"))
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not emulates_bfloat16(CPU)


def test_float16_scales_the_loss_and_the_others_do_not():
    assert Precision(CPU, torch.float16).scaler.is_enabled()
    assert not Precision(CPU, torch.bfloat16).scaler.is_enabled()
    assert not Precision(CPU).scaler.is_enabled()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_the_forward_pass_runs_in_the_chosen_dtype(dtype):
    layer = torch.nn.Linear(2, 2)
    with Precision(CPU, dtype).autocast():
        assert layer(torch.ones(1, 2)).dtype is (dtype or torch.float32)


def test_without_a_gpu_the_cpu_is_chosen_and_cuda_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == CPU
    with pytest.raises(UsageError, match="train.device=cuda.*train.device=cpu"):
        choose_device("cuda")
