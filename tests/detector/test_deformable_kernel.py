"""Deformable attention as an operator of torch: when it is taken, how graphs see it, and its kernels interpreted."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_deformable_attention import SHAPES_HW, random_inputs
from torch._subclasses import FakeTensorMode

from dinov2_detrex.detector import multi_scale_deformable_attention
from dinov2_detrex.detector.deformable_kernel import attend, deformable_attention, kernel_serves

SHAPES = [size for pair in SHAPES_HW for size in pair]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA")
def test_kernels_are_right_under_the_interpreter():
    pytest.importorskip("triton", minversion="3.4", reason="older Tritons look for a GPU's driver first")
    file = Path(__file__).with_name("interpreted_kernel.py")
    line = [sys.executable, "-m", "pytest", "-q", "-x", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(line, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert "skipped" not in result.stdout.splitlines()[-1]


def test_on_the_cpu_the_operator_is_the_reference():
    inputs = random_inputs(torch.float32)
    found, wanted = (f(inputs[0], SHAPES_HW, *inputs[1:]) for f in (attend, multi_scale_deformable_attention))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    grad = torch.randn_like(wanted)
    for ours, theirs in zip(*(torch.autograd.grad(out, inputs, grad) for out in (found, wanted))):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_torch_finds_nothing_wrong_with_the_operator():
    inputs = random_inputs(torch.float32)
    torch.library.opcheck(deformable_attention, (inputs[0], SHAPES, *inputs[1:]))


class Attention(torch.nn.Module):
    def forward(self, value, locations, weights):
        return attend(value, SHAPES_HW, locations, weights)


def test_an_exported_graph_holds_it_as_one_node_and_runs():
    inputs = tuple(x.detach() for x in random_inputs(torch.float32))
    exported = torch.export.export(Attention(), inputs)
    calls = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.dinov2_detrex.deformable_attention.default]
    torch.testing.assert_close(exported.module()(*inputs), Attention()(*inputs), rtol=0, atol=0)


def test_it_is_taken_for_cuda_alone_and_not_where_runs_must_repeat_themselves():
    assert not kernel_serves(torch.zeros(1))
    with FakeTensorMode():
        on_gpu = torch.empty(1, device="cuda")
        assert kernel_serves(on_gpu) == (find_spec("triton") is not None)
        assert not kernel_serves(on_gpu.double())
        torch.use_deterministic_algorithms(True)
        try:
            assert not kernel_serves(on_gpu)
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA")
@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_kernels_compile_for_a_gpu(kernel, dtype):
    """Down to machine code of an A100; the interpreter takes much that the compiler refuses."""
    pytest.importorskip("triton", minversion="3.4", reason="older Tritons compile beside a GPU alone")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from dinov2_detrex.detector import deformable_triton

    constants = {"HEADS": 8, "WIDTH": 32, "LEVELS": 4, "POINTS": 4, "COLUMNS": 32, "BLOCK_ROWS": 16}
    pointers = {"levels": "*i64", "grad_value": "*fp32", "grad_locations": "*fp32", "locations": "*fp32"}
    function = getattr(deformable_triton, kernel).fn
    signature = {}
    for name in function.arg_names:
        tensor = pointers.get(name, f"*{dtype}")
        signature[name] = "constexpr" if name in constants else "i32" if name[:4] in ("num_", "size") else tensor
    target = GPUTarget("cuda", 80, 32)
    compiled = compile(ASTSource(fn=function, signature=signature, constexprs=constants), target=target)
    assert compiled.asm["cubin"]
    assert ("atom" in compiled.asm["ptx"] or "red." in compiled.asm["ptx"]) == (kernel == "_backward")
