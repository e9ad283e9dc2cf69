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


def objects_config(**model):
    limits = {"num_queries": "${d2d.at_least:900,${.max_objects}}", "select": "${d2d.at_least:300,${.max_objects}}"}
    evaluator = {"evaluator": {"max_dets_per_image": "${d2d.detections_judged:100}"}}
    return OmegaConf.create({"model": {**limits, **model}, "dataloader": evaluator})


@pytest.mark.parametrize(
    "asked, limits", [(None, (900, 300, None)), (1000, (1000, 1000, 1000)), (400, (900, 400, 400))]
)
def test_one_option_sets_queries_detections_and_what_is_judged(asked, limits):
    cfg = objects_config(max_objects=asked)
    assert (cfg.model.num_queries, cfg.model.select, cfg.dataloader.evaluator.max_dets_per_image) == limits


def test_data_configs_serve_models_without_that_option():
    cfg = OmegaConf.create({"evaluator": {"max_dets_per_image": "${d2d.detections_judged:100}"}})
    assert cfg.evaluator.max_dets_per_image is None


@pytest.mark.parametrize("wrong", [0, 1.5, "many", True])
def test_a_number_of_objects_that_cannot_be_is_refused(wrong):
    with pytest.raises(Exception, match="must be a whole number of at least 1"):
        objects_config(max_objects=wrong).model.num_queries  # noqa: B018
