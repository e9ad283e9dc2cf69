"""Tiny ViTs for the backbone tests: the golden files' shape, with weights drawn anew and nothing near zero."""

import torch
from golden_numbers import golden_fill, load_json

from dinov2_detrex.backbone import TimmBackbone

TINY = {"embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 4, "init_values": 1.0}
PLAIN, REGISTERS = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
HUB_NAMES = {0: PLAIN, 4: REGISTERS}
DINOV3 = "vit_small_patch16_dinov3"
TINY_DINOV3 = {"embed_dim": 64, "depth": 3, "num_heads": 4, "init_values": 1.0}


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Normal weights around timm's own, so that tokens, positions and layer scales all matter; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module.eval()


def tiny_vit(name: str = PLAIN, seed: int = 0, **kwargs) -> TimmBackbone:
    """A `TimmBackbone` of 3 blocks, 64 channels and an 8 x 8 grid of positions, the same weights for the same seed."""
    shape = TINY_DINOV3 if name == DINOV3 else {**TINY, "img_size": 112}
    torch.manual_seed(seed)
    return randomise(TimmBackbone(name, **{**shape, **kwargs}), seed)


def hub_state(registers: int) -> dict[str, torch.Tensor]:
    """The golden weights under the names of Meta's original."""
    shapes = load_json(f"dinov2_hub_keys_reg{registers}.json")
    return {key: torch.from_numpy(golden_fill(key, tuple(shape))) for key, shape in shapes.items()}


def random_images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a fraction of the largest expected value."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    return ((actual - expected).abs().max() / expected.abs().max()).item()
