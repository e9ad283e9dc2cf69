"""How queries become objects: layers that look at each other and at the image, each moving its boxes a little.

Look forward twice: Zhang et al. 2022 (DINO), section 3.5; queries coded from their boxes: Liu et al. 2022 (DAB-DETR).
"""

import torch
from torch import Tensor, nn

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.detector.encoder import run_layer
from dinov2_detrex.detector.layers import FFN, MLP, MultiheadAttention, at_least_float32, inverse_sigmoid
from dinov2_detrex.detector.position import get_sine_pos_embed
from dinov2_detrex.runtime.values import MOST_LAYERS, refused, require_flag, require_heads, require_whole


class DecoderLayer(nn.Module):
    """Self-attention, norm, deformable cross-attention, norm, feed-forward, norm; each block with its residual."""

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
        among_queries = MultiheadAttention(embed_dim, num_heads, attn_drop=attn_dropout, batch_first=True)
        to_memory = MultiScaleDeformableAttention(
            embed_dim, num_heads, num_levels, num_points, dropout=attn_dropout, batch_first=True
        )
        self.attentions = nn.ModuleList([among_queries, to_memory])
        self.ffns = nn.ModuleList([FFN(embed_dim, feedforward_dim, ffn_drop=ffn_dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        *,
        position: Tensor,
        memory: Tensor,
        reference_boxes: Tensor,
        shapes_hw: list[tuple[int, int]],
        self_attn_mask: Tensor | None,
        memory_padding_mask: Tensor | None,
        query_padding_mask: Tensor | None,
    ) -> Tensor:
        """(B, Q, D) to (B, Q, D).

        Args:
            queries: contents.
            position: (B, Q, D), the code of each query's box.
            reference_boxes: (B, Q, L, 4), CXCYWH normalised to each level.
            memory, shapes_hw, self_attn_mask, memory_padding_mask, query_padding_mask: as of the decoder.
        """
        queries = self.attentions[0](
            queries, query_pos=position, attn_mask=self_attn_mask, key_padding_mask=query_padding_mask
        )
        queries = self.attentions[1](
            self.norms[0](queries),
            value=memory,
            query_pos=position,
            key_padding_mask=memory_padding_mask,
            reference_points=reference_boxes,
            spatial_shapes=shapes_hw,
        )
        return self.norms[2](self.ffns[0](self.norms[1](queries)))


class DINOTransformerDecoder(nn.Module):
    """`num_layers` decoder layers with iterative box refinement.

    The heads `class_embed` and `bbox_embed` (a list of one per layer and one for the encoder's proposals) are those of
    the detector, which sets them here.

    Args:
        embed_dim: width, a multiple of 4 (a sine and a cosine for every coordinate of a query's box).
        num_heads, feedforward_dim, attn_dropout, ffn_dropout, num_layers: as in the encoder.
        return_intermediate: give the states of every layer, not of the last alone.
        num_feature_levels, num_points: levels, and points a level and head.
        look_forward_twice: let the loss of a layer reach the box head of the layer before it.
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
        return_intermediate: bool = True,
        num_feature_levels: int = 4,
        look_forward_twice: bool = True,
        use_checkpoint: bool = True,
        num_points: int = 4,
    ):
        super().__init__()
        require_heads(self, embed_dim, num_heads)
        if embed_dim % 4:
            raise refused(self, "embed_dim", embed_dim, "a multiple of 4")
        require_whole(self, 1, MOST_LAYERS, num_layers=num_layers)
        require_whole(self, 1, feedforward_dim=feedforward_dim, num_points=num_points)
        require_whole(self, 1, num_feature_levels=num_feature_levels)
        require_flag(self, return_intermediate=return_intermediate, look_forward_twice=look_forward_twice)
        require_flag(self, use_checkpoint=use_checkpoint)
        self.embed_dim, self.num_feature_levels = embed_dim, num_feature_levels
        self.num_layers = num_layers
        self.return_intermediate = return_intermediate
        self.look_forward_twice = look_forward_twice
        self.use_checkpoint = use_checkpoint
        self.layers = nn.ModuleList(
            DecoderLayer(
                embed_dim, num_heads, feedforward_dim, attn_dropout, ffn_dropout, num_feature_levels, num_points
            )
            for _ in range(num_layers)
        )
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim, 2)
        self.norm = nn.LayerNorm(embed_dim)
        self.class_embed: nn.ModuleList | None = None
        self.bbox_embed: nn.ModuleList | None = None

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        *,
        shapes_hw: list[tuple[int, int]],
        valid_ratios: Tensor,
        self_attn_mask: Tensor | None = None,
        memory_padding_mask: Tensor | None = None,
        query_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Refine the queries and their boxes.

        Args:
            queries: (B, Q, D) contents.
            references: (B, Q, 4) boxes CXCYWH, normalised to the image.
            memory: (B, S, D), the encoder's output.
            shapes_hw: (height, width) of every level.
            valid_ratios: (B or 1, L, 2), the share of each level's width and height that the image covers.
            self_attn_mask: (Q, Q), True where self-attention is blocked; None where all see all.
            memory_padding_mask: (B, S), True where a cell is padding; None where nothing is.
            query_padding_mask: (B, Q), True for queries that nothing may attend to; None if there are none.

        Returns:
            states (layers, B, Q, D), normed, and refined references (layers, B, Q, 4), at least float32.
        """
        states, refined = [], []
        _, box_heads = self.heads()
        for layer, box_head in zip(self.layers, box_heads):
            on_levels = references[:, :, None] * torch.cat((valid_ratios, valid_ratios), -1)[:, None]  # B Q L 4
            queries = run_layer(
                layer,
                queries,
                checkpointed=self.use_checkpoint and self.training,
                position=self.query_position(references, on_levels),
                memory=memory,
                reference_boxes=on_levels,
                shapes_hw=shapes_hw,
                self_attn_mask=self_attn_mask,
                memory_padding_mask=memory_padding_mask,
                query_padding_mask=query_padding_mask,
            )
            moved = refine(box_head(queries), references)
            references = moved.detach()
            states.append(self.norm(queries))
            refined.append(moved if self.look_forward_twice else references)
        if not self.return_intermediate:
            states, refined = states[-1:], refined[-1:]
        return torch.stack(states), torch.stack(refined)

    def heads(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """The class heads and the box heads.

        Raises:
            RuntimeError: no detector has set them.
        """
        if self.class_embed is None or self.bbox_embed is None:
            raise RuntimeError("the decoder has no class_embed and bbox_embed: the detector sets them")
        return self.class_embed, self.bbox_embed

    def query_position(self, references: Tensor, on_levels: Tensor) -> Tensor:
        """(B, Q, D): the code of each query's box.

        In training the box is measured in the padded batch, as published detectors were trained. In evaluation it is
        measured in its image: no difference for an image alone, and the padding of a batch cannot move its boxes.
        """
        boxes = on_levels[:, :, 0] if self.training else references
        code = get_sine_pos_embed(boxes, num_pos_feats=self.embed_dim // 2)
        return self.ref_point_head(code.to(self.norm.weight.dtype))


def refine(deltas: Tensor, references: Tensor) -> Tensor:
    """Move boxes (B, Q, 4), normalised, by deltas in logit space; at least float32, whatever the deltas are."""
    return (at_least_float32(deltas) + inverse_sigmoid(references)).sigmoid()
