"""What may a config's `train` section hold? detrex's keys with detrex's values where not noted, and this project's own.

A `train` section that lacks a key gets it from here, so one written for detrex works as it stands. A run takes the
values out of its config once, as a `TrainOptions` (`loading.train_options`).
"""

from dataclasses import dataclass, field
from typing import Any

from dinov2_detrex.config.schema import (
    Choice,
    Each,
    NotEmpty,
    OptionError,
    Range,
    Section,
    expected,
    option,
    refused_value,
)

POSITIVE = Range(low=0, open=True)
AT_LEAST_0 = Range(low=0)
AT_LEAST_1 = Range(low=1)


class Device(Choice):
    """A kind of device, or one of several GPUs, e.g. "cuda:1"."""

    unset = ""
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    xpu = "xpu"

    @classmethod
    def _missing_(cls, value: object) -> "Device | None":
        kind, _, index = str(value).partition(":")
        if kind not in ("cuda", "xpu") or not (index.isascii() and index.isdecimal()):
            return None
        numbered = str.__new__(cls, str(value))
        numbered._name_ = numbered._value_ = str(value)
        return numbered

    @classmethod
    def in_words(cls) -> str:
        return f"{super().in_words()} (one of several: 'cuda:N', 'xpu:N')"


class AmpDtype(Choice):
    """The type in which autocast computes."""

    bfloat16 = "bfloat16"
    float16 = "float16"

    @classmethod
    def _missing_(cls, value: object) -> "AmpDtype | None":
        short = {"bf16": "bfloat16", "fp16": "float16"}
        name = str(value).removeprefix("torch.")
        return cls.__members__.get(short.get(name, name))


class FeatureDtype(Choice):
    """In which type features are kept."""

    unset = ""
    bfloat16 = "bfloat16"


class WeightBy(Choice):
    """What a model's losses are means over."""

    boxes = "boxes"
    images = "images"


class ScaleRule(Choice):
    """How a learning rate follows the batch size: by the ratio, or by its square root."""

    linear = "linear"
    sqrt = "sqrt"


class BestMode(Choice):
    """Which values of a metric are better."""

    max = "max"
    min = "min"


class ProgressBarMode(Choice):
    """Where a run shows a progress bar: "auto" on a terminal and in a notebook, "always" in log files too, as lines."""

    auto = "auto"
    always = "always"
    never = "never"


class Float32Precision(Choice):
    """How exactly float32 matrices are multiplied on a GPU; "high" is TF32."""

    unset = ""
    highest = "highest"
    high = "high"
    medium = "medium"


@dataclass
class AmpOptions(Section):
    """Mixed precision."""

    enabled: bool = False
    """Run the forward pass in autocast."""
    dtype: AmpDtype | None = None
    """Null takes bfloat16 where the device has it; else a GPU float16 with a gradient scaler, and a CPU float32 (not in
    detrex)."""


@dataclass
class DdpOptions(Section):
    """Keywords of torch's DistributedDataParallel, and its communication hook."""

    broadcast_buffers: bool = False
    """Take the buffers of process 0 before every forward pass."""
    find_unused_parameters: bool = False
    """Look for parameters that an iteration leaves without a gradient; slower."""
    fp16_compression: bool = False
    """Exchange gradients in half precision."""


@dataclass
class ClipGradParams(Section):
    """Keywords of `torch.nn.utils.clip_grad_norm_`."""

    max_norm: float = option(0.1, POSITIVE)
    """A longer gradient is scaled to this norm."""
    norm_type: int | float = option(2, POSITIVE)
    """The p of the p-norm; may be infinite."""


@dataclass
class ClipGradOptions(Section):
    """Gradient clipping."""

    enabled: bool = False
    """Clip, and record the norm."""
    by_part: bool = False
    """Clip the ViT, the pyramid, the neck, the transformer and each other part by its own norm."""
    params: ClipGradParams = field(default_factory=ClipGradParams)
    """How."""


@dataclass
class FastDevRunOptions(Section):
    """A run of a minute that passes through everything."""

    enabled: bool = False
    """20 iterations, an evaluation every 10, a log line for each."""


@dataclass
class CheckpointerOptions(Section):
    """Periodic checkpoints."""

    period: int = 5000
    """Iterations between two; 0 or less saves the final one only."""
    max_to_keep: int | None = option(100, AT_LEAST_0)
    """The latest ones that stay; null or 0 keeps all."""


