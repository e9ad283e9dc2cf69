"""What a training program does before it trains: flags, folder, logs, config, seeds."""

import logging
import random
import re

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import TORCH_VERSION, seed_all_rng
from omegaconf import OmegaConf
from torch import nn


@pytest.fixture
def restored_state():
    """Random generators and backend switches are the same afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.backends.cudnn.benchmark
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.backends.cudnn.benchmark = states[3]


pytestmark = pytest.mark.usefixtures("restored_loggers", "restored_state")


def draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()


def a_config(folder, **train):
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.model = L(nn.Linear)(in_features=1, out_features="${.in_features}")
    cfg.train = {"output_dir": str(folder), "seed": 7, **train}
    return cfg


def parse(*arguments: str):
    return default_argument_parser().parse_args(list(arguments))


def test_the_flags_have_their_names_and_defaults():
    args = parse()
    url = args.dist_url
    expected = dict(config_file="", resume=False, eval_only=False, num_gpus=1, num_machines=1, machine_rank=0, opts=[])
    assert {**vars(args)} == {**expected, "dist_url": url}
    port = int(re.fullmatch(r"tcp://127\.0\.0\.1:(\d+)", url)[1])
    assert 2**15 + 2**14 <= port < 2**16


def test_everything_after_the_first_override_is_an_override():
    args = parse("--config-file", "a.py", "--num-gpus", "2", "--resume", "train.x=1", "y=2")
    assert (args.config_file, args.num_gpus, args.resume, args.opts) == ("a.py", 2, True, ["train.x=1", "y=2"])


def test_setup_leaves_a_folder_with_log_and_config(tmp_path):
    config_file = tmp_path / "a.py"
    config_file.write_text("# the text of the config file\n")
    folder = tmp_path / "deep" / "run"
    default_setup(a_config(folder), parse("--config-file", str(config_file)))
    log = (folder / "log.txt").read_text()
    assert "the text of the config file" in re.sub(r"\x1b\[[0-9;]*m", "", log)
    assert torch.__version__ in log and "World size: 1" in log
    saved = LazyConfig.load(str(folder / "config.yaml"))
    assert saved.model._target_ == "torch.nn.Linear" and saved.train.seed == 7


def test_the_seed_of_the_config_is_used_and_a_negative_one_is_random(tmp_path):
    default_setup(a_config(tmp_path), parse())
    first = draws()
    seed_all_rng(7)
    assert draws() == first  # rank 0 adds nothing to it
    default_setup(a_config(tmp_path, seed=-1), parse())
    second = draws()
    default_setup(a_config(tmp_path, seed=-1), parse())
    assert second != first and draws() != second


def test_backends_follow_the_config_except_in_evaluation(tmp_path):
    default_setup(a_config(tmp_path, cudnn_benchmark=True), parse())
    assert torch.backends.cudnn.benchmark is True
    default_setup(a_config(tmp_path, cudnn_benchmark=False), parse("--eval-only"))
    assert torch.backends.cudnn.benchmark is True
    default_setup(a_config(tmp_path), parse())
    assert torch.backends.cudnn.benchmark is False


def test_without_an_output_folder_there_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default_setup(OmegaConf.create({"train": {"seed": 1}}), parse())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fallback("detectron2")
def test_a_seed_of_null_is_random_and_the_log_has_no_colours(tmp_path):
    config_file = tmp_path / "a.py"
    config_file.write_text("x = dict(a=1)\n")
    default_setup(a_config(tmp_path, seed=None), parse("--config-file", str(config_file)))
    log = (tmp_path / "log.txt").read_text()
    assert "random seed" in log and "\x1b" not in log


@pytest.mark.fallback("detectron2")
def test_a_second_setup_takes_the_log_along_and_serves_the_projects_loggers(tmp_path, capsys):
    for name in ("first", "second"):
        default_setup(a_config(tmp_path / name), parse())
    capsys.readouterr()
    before = (tmp_path / "first" / "log.txt").read_text()
    for name in ("detectron2.x", "detrex.x", "dinov2_detrex.x"):
        logging.getLogger(name).info("once from %s", name)
        assert capsys.readouterr().out.count("once from") == 1
        assert (tmp_path / "second" / "log.txt").read_text().count(f"once from {name}") == 1
    assert (tmp_path / "first" / "log.txt").read_text() == before


def test_a_seed_repeats_every_generator():
    seed_all_rng(3)
    first = draws()
    seed_all_rng(3)
    assert draws() == first
    seed_all_rng(None)
    assert draws() != first
    for seed in (-1, 2**32):
        with pytest.raises(ValueError):
            seed_all_rng(seed)


def test_the_torch_version_is_a_pair_of_numbers():
    assert TORCH_VERSION == tuple(int(part) for part in torch.__version__.split(".")[:2])


def test_the_environment_is_described():
    text = collect_env_info()
    for word in ("Python", "PyTorch", torch.__version__, np.__version__, "detectron2", "fvcore"):
        assert word in text
