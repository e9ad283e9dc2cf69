"""Optimizers of the recipes; the trainer sets `.params.model`, a recipe `.params.lr_factor_func` where it wants one."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from dinov2_detrex.training.muon import Muon as _Muon
from dinov2_detrex.training.muon import matrices_apart

SGD = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)

# weight matrices by orthogonalised momentum, everything else by AdamW; for detectors from random weights
Muon = L(_Muon)(
    params=L(matrices_apart)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-3,
    momentum=0.95,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)