@dataclass
class WandbOptions(Section):
    """Weights & Biases; needs `pip install "dinov2_detrex[wandb]"`."""

    enabled: bool = False
    """Send metrics and config."""
    params: dict[str, Any] = field(
        default_factory=lambda: {
            "dir": "./wandb_output",
            "project": "dinov2_detrex",
            "name": "dinov2_detrex_experiment",
        }
    )
    """Keywords of `wandb.init`."""


@dataclass
class MlflowOptions(Section):
    """MLflow; needs `pip install "dinov2_detrex[mlflow]"`."""

    enabled: bool = False
    """Send metrics and config."""
    tracking_uri: str = ""
    """Of the server, a database or a folder; '' = as MLFLOW_TRACKING_URI says, or MLflow's own default."""
    experiment: str = option("dinov2_detrex", NotEmpty())
    """The experiment's name; it is made if need be."""
    run_name: str = ""
    """The run's name; '' = one that MLflow makes up."""


@dataclass
class ModelEmaOptions(Section):
    """An exponential moving average of the weights."""

    enabled: bool = False
    """Keep one, evaluate and save it."""
    decay: float = option(0.999, Range(0, 1, open=True))
    """The part of the average that stays in a step."""
    warmup: int = option(0, AT_LEAST_0)
    """The decay grows as decay * (1 - exp(-iteration / warmup)), which soon forgets the first weights; 0 = off."""
    device: Device = Device.unset
    """Where it is kept; '' = beside the model."""
    use_ema_weights_for_eval_only: bool = False
    """Take the average of the given checkpoint with --eval-only, and for predicting."""


@dataclass
class AccumulateOptions(Section):
    """Gradient accumulation: the same result with less memory."""

    steps: int = option(1, AT_LEAST_1)
    """Each batch of `total_batch_size` images goes through the model in this many micro-batches."""
    weight_by: WeightBy = WeightBy.boxes
    """What the model's losses are averaged over: boxes (DETR-type losses) or images."""


@dataclass
class ScaleLrOptions(Section):
    """Learning rates that follow the batch size."""

    reference_batch_size: int = option(0, AT_LEAST_0)
    """Images for which the config's rates are meant; they are scaled to the real batch. 0 = off."""
    rule: ScaleRule = ScaleRule.linear
    """Linear (Goyal et al. 2017) or sqrt."""


@dataclass
class BestCheckpointOptions(Section):
    """model_best.pth: the best evaluated weights; never what --resume continues from."""

    enabled: bool = True
    """Keep them."""
    metric: str = ""
    """E.g. "bbox/AP50"; '' = "bbox/AP", or "ema/bbox/AP" with model_ema."""
    mode: BestMode = BestMode.max
    """Whether the metric is best at its largest or at its smallest."""


@dataclass
class EarlyStoppingOptions(Section):
    """The end of a run that gets no better."""

    patience: int = option(0, AT_LEAST_0)
    """Evaluations without a better metric (that of `best_checkpoint`) before the end; 0 = never."""
    min_delta: float = option(0.0, AT_LEAST_0)
    """By how much a value must beat the best one."""


@dataclass
class ValidationLossOptions(Section):
    """Losses on the test images."""

    enabled: bool = False
    """Write those on `dataloader.test` as validation/... with every evaluation."""


@dataclass
class FeatureCacheOptions(Section):
    """What a frozen backbone gives, computed once for each augmented and padded image, on disk."""

    enabled: bool = False
    """Keep it; needs `freeze=true`, and pays where the same pixels come again, e.g. without random sizes and crops."""
    folder: str = ""
    """For any number of runs; '' = dinov2_detrex/features in $XDG_CACHE_HOME, or ~/.cache."""
    dtype: FeatureDtype = FeatureDtype.unset
    """'' keeps it to the bit; bfloat16 takes half the room and rounds."""
    max_gb: float = option(20.0, POSITIVE)
    """Of the folder; what earlier runs left gives way first, then what does not fit is computed each time."""


@dataclass
class DivergenceOptions(Section):
    """The end of a run whose loss explodes: above `factor` x its median of the last `window` iterations."""

    factor: float = option(100.0, POSITIVE)
    """May be infinite."""
    window: int = option(200, AT_LEAST_1)
    """Iterations; before 20 of them nothing is judged."""


