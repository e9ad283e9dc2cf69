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
