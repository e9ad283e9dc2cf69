"""Defaults of a training run: `dinov2_detrex.config.train_options` says what each key means and may be."""

from omegaconf import OmegaConf

from dinov2_detrex.config.train_options import TrainOptions

train = OmegaConf.structured(TrainOptions)
