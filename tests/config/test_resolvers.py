"""The resolvers: under the project's own prefix, and under bare names where nobody else has taken them."""

import pytest
from omegaconf import OmegaConf

from dinov2_detrex.config import RESOLVERS, register_resolvers


@pytest.mark.parametrize("prefix", ["d2d.", ""])
def test_a_value_follows_from_another(prefix):
    cfg = OmegaConf.create({"n": 8, "half": f"${{{prefix}half:${{n}}}}", "names": ["a", "b"]})
    cfg.count = f"${{{prefix}count:${{names}}}}"
    assert (cfg.half, cfg.count) == (4, 2)


def test_a_programs_own_resolver_of_a_bare_name_stays_its_own():
    OmegaConf.clear_resolver("half")
    try:
        OmegaConf.register_new_resolver("half", lambda value: f"half of {value}")
        register_resolvers()
        assert OmegaConf.create({"x": "${half:8}"}).x == "half of 8"
        assert OmegaConf.create({"x": "${d2d.half:8}"}).x == 4
    finally:
        OmegaConf.register_new_resolver("half", RESOLVERS["half"], replace=True)


@pytest.mark.parametrize(
    "depth, count, blocks", [(12, 4, [2, 5, 8, 11]), (24, 4, [5, 11, 17, 23]), (3, 4, [0, 1, 2]), (12, 1, [11])]
)
def test_maps_at_even_distances_end_with_the_last_block(depth, count, blocks):
    backbone = {"in_feature": f"${{d2d.even_maps:${{.net}},{count}}}"}
    backbone["net"] = {"depth": depth, "out_indices": "${d2d.map_indices:${..in_feature}}"}
    cfg = OmegaConf.create(backbone)
    assert cfg.net.out_indices == blocks and cfg.in_feature == [f"p{i}" for i in blocks]


def test_maps_of_no_blocks_at_all_cannot_be_chosen():
    with pytest.raises(ValueError, match="at least one"):
        RESOLVERS["even_maps"]({"depth": 12}, 0)
