"""What each process of a run does: build what the config describes, resume, train, evaluate."""

import contextlib
import functools
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from dinov2_detrex.config.loading import train_options
from dinov2_detrex.config.saving import settled, write_config
from dinov2_detrex.config.train_options import TrainOptions
from dinov2_detrex.data.loader import build_train_loader
from dinov2_detrex.runtime.compiling import compile_parts
from dinov2_detrex.runtime.devices import choose_device
from dinov2_detrex.runtime.errors import UsageError, UserError
from dinov2_detrex.runtime.seeding import draw_run_seed, seed_generators
from dinov2_detrex.training import checkpoint, failures, parallel, progress, resuming, run_folder, setup
from dinov2_detrex.training.datasets import check_datasets, class_names, dataset_metadata
from dinov2_detrex.training.ema import EMAUpdate, ModelEMA
from dinov2_detrex.training.errors import TrainingDiverged
from dinov2_detrex.training.evaluation import (
    EMA_PREFIX,
    BestTracker,
    PeriodicEvaluation,
    Validator,
    keep_best_results,
)
from dinov2_detrex.training.features import FeatureReport, keep_features
from dinov2_detrex.training.init_checkpoint import load_init_checkpoint, naming_the_option
from dinov2_detrex.training.lr import LearningRate, describe_groups, scale_learning_rates
from dinov2_detrex.training.optimizer import build_optimizer, gradient_clipping
from dinov2_detrex.training.precision import Precision, choose_dtype, told_of_emulation
from dinov2_detrex.training.progress_bar import ProgressBar, shows_bar
from dinov2_detrex.training.trainer import Trainer
from dinov2_detrex.training.weights import choose_weights, load_all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint is made of: the bare model, its average if there is one, the trainer, the class names, and of
    how many images and processes its batches are."""

    model: nn.Module
    ema: ModelEMA | None
    trainer: Trainer
    metadata: dict
    batches: resuming.Batches

    def content(self) -> dict:
        """All that resuming needs; sharded tensors are gathered, so every process must ask."""
        state = {"model": self.weights(), "trainer": self.trainer.state_dict()}
        state |= {"iteration": self.trainer.completed - 1, "metadata": self.metadata}
        state |= {"batches": asdict(self.batches)}
        return state | ({"ema_state": self.ema.state_dict()} if self.ema else {})

    def weights(self, averaged: bool = False) -> dict:
        """The model's state dict, of the averaged weights if asked for and there are any."""
        if averaged and self.ema:
            return self.ema.model_state_dict()
        return parallel.full_state(self.model.state_dict())


def run(cfg: DictConfig, config_file: str, resume: bool = False, eval_only: bool = False) -> int:
    """Train, or evaluate only, as one of the run's processes.

    Args:
        cfg: complete and overridden; a run sets nothing on it.
        config_file: named in the log.
        resume: continue from the newest checkpoint in `train.output_dir`, if there is one.
        eval_only: evaluate `train.init_checkpoint` (with `resume`: the newest checkpoint).

    Returns:
        the exit status.

    Raises:
        UserError: for everything that its user can put right.
    """
    options = train_options(cfg)
    with contextlib.ExitStack() as until_the_end:
        if comm.is_main_process() and not eval_only:
            folder = Path(options.output_dir)
            run_folder.make_folder(folder)
            until_the_end.enter_context(run_folder.only_run_in(folder))  # before a line is added to its log
        return _run(cfg, options, config_file, resume, eval_only)


def _run(cfg: DictConfig, options: TrainOptions, config_file: str, resume: bool, eval_only: bool) -> int:
    """`run`, in a folder of its own."""
    setup.set_up_loggers(options.output_dir)
    setup.log_start(config_file)
    setup.set_numerics(options)
    device = choose_device(options.device, comm.get_local_rank() if comm.get_world_size() > 1 else 0)
    checkpoints = checkpoint.RunCheckpoints(options.output_dir, options.checkpointer.max_to_keep)
    saved = _find_saved(checkpoints) if resume else None
    try:
        check_datasets(cfg.dataloader, ("test",) if eval_only else ("train", "test"), cfg.model)
        with failures.naming_killed_workers():
            if eval_only:
                evaluate_only(cfg, options, device, saved)
            else:
                train(cfg, options, device, checkpoints, saved)
    except FloatingPointError as error:  # from a training step, or from a detector that meets NaN in an evaluation
        raise TrainingDiverged(f"{error}; last good checkpoint: {checkpoints.newest() or 'none'}") from error
    except Exception as error:
        explained = failures.explain(error, cfg)
        if explained is None or explained is error:
            raise
        raise explained from error
    return 0


def _find_saved(checkpoints: checkpoint.RunCheckpoints) -> dict | None:
    found = checkpoints.load_newest()
    if found is None:
        logger.warning("--resume: no checkpoint in %s, starting from the beginning", checkpoints.folder)
        return None
    logger.info("resuming from %s, iteration %d is done", found[0], found[1]["iteration"])
    return found[1]


