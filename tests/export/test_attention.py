"""The exported form of deformable attention is the detector's own, wherever the points lie."""

import pytest
import torch

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.export.attention import GatheringAttention
from dinov2_detrex.export.bags import BagAttention

SHAPES = [(5, 8), (3, 4), (1, 2)]
NUM_CELLS = sum(h * w for h, w in SHAPES)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(32, 4, num_levels=3, num_points=2, batch_first=True).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@torch.no_grad()
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("spread", [1.0, 5.0])  # 5: most points lie outside of the levels
@pytest.mark.parametrize("form", [GatheringAttention, BagAttention])
def test_it_gives_the_detectors_numbers(layer, coordinates, spread, form):
    query, value, position = torch.randn(2, 7, 32), torch.randn(2, NUM_CELLS, 32), torch.randn(2, 7, 32)
    references = torch.rand(2, 7, 3, coordinates) * spread - (spread - 1) / 2
    padding = torch.rand(2, NUM_CELLS) > 0.7
    given = dict(value=value, query_pos=position, key_padding_mask=padding)
    given |= dict(reference_points=references, spatial_shapes=SHAPES)
    torch.testing.assert_close(form(layer)(query, **given), layer(query, **given), rtol=1e-5, atol=1e-5)


def test_sequences_first_are_refused(layer):
    layer.batch_first = False
    with pytest.raises(ValueError, match="batch_first"):
        GatheringAttention(layer)
