"""What does every training program do before and around the training: flags, folders, logs, seeds, writers, DDP?"""

import argparse
import logging
import os
import sys
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config import LazyConfig
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.logger import setup_logger

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]

LOGGED_PACKAGES = ("fvcore", "detectron2", "detrex", "dinov2_detrex")


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The flags that every training program has; whatever follows the first override belongs to the overrides."""
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to the config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate instead of training")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs (or CPU processes) per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, from 0 on")
    parser.add_argument("--dist-url", default=_user_url(), help="where the processes meet; tcp://HOST:PORT, or auto")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], help="overrides key=value, after all flags")
    return parser


def _user_url() -> str:
    """A port of this machine's own for each user, from 49152 on."""
    user = os.getuid() if hasattr(os, "getuid") else 1
    return f"tcp://127.0.0.1:{2**15 + 2**14 + hash(user) % 2**14}"


def default_setup(cfg: Any, args: argparse.Namespace) -> None:
    """Make the output folder, configure logging, log what runs, save the config, seed, set the backends.

    Args:
        cfg: a config; read are `output_dir`, `seed`, `cudnn_benchmark`, `float32_precision` under `train`.
        args: of `default_argument_parser`.
    """
    output_dir = _first_of(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    rank = comm.get_rank()
    if output_dir and comm.is_main_process():
        os.makedirs(output_dir, exist_ok=True)
    for package in LOGGED_PACKAGES:
        setup_logger(output_dir, distributed_rank=rank, name=package)
    _log_start(args, rank)
    if output_dir and comm.is_main_process():
        path = os.path.join(output_dir, "config.yaml")
        LazyConfig.save(cfg, path)
        logging.getLogger(__name__).info("Full config saved to %s", path)
    _seed(_first_of(cfg, "SEED", "train.seed", default=-1), rank)
    _set_backends(cfg, args)


def _first_of(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value of the first of the dotted keys that is set to something."""
    values = (OmegaConf.select(cfg, key) for key in keys)
    return next((value for value in values if value is not None), default)


def _log_start(args: argparse.Namespace, rank: int) -> None:
    logger = logging.getLogger(__name__)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line: %s", " ".join(sys.argv))
    logger.info("Arguments: %s", args)
    path = getattr(args, "config_file", "")
    if path and os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            logger.info("Contents of config file %s:\n%s", path, file.read())


def _seed(seed: int, rank: int) -> None:
    """A random seed for a negative one, else a different one for each process."""
    seed_all_rng(None if seed < 0 else seed + rank)


def _set_backends(cfg: Any, args: argparse.Namespace) -> None:
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = bool(_first_of(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False))
    precision = _first_of(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Log lines, `<output_dir>/metrics.json` and TensorBoard."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """The model itself in a single process, else wrapped for synchronous gradients.

    Args:
        fp16_compression: send gradients in half precision.
        kwargs: for `DistributedDataParallel`; `device_ids` is this process's GPU, or None for a model on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs and all(parameter.is_cuda for parameter in model.parameters()):
        kwargs["device_ids"] = [comm.get_local_rank()]
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default as comm_hooks

        ddp.register_comm_hook(state=None, hook=comm_hooks.fp16_compress_hook)
    return ddp