def train(
    cfg: DictConfig,
    options: TrainOptions,
    device: torch.device,
    checkpoints: checkpoint.RunCheckpoints,
    saved: dict | None,
) -> None:
    """Train from the start, or from what was `saved`."""
    batches = resuming.Batches.of(cfg.dataloader.train, options)
    if saved:
        resuming.check_progress(saved, options)
        resuming.compare_batches(saved, batches)
    seed = _agree_on_seed(options.seed, saved)
    cfg = settled(cfg, seed=seed, device=device.type)
    start_iter = saved["iteration"] + 1 if saved else 0
    seed_generators(seed)  # the same initial weights in every process
    model = _build_model(cfg, options, device)
    if saved:
        _load_exactly(model, saved["model"])
    else:
        start_from_given(model, options, cfg.dataloader.train)
    _compile(model, options, device)
    wrapped = parallel.wrap(model, options.ddp, options.fsdp, device)
    optimizer = _build_optimizer(cfg, options, model)
    if saved:
        resuming.check_optimizer(optimizer, saved["trainer"]["optimizer"])
    averaging = options.model_ema
    ema = ModelEMA(model, averaging.decay, averaging.device.value) if averaging.enabled else None
    trainer = _build_trainer(cfg, options, wrapped, optimizer, device, seed, start_iter)
    state = CheckpointState(model, ema, trainer, dataset_metadata(cfg.dataloader.train), batches)
    trainer.register_hooks(_build_hooks(cfg, options, state, checkpoints, start_iter))
    if saved:
        trainer.load_state_dict(saved["trainer"])
        if ema is not None:
            ema.load_state_dict(_ema_state(saved))
        saved.clear()  # the run's memory is not for its past
    trainer.train(start_iter, options.max_iter)


def start_from_given(model: nn.Module, options: TrainOptions, cfg_loader: DictConfig) -> None:
    """Give a new run's model what `train.init_checkpoint` has for it."""
    names = functools.partial(class_names, cfg_loader)
    load_init_checkpoint(model, options.init_checkpoint, names, options.init_classes_of, options.init_levels)


def evaluate_only(cfg: DictConfig, options: TrainOptions, device: torch.device, saved: dict | None) -> None:
    """Evaluate once and log the results."""
    model = _build_model(cfg, options, device)
    averaged = options.model_ema.use_ema_weights_for_eval_only
    if saved:
        _load_exactly(model, saved["model"])
        if averaged:
            model.load_state_dict(choose_weights(saved, "the newest checkpoint", averaged), strict=False)
    elif options.init_checkpoint:
        with naming_the_option():
            saved = load_all(model, options.init_checkpoint, averaged)
    else:
        logger.warning("--eval-only without train.init_checkpoint evaluates the weights as the model was built")
        saved = {}
    with failures.building("dataloader.test"):
        validator = Validator(cfg.dataloader, options.validation_loss.enabled)
    results = validator(model.eval())
    _compare_classes(saved.get("metadata") or {}, dataset_metadata(cfg.dataloader.test))
    if comm.is_main_process():
        print(results)


def _compare_classes(of_weights: dict, of_data: dict) -> None:
    """Warn where results are counted under other class names than the weights were trained on."""
    trained, named = of_weights.get("thing_classes"), of_data.get("thing_classes")
    if trained and named and list(trained) != list(named):
        logger.warning("the weights were trained on the classes %s, the data set has %s", trained, named)


def _build_model(cfg: DictConfig, options: TrainOptions, device: torch.device) -> nn.Module:
    with failures.building("model"):
        model = instantiate(cfg.model)
        keep_features(model, options)
        return model if parallel.is_sharded(options.fsdp) else model.to(device)  # shards are moved one by one


def _compile(model: nn.Module, options: TrainOptions, device: torch.device) -> None:
    """Where `train.compile` asks for it; its parameters keep their names."""
    if not options.compile:
        return
    if parallel.is_sharded(options.fsdp):
        raise UsageError("train.compile and train.fsdp do not go together")
    compile_parts(model, device, "train.compile=true")


def _load_exactly(model: nn.Module, state: dict) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join((str(error).splitlines() + [""])[1].split())
        raise UserError(
            f"the checkpoint is of another model than the config's ({first}); "
            "use the run's own config.yaml, or start anew with another train.output_dir"
        ) from error


def _ema_state(saved: dict) -> dict:
    if "ema_state" not in saved:
        raise UserError("train.model_ema is on, but the checkpoint to resume from holds no ema_state")
    return saved["ema_state"]


def _agree_on_seed(asked: int | None, saved: dict | None) -> int:
    """One seed for all processes: the saved run's, the one asked for, or a fresh one."""
    seed = asked if asked is not None and asked >= 0 else draw_run_seed()
    if saved and "seed" in saved["trainer"]:
        if asked is not None and asked >= 0 and asked != saved["trainer"]["seed"]:
            logger.warning("train.seed=%s: the resumed run keeps its own, %s", asked, saved["trainer"]["seed"])
        seed = saved["trainer"]["seed"]
    seed = comm.all_gather(seed)[0]
    logger.info("seed %d", seed)
    return seed


