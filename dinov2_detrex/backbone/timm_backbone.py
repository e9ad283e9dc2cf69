"""How does a timm model serve as a detectron2 backbone? `TimmBackbone`: images in, named feature maps out."""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from omegaconf import OmegaConf
from timm.layers.format import Format, nhwc_to
from timm.models._features import FeatureGetterNet

from dinov2_detrex.backbone.adapters import LowRank, attach_adapters
from dinov2_detrex.backbone.feature_cache import FeatureCache
from dinov2_detrex.backbone.freezing import frozen_modules, frozen_parameters, gradient_unless, parse_freeze
from dinov2_detrex.backbone.position import check_mode
from dinov2_detrex.backbone.resampling import check_method
from dinov2_detrex.backbone.timm_factory import architecture, build_features, default_indices
from dinov2_detrex.backbone.vit import (
    add_positions,
    embed_patches,
    grid_size,
    has_hub_positions,
    prefix_tokens,
    run_block,
    to_feature_map,
)
from dinov2_detrex.backbone.vit_families import PlainViT, as_plain_vit
from dinov2_detrex.backbone.weight_files import read_tensors
from dinov2_detrex.backbone.weights import from_hub, load_vit, rebuild_with_weights
from dinov2_detrex.backbone.windows import attach_windows
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.values import refused, require_flag, require_number, require_share, require_whole

logger = logging.getLogger(__name__)
feature_logger = logging.getLogger("timm backbone")  # detrex's name for it

MOST_BLOCKS = 2**10  # of any model, for a check before it is built


