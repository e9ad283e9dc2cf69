"""How the feature maps exchange what they see: layers of deformable self-attention over the cells of all levels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.detector.layers import FFN
from dinov2_detrex.runtime.values import MOST_LAYERS, require_flag, require_heads, require_whole


class EncoderLayer(nn.Module):
    """Deformable self-attention, norm, feed-forward, norm; each block with its residual."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        feedforward_dim: int,
        attn_dropout: float,
        ffn_dropout: float,
        num_levels: int,
        num_points: int,
    ):
        super().__init__()
        attention = MultiScaleDeformableAttention(
            embed_dim, num_heads, num_levels, num_points, dropout=attn_dropout, batch_first=True
        )
        self.attentions = nn.ModuleList([attention])
        self.ffns = nn.ModuleList([FFN(embed_dim, feedforward_dim, ffn_drop=ffn_dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))

    def forward(
        self,
        tokens: Tensor,
        *,
        position: Tensor,
        reference_points: Tensor,
        shapes_hw: list[tuple[int, int]],
        memory_padding_mask: Tensor | None,
    ) -> Tensor:
        """(B, S, D) to (B, S, D); arguments as of the encoder."""
        tokens = self.attentions[0](
            tokens,
            query_pos=position,
            key_padding_mask=memory_padding_mask,
            reference_points=reference_points,
            spatial_shapes=shapes_hw,
        )
        return self.norms[1](self.ffns[0](self.norms[0](tokens)))


class DINOTransformerEncoder(nn.Module):
    """`num_layers` encoder layers, and a last norm with `post_norm`.

    Args:
        embed_dim, num_heads, feedforward_dim: widths of a layer.
        attn_dropout, ffn_dropout: dropout in a layer.
        num_layers: may be 0, then the features go on as they are.
        post_norm: normalise the output once more.
        num_feature_levels, num_points: levels, and points a level and head.
        use_checkpoint: in training, keep no activations inside a layer but compute them again in the backward.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        attn_dropout: float = 0.1,
        ffn_dropout: float = 0.1,
        num_layers: int = 6,
        post_norm: bool = False,
        num_feature_levels: int = 4,
        use_checkpoint: bool = False,
        num_points: int = 4,
    ):
        super().__init__()
        require_heads(self, embed_dim, num_heads)
        require_whole(self, 0, MOST_LAYERS, num_layers=num_layers)
        require_whole(self, 1, feedforward_dim=feedforward_dim, num_points=num_points)
        require_whole(self, 1, num_feature_levels=num_feature_levels)
        require_flag(self, post_norm=post_norm, use_checkpoint=use_checkpoint)
        self.embed_dim, self.num_feature_levels = embed_dim, num_feature_levels
        self.use_checkpoint = use_checkpoint
        self.layers = nn.ModuleList(
            EncoderLayer(
                embed_dim, num_heads, feedforward_dim, attn_dropout, ffn_dropout, num_feature_levels, num_points
            )
            for _ in range(num_layers)
        )
        self.post_norm_layer = nn.LayerNorm(embed_dim) if post_norm else None

    def forward(
        self,
        tokens: Tensor,
        *,
        position: Tensor,
        reference_points: Tensor,
        shapes_hw: list[tuple[int, int]],
        memory_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, S, D) to memory (B, S, D).

        Args:
            tokens: cells of all levels, row-major per level.
            position: (B or 1, S, D), added to the queries of every layer.
            reference_points: (B or 1, S, L, 2), each cell's centre (x, y) normalised to each level.
            shapes_hw: (height, width) of every level.
            memory_padding_mask: (B, S), True where a cell is padding; None where nothing is.
        """
        for layer in self.layers:
            tokens = run_layer(
                layer,
                tokens,
                checkpointed=self.use_checkpoint and self.training,
                position=position,
                reference_points=reference_points,
                shapes_hw=shapes_hw,
                memory_padding_mask=memory_padding_mask,
            )
        return tokens if self.post_norm_layer is None else self.post_norm_layer(tokens)


def run_layer(layer: nn.Module, tokens: Tensor, *, checkpointed: bool, **arguments: Any) -> Tensor:
    """Call `layer(tokens, **arguments)`; checkpointed, it keeps its inputs alone and runs again in the backward."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(layer, tokens, use_reentrant=False, **arguments)
    return layer(tokens, **arguments)
