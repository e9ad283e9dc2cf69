"""How feature maps become object states: encode the cells, choose queries among them, decode the queries.

B images, L levels, S cells of all levels, Q queries (denoising ones first), D channels, K selected
cells. Boxes are CXCYWH, normalised to the image without its padding. Zhang et al. 2022 (DINO).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov2_detrex.detector.decoder import DINOTransformerDecoder
from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.detector.denoising import LeadingQueries
from dinov2_detrex.detector.encoder import DINOTransformerEncoder
from dinov2_detrex.detector.layers import at_least_float32
from dinov2_detrex.detector.levels import Levels, flatten_levels
from dinov2_detrex.detector.two_stage import (
    MARGIN,
    PROPOSAL_SIZE,
    best_cells,
    cell_centres,
    cell_proposals,
    gather_tokens,
)
from dinov2_detrex.runtime.values import require_equal, require_flag, require_number, require_whole


@dataclass(frozen=True, eq=False)
class SelectedCells:
    """The K cells of every image that become queries.

    Attributes:
        memory: (B, K, D).
        boxes: (B, K, 4).
        padding_mask: (B, K), in evaluation True where padding was selected, because an image has too few cells; None
            where nothing is padded.
    """

    memory: Tensor
    boxes: Tensor
    padding_mask: Tensor | None


@dataclass(frozen=True, eq=False)
class TransformerOutput:
    """What became of the queries.

    Attributes:
        states: (layers, B, Q, D), normed, of every decoder layer.
        initial_boxes: (B, Q, 4), those that enter the first layer.
        refined_boxes: (layers, B, Q, 4), those that leave each layer.
        selected_memory: (B, K, D), of the cells that became queries.
        selected_boxes: (B, K, 4), theirs, with gradient.
        query_padding_mask: (B, Q), in evaluation True for queries that stand for padding, because their image has too
            few cells; None where nothing is padded.
    """

    states: Tensor
    initial_boxes: Tensor
    refined_boxes: Tensor
    selected_memory: Tensor
    selected_boxes: Tensor
    query_padding_mask: Tensor | None

    @property
    def entering_boxes(self) -> list[Tensor]:
        """The boxes (B, Q, 4) that enter each layer, and at the end those that leave the last."""
        return [self.initial_boxes, *self.refined_boxes]


class DINOTransformer(nn.Module):
    """Encoder, two-stage query selection and decoder.

    Args:
        encoder: a `DINOTransformerEncoder`.
        decoder: a `DINOTransformerDecoder`; its heads are set by the detector.
        num_feature_levels: L.
        two_stage_num_proposals: number of queries to select.
        learnt_init_query: query contents are learnt; otherwise they are the memory of the selected cells.
        proposal_size: side of the box that a cell of the finest level proposes, of the image's, doubled from level to
            level. 0.05 suits images of 800 pixels at stride 8; where objects fill more of the image, larger ones are
            nearer to them. A level whose boxes would not lie within the image proposes none.
        one_to_many_groups: in training, so many more groups of queries with contents of their own start from the boxes
            of the selected cells; a group sees itself alone, and each is matched for itself (Chen et al. 2023, Group
            DETR, section 3; here they share the selection). Their parameters are `group_embed`; evaluation knows
            nothing of them.
        one_to_many_queries: queries in each group, those of the best cells; None for `two_stage_num_proposals`.

    Raises:
        ValueError: groups without learnt contents, which would all be the same, or with more queries than are
            selected; or a proposal that no image holds.
        UsageError: encoder and decoder are of another width, or of another number of levels.
    """

    def __init__(
        self,
        encoder: DINOTransformerEncoder,
        decoder: DINOTransformerDecoder,
        num_feature_levels: int = 4,
        two_stage_num_proposals: int = 900,
        learnt_init_query: bool = True,
        proposal_size: float = PROPOSAL_SIZE,
        one_to_many_groups: int = 0,
        one_to_many_queries: int | None = None,
    ):
        super().__init__()
        embed_dim = encoder.embed_dim
        require_whole(self, 1, num_feature_levels=num_feature_levels, two_stage_num_proposals=two_stage_num_proposals)
        require_whole(self, 0, one_to_many_groups=one_to_many_groups)
        require_number(self, proposal_size=proposal_size)
        group_size = two_stage_num_proposals if one_to_many_queries is None else one_to_many_queries
        require_whole(self, 1, one_to_many_queries=group_size)
        if not MARGIN < proposal_size < 1 - MARGIN:
            raise ValueError(f"proposal_size={proposal_size} must lie between {MARGIN} and {1 - MARGIN} of the image")
        check_groups(one_to_many_groups, group_size, two_stage_num_proposals, learnt_init_query)
        require_flag(self, learnt_init_query=learnt_init_query)
        parts = {"encoder": encoder, "decoder": decoder}  # perhaps classes of the user's own, which say less
        widths = {name: getattr(part, "embed_dim", None) for name, part in parts.items()}
        levels = {name: getattr(part, "num_feature_levels", None) for name, part in parts.items()}
        require_equal(self, "embed_dim", embed_dim, **widths)
        require_equal(self, "num_feature_levels", num_feature_levels, **levels)
        self.embed_dim = embed_dim
        self.num_feature_levels = num_feature_levels
        self.two_stage_num_proposals = two_stage_num_proposals
        self.learnt_init_query = learnt_init_query
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dim))
        self.encoder = encoder
        self.decoder = decoder
        self.tgt_embed = nn.Embedding(two_stage_num_proposals, embed_dim) if learnt_init_query else None
        self.proposal_size = proposal_size
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        self.init_weights()
        self.one_to_many_groups = one_to_many_groups
        self.group_embed = self._contents_of(one_to_many_groups * group_size) if one_to_many_groups else None

    def init_weights(self) -> None:
        """Xavier for every matrix, then the deformable attentions' own start, then normal level embeddings."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        nn.init.normal_(self.level_embeds)

    def _contents_of(self, num_queries: int) -> nn.Embedding:
        """Contents of the groups' queries; all other initial weights are those of a transformer without them."""
        with torch.random.fork_rng(devices=[]):
            contents = nn.Embedding(num_queries, self.embed_dim)
            nn.init.xavier_uniform_(contents.weight)
        return contents

    def forward(self, levels: Levels, leading: LeadingQueries | None = None) -> TransformerOutput:
        """Run the transformer.

        Args:
            levels: the feature maps, D channels each.
            leading: queries to put before the selected ones; None for none.
        """
        tokens, memory_padding_mask = levels.tokens(), levels.memory_padding_mask()
        centres = cell_centres(levels.shapes_hw, levels.valid_ratios)
        memory = self.encode(tokens, levels, centres, memory_padding_mask)
        selected = self.select(memory, levels.shapes_hw, centres, memory_padding_mask)
        contents, boxes = self.queries(selected, leading)
        self_attn_mask = None if leading is None else leading.self_attn_mask
        if self.training and self.group_embed is not None:
            self_attn_mask = self.group_mask(contents.shape[1], self_attn_mask)
        query_padding_mask = selected.padding_mask
        if query_padding_mask is not None and leading is not None:
            query_padding_mask = nn.functional.pad(query_padding_mask, (leading.contents.shape[1], 0))
        states, refined_boxes = self.decoder(
            contents,
            boxes,
            memory,
            shapes_hw=levels.shapes_hw,
            valid_ratios=levels.valid_ratios,
            self_attn_mask=self_attn_mask,
            memory_padding_mask=memory_padding_mask,
            query_padding_mask=query_padding_mask,
        )
        return TransformerOutput(states, boxes, refined_boxes, selected.memory, selected.boxes, query_padding_mask)

    def call_as_detrex(
        self,
        multi_level_feats: list[Tensor],
        multi_level_masks: list[Tensor] | None,
        multi_level_pos_embeds: list[Tensor],
        query_embed: tuple[Tensor | None, Tensor | None] = (None, None),
        attn_masks: Sequence[Tensor | None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The transformer with detrex's arguments and results, for detectors written for them.

        Args:
            multi_level_feats, multi_level_masks, multi_level_pos_embeds: maps, masks and positions of `Levels`.
            query_embed: contents (B, N, D) and boxes as logits (B, N, 4) of queries to put before the selected ones.
            attn_masks: the first blocks self-attention among all queries, (Q, Q), True where blocked.

        Returns:
            states, initial boxes, refined boxes, selected memory and its boxes, as in `TransformerOutput`.
        """
        levels = Levels.from_masks(multi_level_feats, multi_level_pos_embeds, multi_level_masks)
        contents, boxes_logit = query_embed
        leading = None
        if contents is not None and boxes_logit is not None:
            leading = LeadingQueries(contents, boxes_logit, attn_masks[0])
        output = self(levels, leading)
        return output.states, output.initial_boxes, output.refined_boxes, output.selected_memory, output.selected_boxes

    def encode(self, tokens: Tensor, levels: Levels, centres: Tensor, memory_padding_mask: Tensor | None) -> Tensor:
        """Memory (B, S, D): cells that have looked around themselves on every level."""
        embedded = [p.to(e.dtype) + e[:, None, None] for p, e in zip(levels.positions, self.level_embeds)]
        return self.encoder(
            tokens,
            position=flatten_levels(embedded),
            reference_points=centres[:, :, None] * levels.valid_ratios[:, None],  # B S L 2
            shapes_hw=levels.shapes_hw,
            memory_padding_mask=memory_padding_mask,
        )

    def select(
        self,
        memory: Tensor,
        shapes_hw: list[tuple[int, int]],
        centres: Tensor,
        memory_padding_mask: Tensor | None,
    ) -> SelectedCells:
        """Choose the K cells that become queries.

        All cells are scored, and what is selected is computed again: so the backward sees the selected cells alone.
        """
        class_heads, box_heads = self.decoder.heads()
        proposals, invalid = cell_proposals(centres, shapes_hw, memory_padding_mask, self.proposal_size)
        memory = memory.masked_fill(invalid[..., None], 0.0)
        logits = class_heads[-1](self.enc_output_norm(self.enc_output(memory.detach())))
        scores = at_least_float32(logits.detach()).amax(-1)
        index = best_cells(scores, memory_padding_mask, self.two_stage_num_proposals)
        selected = self.enc_output_norm(self.enc_output(gather_tokens(memory, index)))
        boxes_logit = at_least_float32(box_heads[-1](selected)) + gather_tokens(proposals, index)
        padding_mask = None
        if memory_padding_mask is not None and not self.training:
            padding_mask = memory_padding_mask.gather(1, index)
        return SelectedCells(selected, boxes_logit.sigmoid(), padding_mask)

    def queries(self, selected: SelectedCells, leading: LeadingQueries | None) -> tuple[Tensor, Tensor]:
        """Contents (B, Q, D) and initial boxes (B, Q, 4) of all queries: leading, selected, in training the groups'."""
        contents, boxes = selected.memory.detach(), selected.boxes.detach()
        if self.tgt_embed is not None:
            contents = self.tgt_embed.weight[: contents.shape[1]].expand(contents.shape[0], -1, -1)
        if self.training and self.group_embed is not None:
            group_size = len(self.group_embed.weight) // self.one_to_many_groups
            contents = torch.cat((contents, self.group_embed.weight.expand(len(contents), -1, -1)), dim=1)
            boxes = torch.cat((boxes, boxes[:, :group_size].repeat(1, self.one_to_many_groups, 1)), dim=1)
        if leading is not None:
            contents = torch.cat((leading.contents, contents), dim=1)
            boxes = torch.cat((leading.boxes_logit.sigmoid(), boxes), dim=1)
        return contents, boxes

    def group_mask(self, num_queries: int, others: Tensor | None) -> Tensor:
        """(Q, Q), True where blocked, Q = `num_queries`: a group sees itself alone, and nothing else sees it.

        Args:
            num_queries: leading and selected ones, then those of the groups.
            others: the mask among the former; None where they all see each other.
        """
        assert self.group_embed is not None
        weight = self.group_embed.weight
        group = torch.arange(len(weight), device=weight.device) // (len(weight) // self.one_to_many_groups)
        group = torch.cat((group.new_full((num_queries - len(weight),), -1), group))
        mask = group[:, None] != group[None, :]
        if others is not None:
            mask[: len(others), : len(others)] = others
        return mask


def check_groups(num_groups: int, group_size: int, num_selected: int, learnt_init_query: bool) -> None:
    """Refuse groups of training queries that cannot be."""
    if num_groups and not learnt_init_query:
        raise ValueError(f"one_to_many_groups={num_groups} needs learnt_init_query=True: else all groups are the same")
    if num_groups < 0 or num_groups and not 1 <= group_size <= num_selected:
        raise ValueError(
            f"one_to_many_groups={num_groups} of {group_size} queries: a group takes 1 to {num_selected}, the number "
            "of selected cells (two_stage_num_proposals)"
        )