class TimmBackbone(Backbone):
    """Any timm model that supports `features_only`, as a detectron2 `Backbone`; made for DINOv2.

    Args:
        model_name: a timm name, e.g. "vit_base_patch14_dinov2.lvd142m".
        features_only: must stay True; without it timm says nothing about channels and strides.
        pretrained: load timm's weights for this name, through timm's cache and offline settings.
        checkpoint_path: load this file instead of the download: PyTorch or safetensors, in the names of timm, Meta's
            DINOv2 or transformers' Dinov2, or a detector's checkpoint with such a backbone inside.
        in_channels: channels of the images; a pretrained kernel for three is adapted as timm does.
        out_indices: which blocks (of a ViT) or stages to return; index i becomes the map "p{i}", so -1 is "p-1".
            None takes the last block of a plain ViT, and (0, 1, 2, 3), as detrex, of any other model.
        out_features: names to select among those; None keeps all.
        norm_layer: as in timm.
        patch_size: patch of a ViT in pixels; None is the model's own.
        img_size: size that fixes the stored positional grid; None is the model's own. 592 at patch 16 is the 37 x 37
            grid of DINOv2's checkpoints. Images of any other size are taken anyway.
        freeze: True for everything, a number n for the embedding and the first n blocks, "embed" for the patch and
            positional embedding alone. The frozen part has no gradients, stays in evaluation mode through `train()`,
            and runs under `no_grad`. "lora" freezes all weights and trains low-rank adapters beside those of the blocks
            (plain ViTs only).
        norm: apply the model's final norm to every map (plain ViTs only).
        pos_embed: how positions reach another grid, "hub" as DINOv2's original code (models of other origin: as timm),
            or "timm". None is "timm" where the caller passes timm's own `dynamic_img_size`, as detrex configs in
            circulation do, whose checkpoints were trained with it; else "hub".
        patch_resample: how a kernel of another patch is resized on loading, "pi" as FlexiViT and timm, or "bicubic" as
            EVA's script.
        drop_path_rate: stochastic depth, see timm.
        use_act_checkpoint: recompute the blocks in the backward pass instead of keeping their activations.
        window_size: side in cells of the windows that blocks attend in (plain ViTs); 0 for global attention everywhere.
        window_block_indexes: the blocks that do; None for all but four evenly spaced ones, as ViTDet.
        return_prefix_tokens: add "p{index}.cls" (B, C) and "p{index}.reg" (B, R, C) to the output of a plain ViT, where
            it has such tokens. They are no maps, so `output_shape()` does not list them.
        lora_rank, lora_alpha, lora_dropout, lora_layers, lora_blocks: of the adapters, see `adapters.LowRank`; alone
            with `freeze="lora"`. `lora_layers` names linear layers of a block: "qkv" and "proj" of the attention, "fc1"
            and "fc2" of the feed-forward part.
        timm_kwargs: any other keyword of `timm.create_model`. Plain ViTs get `dynamic_img_size=True` by default.

    Raises:
        TypeError: `pretrained` is no bool.
        RuntimeError: timm cannot build the model, or `features_only` is False; `WeightsError` where weights that were
            asked for did not land.
        ValueError: an argument that does not fit the model, or each other; a UsageError for a number out of its range.
    """

    def __init__(
        self,
        model_name: str,
        features_only: bool = True,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        out_features: Sequence[str] | None = None,
        norm_layer=None,
        *,
        patch_size: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        freeze: bool | int | str = False,
        norm: bool = False,
        pos_embed: str | None = None,
        patch_resample: str = "pi",
        drop_path_rate: float = 0.0,
        use_act_checkpoint: bool = False,
        window_size: int = 0,
        window_block_indexes: Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.0,
        lora_layers: Sequence[str] | str = ("qkv", "proj"),
        lora_blocks: Sequence[int] | None = None,
        **timm_kwargs: Any,
    ):
        super().__init__()
        _check_numbers({"in_channels": in_channels, "patch_size": patch_size, "drop_path_rate": drop_path_rate})
        _check_numbers({"img_size": img_size, "out_indices": out_indices, **timm_kwargs})
        require_flag(self, features_only=features_only, norm=norm, return_prefix_tokens=return_prefix_tokens)
        require_flag(self, use_act_checkpoint=use_act_checkpoint)
        self.in_channels = in_channels
        _check_arguments(model_name, features_only, pretrained, patch_resample, timm_kwargs)
        self.pos_embed_mode = check_mode(pos_embed or ("timm" if timm_kwargs.get("dynamic_img_size") else "hub"))
        indices = tuple(default_indices(model_name) if out_indices is None else out_indices)
        options = {
            "in_chans": in_channels,
            "out_indices": indices,
            "norm_layer": norm_layer,
            "patch_size": patch_size,
            "img_size": _plain(img_size),
            "drop_path_rate": drop_path_rate or None,
            **{name: _plain(value) for name, value in timm_kwargs.items()},
        }
        self.timm_model: Any = build_features(model_name, norm, **options)  # of one of timm's extractor classes
        _check_needs_vit(self.vit, model_name, norm=norm, return_prefix_tokens=return_prefix_tokens)
        _check_grid(self.vit, _plain(img_size))
        self.uses_hub_positions = (
            self.pos_embed_mode == "hub" and "dinov2" in architecture(model_name) and has_hub_positions(self.vit)
        )
        self.weights_report = self._load_weights(model_name, pretrained, checkpoint_path, patch_resample, options)
        self.return_prefix_tokens = return_prefix_tokens
        self.use_act_checkpoint = use_act_checkpoint
        if use_act_checkpoint and self.vit is None:
            self.timm_model.set_grad_checkpointing(True)
        self._windows = attach_windows(self.vit, window_size, window_block_indexes)
        self._freeze(freeze, LowRank(lora_rank, lora_alpha, lora_dropout, lora_layers, lora_blocks))
        self._set_shapes(indices, out_features)
        self.model_name = model_name
        self.feature_cache: FeatureCache | None = None
        self._how_built = _text((model_name, options, norm, self.uses_hub_positions, window_size, window_block_indexes))
        logger.info("%s: %s", model_name, self.weights_report)
        feature_logger.info("%s: %s", model_name, self._describe_maps())

    @property
    def vit(self) -> PlainViT | None:
        """The timm model behind the feature extractor where it is a plain ViT, else None."""
        return as_plain_vit(self.timm_model.model) if isinstance(self.timm_model, FeatureGetterNet) else None

    @property
    def size_divisibility(self) -> int:
        """A plain ViT takes multiples of its patch; others state no requirement (0)."""
        return 0 if self.vit is None else math.lcm(*self.vit.patch_embed.patch_size)

    def _load_weights(
        self, model_name: str, pretrained: bool, checkpoint_path: str, patch_resample: str, options: dict[str, Any]
    ) -> str:
        """Load what was asked for and return the report line; a file comes before a download."""
        if not (pretrained or checkpoint_path):
            return "random weights"
        source = str(checkpoint_path) if checkpoint_path else f"timm's {model_name}"
        if self.vit is None:
            self.timm_model = rebuild_with_weights(self.timm_model, model_name, options, str(checkpoint_path))
            return f"weights from {source}"
        state = read_tensors(checkpoint_path) if checkpoint_path else from_hub(model_name, options)
        return load_vit(self.vit, state, source, patch_resample, "hub" if self.uses_hub_positions else "timm")

    def _freeze(self, freeze: bool | int | str, low_rank: LowRank) -> None:
        self.frozen = parse_freeze(freeze, self.vit, low_rank)
        for parameter in frozen_parameters(self.timm_model, self.vit, self.frozen):
            parameter.requires_grad_(False)
        if self.vit is not None and self.frozen.adapted:
            attach_adapters(self.vit, low_rank)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """As in torch, but the frozen part stays in evaluation mode."""
        super().train(mode)
        for module in frozen_modules(self.timm_model, self.vit, self.frozen):
            module.eval()
        return self

    def _set_shapes(self, out_indices: tuple[int, ...], out_features: Sequence[str] | None) -> None:
        info = self.timm_model.feature_info
        absolute = [index % len(info) for index in out_indices]
        names = [f"p{index}" for index in out_indices]
        self._index_of = dict(zip(names, absolute))
        self._out_features = _select(names, out_features)
        self._out_feature_channels = dict(zip(names, info.channels(absolute)))
        self._out_feature_strides = dict(zip(names, info.reduction(absolute)))

    def _describe_maps(self) -> str:
        return ", ".join(f"{name}: {s.channels} channels, stride {s.stride}" for name, s in self.output_shape().items())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C_in, h, w) normalised images to {"p{index}": (B, C, h/stride, w/stride)}, in the order of out_indices.

        Raises:
            ValueError: a plain ViT's patch does not divide the image.
        """
        with gradient_unless(self.frozen.everything):
            if self.feature_cache is None:
                return self._maps(x)
            how_built = f"{self._how_built}, {self._out_features}, {self.return_prefix_tokens}"
            return self.feature_cache.maps(x, self._maps, self.timm_model, how_built)

    def keep_features(self, cache: FeatureCache | None) -> None:
        """From here on take what was computed before from the cache; None computes everything again.

        Raises:
            UsageError: the backbone, or a part of it, trains.
        """
        trains = not self.frozen.everything or any(value.requires_grad for value in self.timm_model.parameters())
        if cache is not None and (trains or any(module.training for module in self.timm_model.modules())):
            raise UsageError(
                f"train.feature_cache keeps what a frozen backbone gives, and {self.model_name} trains: "
                "set model.backbone.net.freeze=true, or train.feature_cache.enabled=false"
            )
        self.feature_cache = cache

    def _maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._stage_maps(x) if self.vit is None else self._vit_maps(self.vit, x)

    def _stage_maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What timm's extractor returns, each stage once and fine to coarse, under the names asked for."""
        maps = self.timm_model(x)
        if getattr(self.timm_model, "output_fmt", None) == Format.NHWC:  # some of timm's extractors do not say
            maps = [nhwc_to(feature_map, Format.NCHW).contiguous() for feature_map in maps]
        of_index = dict(zip(sorted(set(self._index_of.values())), maps, strict=True))
        return {name: of_index[self._index_of[name]] for name in self._out_features}

    def _vit_maps(self, vit: PlainViT, x: torch.Tensor) -> dict[str, torch.Tensor]:
        grid_hw = grid_size(vit, x.shape[-2:])
        tokens_of = self._tokens_of_blocks(vit, x, grid_hw)
        output = {}
        for name in self._out_features:
            tokens = tokens_of[self._index_of[name]]
            output[name] = to_feature_map(tokens, vit.num_prefix_tokens, grid_hw)
            if self.return_prefix_tokens:
                output |= {f"{name}.{kind}": value for kind, value in prefix_tokens(vit, tokens).items()}
        return output

    def _tokens_of_blocks(self, vit: PlainViT, x: torch.Tensor, grid_hw: tuple[int, int]) -> dict[int, torch.Tensor]:
        """Block index -> tokens (B, N, C) after it, normed where asked, for the blocks that are returned."""
        with gradient_unless(self.frozen.embed):
            patches = embed_patches(vit, x)
        with gradient_unless(self.frozen.blocks > 0):
            tokens, arguments_of = add_positions(
                vit, patches, grid_hw, self.uses_hub_positions, frozen=self.frozen.embed
            )
        wanted, returned = {self._index_of[name] for name in self._out_features}, {}
        for i, block in enumerate(vit.blocks):
            with gradient_unless(i < self.frozen.blocks):
                tokens = run_block(block, tokens, arguments_of(i), grid_hw, self._windows, self.use_act_checkpoint)
            if i in wanted:
                returned[i] = vit.norm(tokens) if self.timm_model.norm else tokens
        return returned


