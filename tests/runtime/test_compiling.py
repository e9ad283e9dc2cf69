"""Compiled parts compute what they do otherwise, under the names that they had; what cannot be compiled is a line."""

import os
import subprocess
import sys

import pytest
import torch
from tiny_dino import image, record, tiny_dino
from torch import nn

from dinov2_detrex.runtime.compiling import compile_parts
from dinov2_detrex.runtime.errors import UserError

CPU = torch.device("cpu")
REFUSED = """
import torch
from dinov2_detrex.runtime.compiling import require_compiler
from dinov2_detrex.runtime.errors import UserError
try:
    require_compiler(torch.device("cpu"), "train.compile=true")
except UserError as error:
    print(error)
"""


def test_a_model_without_a_backbone_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"^train\.compile=true: a Linear has no backbone or neck to compile"):
        compile_parts(nn.Linear(2, 2), CPU, "train.compile=true")


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_what_is_missing(python_env, tmp_path):
    env = {**python_env, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", REFUSED], env=env, capture_output=True, text=True, timeout=300)
    line = found.stdout.strip()
    assert line.startswith("train.compile=true needs a C++ compiler") and line.count("\n") == 0, found
    assert "/no/such/compiler" in line


@pytest.mark.slow
def test_losses_gradients_and_names_are_those_of_the_plain_model():
    if os.system("c++ --version > /dev/null 2>&1"):
        pytest.skip("torch.compile needs a C++ compiler")
    batch = [record(image(96, 128), [[10, 10, 60, 50]], [1]), record(image(128, 100), [[5, 9, 90, 100]], [0])]
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = tiny_dino().train()
        names = list(model.state_dict())
        if compiled:
            compile_parts(model, CPU, "train.compile=true")
        torch.manual_seed(1)
        losses = model(batch)
        torch.stack(list(losses.values())).sum().backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        assert list(model.state_dict()) == names
    (plain, plain_grads), (found, grads) = results
    assert plain_grads.keys() == grads.keys() and plain.keys() == found.keys()
    for name in plain:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-4, atol=1e-5)
    largest = max(float(grad.abs().max()) for grad in plain_grads.values())
    for name in grads:
        torch.testing.assert_close(grads[name], plain_grads[name], rtol=1e-3, atol=1e-4 * largest, msg=name)