def _build_optimizer(cfg: DictConfig, options: TrainOptions, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer with its rates scaled to the batch."""
    with failures.building("optimizer"):
        optimizer = build_optimizer(cfg.optimizer, model)
    factor = scale_learning_rates(optimizer, cfg.dataloader.train.get("total_batch_size", 0), options.scale_lr)
    if factor != 1.0:
        logger.info("learning rates scaled by %g", factor)
    logger.info(describe_groups(optimizer, model))
    return optimizer


def _build_trainer(
    cfg: DictConfig,
    options: TrainOptions,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    seed: int,
    start_iter: int,
) -> Trainer:
    precision = Precision(device, choose_dtype(options.amp, device))
    if parallel.is_sharded(options.fsdp) and precision.scaler.is_enabled():
        raise UserError("train.fsdp and float16 do not go together; set train.amp.dtype=bfloat16")
    logger.info("device %s, precision %s", device, precision)
    if line := told_of_emulation(options.amp, device):
        logger.warning(line)
    with failures.building("dataloader.train"):
        loader = build_train_loader(
            cfg.dataloader.train,
            seed=seed,
            start_iter=start_iter,
            rank=comm.get_rank(),
            num_processes=comm.get_world_size(),
            micro_batches=options.accumulate.steps,
        )
    return Trainer(
        model,
        loader,
        optimizer,
        precision=precision,
        clip_gradients=gradient_clipping(options.clip_grad, model),
        micro_batches=options.accumulate.steps,
        weight_by=options.accumulate.weight_by,
        seed=seed,
        divergence=options.divergence,
    )


def _build_hooks(
    cfg: DictConfig,
    options: TrainOptions,
    state: CheckpointState,
    checkpoints: checkpoint.RunCheckpoints,
    start_iter: int,
) -> list:
    """In the order in which they act after each iteration."""
    main = comm.is_main_process()
    with failures.building("lr_multiplier"):
        multiplier = instantiate(cfg.lr_multiplier)
        if not callable(multiplier):
            raise TypeError(f"a {type(multiplier).__name__} cannot be called with the progress of a run")
    evaluation = _build_evaluation(cfg, options, state, checkpoints.folder)
    comm.synchronize()  # what the other processes read of an earlier run is read
    if main:  # everything is built: from here on the folder is this run's
        _take_folder(cfg, checkpoints, start_iter)
    return [
        hooks.IterationTimer(),
        EMAUpdate(state.ema, options.model_ema.warmup) if state.ema else None,
        LearningRate(state.trainer.optimizer, multiplier),
        checkpoint.PeriodicCheckpoint(checkpoints, options.checkpointer.period, state.content),
        evaluation,
        FeatureReport(state.model) if options.feature_cache.enabled else None,
        progress.ForgetOldValues(),
        progress.PeakMemory(options.log_period) if main else None,
        hooks.PeriodicWriter(progress.build_writers(options, cfg, start_iter), options.log_period) if main else None,
        ProgressBar(setup.LOGGERS) if main and shows_bar(options.progress_bar) else None,
    ]


def _take_folder(cfg: DictConfig, checkpoints: checkpoint.RunCheckpoints, start_iter: int) -> None:
    """Set an earlier run aside, unless this one continues it, and write the config."""
    if not start_iter:
        run_folder.set_aside(checkpoints)
    logger.info("config written to %s", write_config(cfg, str(checkpoints.folder)))


def _build_evaluation(
    cfg: DictConfig, options: TrainOptions, state: CheckpointState, folder: Path
) -> PeriodicEvaluation:
    """The hook that evaluates, keeps the best weights and ends a run that stalls, as the config asks."""
    with failures.building("dataloader.test"):  # now, not after hours of training
        validator = Validator(cfg.dataloader, options.validation_loss.enabled)
    best, stopping = options.best_checkpoint, options.early_stopping
    metric = best.metric or (f"{EMA_PREFIX}/bbox/AP" if state.ema else "bbox/AP")
    tracker = BestTracker(metric, best.mode, stopping.patience, stopping.min_delta)

    def save_best(iteration: int, results: dict) -> None:
        averaged = metric.startswith(EMA_PREFIX + "/")
        weights = state.weights(averaged)
        if comm.is_main_process():
            keep_best_results(cfg.dataloader.evaluator, folder, averaged)
            content = {"model": weights, "iteration": iteration, "metadata": state.metadata, "results": results}
            checkpoint.write(folder / "model_best.pth", content)
            logger.info("best %s so far: %.4f, saved %s", metric, results[metric], folder / "model_best.pth")

    judged = cfg.dataloader.get("evaluator") is not None and (best.enabled or stopping.patience)
    return PeriodicEvaluation(
        options.eval_period,
        lambda: validator(state.model, state.ema),
        tracker if judged else None,
        save_best if best.enabled else None,
    )