def _check_arguments(
    model_name: str, features_only: bool, pretrained: bool, patch_resample: str, timm_kwargs: dict[str, Any]
) -> None:
    if not isinstance(pretrained, bool):
        raise TypeError(f"pretrained must be True or False, not {pretrained!r}; a file goes to checkpoint_path")
    if not features_only:
        raise RuntimeError(
            f"{model_name!r} with features_only=False has no feature maps; a backbone needs features_only=True"
        )
    check_method(patch_resample)
    if timm_kwargs.get("patch_drop_rate"):
        raise ValueError("patch_drop_rate leaves holes in the feature map; a backbone cannot use it")


def _check_numbers(given: dict[str, Any]) -> None:
    """Refuse numbers that no model can be built from, as far as a keyword's name tells; timm knows the others.

    Raises:
        UsageError: naming the first one.
    """
    needed = ("in_channels", "embed_dim", "depth", "num_heads")
    numbers: dict[str, Any] = {name: value for name, value in given.items() if value is not None or name in needed}
    for name, value in numbers.items():
        if name in ("in_channels", "embed_dim", "depth", "patch_size", "img_size") and not _is_list(value):
            require_whole("TimmBackbone", 1, **{name: value})
        elif name in ("patch_size", "img_size"):
            require_whole("TimmBackbone", 1, **{f"{name}[{i}]": side for i, side in enumerate(value)})
        elif name == "out_indices" and not (_is_list(value) and len(value)):
            raise refused("TimmBackbone", name, value, "a list of block or stage numbers")
        elif name == "out_indices":
            require_whole("TimmBackbone", -MOST_BLOCKS, **{f"{name}[{i}]": index for i, index in enumerate(value)})
        elif name.endswith(("drop_rate", "drop_path_rate")):
            require_share("TimmBackbone", **{name: value})
        elif name == "num_heads" and not _is_list(value):
            require_whole("TimmBackbone", 1, **{name: value})
        elif name in ("mlp_ratio", "init_values") and not isinstance(value, str):
            require_number("TimmBackbone", 0, **{name: value})


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_grid(vit: PlainViT | None, img_size: Any) -> None:
    """Refuse an image size that the patches do not tile, or that is smaller than one."""
    if vit is None:
        return
    patch_hw, sides = vit.patch_embed.patch_size, img_size if isinstance(img_size, tuple) else (img_size, img_size)
    if img_size is not None and any(side % patch for side, patch in zip(sides, patch_hw)):
        raise refused("TimmBackbone", "img_size", img_size, f"a multiple of the patch, {patch_hw[0]} x {patch_hw[1]}")
    if vit.pos_embed is not None and not all(vit.patch_embed.grid_size):
        raise refused("TimmBackbone", "patch_size", patch_hw, "at most as large as img_size")


def _check_needs_vit(vit: PlainViT | None, model_name: str, **switches: bool) -> None:
    """ValueError for switches that are on although the model is no plain ViT."""
    on = [name for name, value in switches.items() if value]
    if vit is None and on:
        raise ValueError(f"{', '.join(on)}: for plain ViTs only, and {model_name!r} is none")


def _text(value: Any) -> str:
    """The same for equal values in any process: without the addresses that functions have in theirs."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _plain(value: Any) -> Any:
    """Lists and dicts of a config as Python's own (lists as tuples), which is all that timm knows."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    return tuple(value) if isinstance(value, list) else value


def _select(names: list[str], out_features: Sequence[str] | None) -> list[str]:
    """`names` that are in `out_features`, in the order of `names`; ValueError for one that is not there."""
    unknown = set(out_features or ()) - set(names)
    if unknown:
        raise ValueError(f"out_features {sorted(unknown)} are not among the maps {names} that out_indices gives")
    return [name for name in names if out_features is None or name in out_features]