@dataclass
class FsdpOptions(Section):
    """FSDP2 instead of DDP: parameters, gradients and optimizer state are sharded over the processes."""

    enabled: bool = False
    """Shard."""
    modules: list[str] = field(default_factory=lambda: ["blocks", "encoder.layers", "decoder.layers"])
    """Ends of names of containers; their members are sharded one by one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(name, str) for name in self.modules):  # omegaconf looks into lists of lists no further
            raise OptionError(refused_value("modules", self.modules, expected(FsdpOptions, "modules")))


@dataclass
class TrainOptions(Section):
    """A training run. The keys up to `device` are detrex's."""

    output_dir: str = option("./output", NotEmpty())
    """The folder of everything that a run writes."""
    init_checkpoint: str = ""
    """Weights to start from: a file, an URL, known://NAME or detectron2://...; '' = as the model was built."""
    max_iter: int = option(90000, AT_LEAST_1)
    """Optimizer steps."""
    amp: AmpOptions = field(default_factory=AmpOptions)
    """Mixed precision."""
    ddp: DdpOptions = field(default_factory=DdpOptions)
    """Several processes with the whole model each."""
    clip_grad: ClipGradOptions = field(default_factory=ClipGradOptions)
    """Gradient clipping."""
    seed: int | None = option(-1, Range(-1, 2**63 - 1))
    """Fixes initial weights, data order, augmentation and noise; -1 or null = a new one, kept by --resume."""
    fast_dev_run: FastDevRunOptions = field(default_factory=FastDevRunOptions)
    """A short trial."""
    checkpointer: CheckpointerOptions = field(default_factory=CheckpointerOptions)
    """Periodic checkpoints."""
    eval_period: int = 5000
    """Iterations between evaluations; 0 or less evaluates at the end only."""
    log_period: int = option(20, AT_LEAST_1)
    """Iterations between two lines of numbers."""
    wandb: WandbOptions = field(default_factory=WandbOptions)
    """Weights & Biases."""
    model_ema: ModelEmaOptions = field(default_factory=ModelEmaOptions)
    """An average of the weights."""
    device: Device | None = None
    """Null or '' = cuda where there is one, else cpu (detrex: "cuda")."""
    accumulate: AccumulateOptions = field(default_factory=AccumulateOptions)
    """Gradient accumulation."""
    scale_lr: ScaleLrOptions = field(default_factory=ScaleLrOptions)
    """Learning rates that follow the batch size."""
    best_checkpoint: BestCheckpointOptions = field(default_factory=BestCheckpointOptions)
    """The best weights."""
    early_stopping: EarlyStoppingOptions = field(default_factory=EarlyStoppingOptions)
    """The end of a run that gets no better."""
    validation_loss: ValidationLossOptions = field(default_factory=ValidationLossOptions)
    """Losses on the test images."""
    divergence: DivergenceOptions = field(default_factory=DivergenceOptions)
    """The end of a run whose loss explodes."""
    deterministic: bool = False
    """Deterministic algorithms on the GPU too (slower); a CPU run always repeats itself."""
    cudnn_benchmark: bool = False
    """Let cuDNN try its algorithms for every new size."""
    float32_precision: Float32Precision = Float32Precision.unset
    """Of matrix products on a GPU; '' = as torch has it."""
    fsdp: FsdpOptions = field(default_factory=FsdpOptions)
    """Sharding."""
    mlflow: MlflowOptions = field(default_factory=MlflowOptions)
    """MLflow."""
    compile: bool = False
    """Put backbone and neck through torch.compile: minutes at the start, shorter steps, other last digits."""
    feature_cache: FeatureCacheOptions = field(default_factory=FeatureCacheOptions)
    """What a frozen backbone gives, computed once."""
    progress_bar: ProgressBarMode = ProgressBarMode.auto
    """A bar on stderr: on a terminal and in a notebook (auto), in log files too, a line a minute (always), or never."""
    init_classes_of: str = ""
    """A registered data set, as coco_2017_train, whose classes an `init_checkpoint` has that does not name them."""
    init_levels: list[int] = field(default_factory=list, metadata={"allowed": Each(Range(-1, 2**15))})
    """For each level of the model that of `init_checkpoint`, 0 for its finest, -1 for none; [] = they are the same."""
