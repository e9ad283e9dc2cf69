"""How do a run's numbers and config get into an experiment tracker? Weights & Biases and MLflow, both optional."""

import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from detectron2.utils.events import EventWriter
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.config.train_options import MlflowOptions
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.extras import needed
from dinov2_detrex.training.new_scalars import NewScalars

_PARAMS_AT_ONCE, _LONGEST_PARAM = 100, 500  # what every MLflow server takes
_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")  # MLflow allows letters, digits and these in names


class WandbMetrics(EventWriter):
    """The same numbers to Weights & Biases.

    Args:
        params: keywords of `wandb.init`.
        cfg: the whole config, which is recorded.

    Raises:
        MissingPackageError: wandb is not installed.
        UserError: it does not start (not logged in: `wandb login`, or WANDB_MODE=offline).
    """

    def __init__(self, params: dict[str, Any], cfg: DictConfig):
        wandb = needed("wandb", "train.wandb.enabled=true", "wandb")
        os.makedirs(params.get("dir") or ".", exist_ok=True)
        try:
            self._run = wandb.init(config=_plain(cfg), **params)
        except wandb.errors.Error as error:
            raise UserError(f"wandb does not start ({error}); `wandb login`, or set WANDB_MODE=offline") from error
        self._new = NewScalars()

    def write(self):
        for iteration, scalars in self._new.take():
            self._run.log(scalars, step=iteration)

    def close(self):
        self._run.finish()


class MlflowMetrics(EventWriter):
    """The same numbers to MLflow, with the config as parameters and as the artifact config.yaml.

    A character that MLflow does not take in a name becomes "_": "[metric]grad_norm" is "_metric_grad_norm" there. The
    run ends as FINISHED, or as FAILED where an error ends the training.

    Args:
        options: where, and under which names.
        cfg: the whole config.

    Raises:
        MissingPackageError: mlflow is not installed.
        UserError: its store cannot be had.
    """

    def __init__(self, options: MlflowOptions, cfg: DictConfig):
        mlflow = needed("mlflow", "train.mlflow.enabled=true", "mlflow")
        self._metric = mlflow.entities.Metric
        content = _plain(cfg)
        try:
            self._client = mlflow.MlflowClient(options.tracking_uri or None)
            self._run_id = self._start(options)
            self._log_params(mlflow.entities.Param, content)
            self._client.log_dict(self._run_id, content, "config.yaml")
        except Exception as error:  # mlflow's own, the network's, the disk's
            raise UserError(f"mlflow does not start ({one_line(error)}); see train.mlflow.tracking_uri") from error
        self._new = NewScalars()

    def _start(self, options: MlflowOptions) -> str:
        experiment = self._client.get_experiment_by_name(options.experiment)
        number = experiment.experiment_id if experiment else self._client.create_experiment(options.experiment)
        return self._client.create_run(number, run_name=options.run_name or None).info.run_id

    def _log_params(self, param: Any, content: Any) -> None:
        rows = [param(_NOT_IN_NAMES.sub("_", key), str(value)[:_LONGEST_PARAM]) for key, value in _leaves(content)]
        for start in range(0, len(rows), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=rows[start : start + _PARAMS_AT_ONCE])

    def write(self):
        now = int(time.time() * 1000)
        for iteration, scalars in self._new.take():
            rows = [self._metric(_NOT_IN_NAMES.sub("_", n), value, now, iteration) for n, value in scalars.items()]
            self._client.log_batch(self._run_id, metrics=rows)

    def close(self):
        self._client.set_terminated(self._run_id, "FAILED" if sys.exc_info()[0] else "FINISHED")


def _leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.max_iter", 90000), ... of a nested dict; lists are leaves."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, content


def _plain(cfg: DictConfig) -> Any:
    """The resolved config with callables by name."""

    def named(value):
        if isinstance(value, dict):
            return {str(name): named(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [named(inner) for inner in value]
        simple = value is None or isinstance(value, str | int | float | bool)
        return value if simple else getattr(value, "__qualname__", repr(value))

    return named(OmegaConf.to_container(cfg, resolve=True))
