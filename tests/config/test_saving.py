"""A run's config is written whatever is in it; what has no name is kept in a pickle beside it."""

import cloudpickle
from detectron2.config import LazyConfig

from dinov2_detrex.config.saving import save_config

RECIPE = """\
train = dict(output_dir="run")
optimizer = dict(lr=1e-4, lr_factor_func=lambda name: 0.1 if "backbone" in name else 1)
"""


def test_a_config_with_a_lambda_is_written_and_pickled(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    path = tmp_path / "config.yaml"
    save_config(LazyConfig.load(str(tmp_path / "recipe.py")), path)
    assert "output_dir: run" in path.read_text() and "lr_factor_func" in path.read_text()
    factor = cloudpickle.loads((tmp_path / "config.yaml.pkl").read_bytes()).optimizer.lr_factor_func
    assert (factor("backbone.net.x"), factor("neck.x")) == (0.1, 1)
