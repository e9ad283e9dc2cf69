"""What happens before a model is built: loggers are set up, and torch's switches."""

import logging
import sys
from pathlib import Path

import torch
from detectron2.utils import comm

from dinov2_detrex.config.train_options import Float32Precision, TrainOptions
from dinov2_detrex.env import describe
from dinov2_detrex.runtime.log_lines import ColorFormatter, send_lines
from dinov2_detrex.training.run_folder import make_folder

logger = logging.getLogger(__name__)

LOGGERS = ["dinov2_detrex", "detectron2", "detrex", "fvcore"]


def set_up_loggers(output_dir: str) -> None:
    """Console and `log.txt` for this project, both engines and fvcore.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    make_folder(Path(output_dir))
    for name in LOGGERS:
        formatter = ColorFormatter(name, "d2" if name == "detectron2" else name)
        send_lines(logging.getLogger(name), output_dir, comm.get_rank(), formatter)


def log_start(config_file: str) -> None:
    """What runs here, and what was asked for."""
    logger.info("process %d of %d", comm.get_rank(), comm.get_world_size())
    logger.info("environment:\n%s", "\n".join(f"  {name:<14} {value}" for name, value in describe()))
    logger.info("command line: %s", " ".join(sys.argv))
    logger.info("config file: %s", config_file)


def set_numerics(options: TrainOptions) -> None:
    """Speed against repeatability, as `train` asks."""
    torch.backends.cudnn.benchmark = options.cudnn_benchmark and not options.deterministic
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
    if options.float32_precision:
        torch.set_float32_matmul_precision(options.float32_precision.value)
        torch.backends.cudnn.allow_tf32 = options.float32_precision is not Float32Precision.highest
