"""How feature maps become object states: encode the cells, choose queries among them, decode the queries.

B images, L levels, S cells of all levels, Q queries (denoising ones first), D channels. Boxes are CXCYWH, normalised
to the image without its padding. Zhang et al. 2022 (DINO).
"""

import torch
from torch import Tensor, nn

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.detector.two_stage import best_cells, cell_centres, cell_proposals, take


class DINOTransformer(nn.Module):
    """Encoder, two-stage query selection and decoder.

    Args:
        encoder: a `DINOTransformerEncoder`.
        decoder: a `DINOTransformerDecoder`; its heads are set by the detector.
        num_feature_levels: L.
        two_stage_num_proposals: number of queries to select.
        learnt_init_query: query contents are learnt; otherwise they are the memory of the selected cells.
    """

    def __init__(self, encoder, decoder, num_feature_levels=4, two_stage_num_proposals=900, learnt_init_query=True):
        super().__init__()
        embed_dim = encoder.embed_dim
        self.embed_dim = embed_dim
        self.num_feature_levels = num_feature_levels
        self.two_stage_num_proposals = two_stage_num_proposals
        self.learnt_init_query = learnt_init_query
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dim))
        self.encoder = encoder
        self.decoder = decoder
        self.tgt_embed = nn.Embedding(two_stage_num_proposals, embed_dim) if learnt_init_query else None
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier for every matrix, then the deformable attentions' own start, then normal level embeddings."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        nn.init.normal_(self.level_embeds)

    def forward(
        self,
        multi_level_feats: list[Tensor],
        multi_level_masks: list[Tensor] | None,
        multi_level_pos_embeds: list[Tensor],
        query_embed: tuple[Tensor | None, Tensor | None] = (None, None),
        attn_masks: tuple[Tensor | None, ...] = (None, None),
        valid_ratios: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Run the transformer.

        Args:
            multi_level_feats: L maps (B, D, H_l, W_l).
            multi_level_masks: L masks (B, H_l, W_l), True where padded (at the right and at the bottom); None where
                nothing is padded.
            multi_level_pos_embeds: L position codes (B or 1, D, H_l, W_l).
            query_embed: denoising queries, contents (B, N, D) and boxes as logits (B, N, 4), or (None, None).
            attn_masks: the first blocks self-attention among all queries, (Q, Q), True where blocked.
            valid_ratios: (B, L, 2), the share of each level's width and height that the image covers; read off the
                masks (in whole cells) if None.

        Returns:
            states (layers, B, Q, D), initial boxes (B, Q, 4), refined boxes (layers, B, Q, 4), selected memory
            (B, K, D), its boxes (B, K, 4), and in evaluation which queries stand for padding, because their image has
            too few cells (B, Q), None where nothing is padded.
        """
        shapes_hw = [tuple(x.shape[-2:]) for x in multi_level_feats]
        tokens = flatten_levels(multi_level_feats)
        padding_mask = None if multi_level_masks is None else torch.cat([m.flatten(1) for m in multi_level_masks], 1)
        if valid_ratios is None:
            valid_ratios = ratios_of_masks(multi_level_masks, tokens).expand(-1, len(shapes_hw), -1)
        centres = cell_centres(shapes_hw, valid_ratios)

        memory = self.encode(tokens, multi_level_pos_embeds, padding_mask, centres, valid_ratios, shapes_hw)
        selected, boxes_logit, surplus = self.select(memory, centres, padding_mask, shapes_hw)
        enc_boxes = boxes_logit.sigmoid()
        contents, boxes = self.queries(selected, enc_boxes, *query_embed)
        if surplus is not None:
            surplus = nn.functional.pad(surplus, (contents.shape[1] - surplus.shape[1], 0))
        states, references = self.decoder(
            contents, boxes, memory, shapes_hw, valid_ratios, attn_masks[0], padding_mask, surplus
        )
        return states, boxes, references, selected, enc_boxes, surplus

    def encode(self, tokens, position_embeddings, padding_mask, centres, valid_ratios, shapes_hw) -> Tensor:
        """Memory (B, S, D): cells that have looked around themselves on every level."""
        positions = flatten_levels([p + e[:, None, None] for p, e in zip(position_embeddings, self.level_embeds)])
        references = centres[:, :, None] * valid_ratios[:, None]  # B S L 2
        return self.encoder(tokens, positions, padding_mask, references, shapes_hw)

    def select(self, memory, centres, padding_mask, shapes_hw) -> tuple[Tensor, Tensor, Tensor | None]:
        """Memory (B, K, D) and box logits (B, K, 4) of the selected cells, and which of them are padding (B, K).

        All cells are scored, and what is selected is computed again: so the backward sees the selected cells alone.
        """
        proposals, without = cell_proposals(centres, shapes_hw, padding_mask)
        memory = memory.masked_fill(without[..., None], 0.0)
        logits = self.decoder.class_embed[-1](self.enc_output_norm(self.enc_output(memory.detach())))
        index = best_cells(logits.detach().float().amax(-1), padding_mask, self.two_stage_num_proposals)
        selected = self.enc_output_norm(self.enc_output(take(memory, index)))
        boxes_logit = self.decoder.bbox_embed[-1](selected).float() + take(proposals, index)
        surplus = None if padding_mask is None or self.training else padding_mask.gather(1, index)
        return selected, boxes_logit, surplus

    def queries(self, selected, enc_boxes, dn_contents, dn_boxes_logit) -> tuple[Tensor, Tensor]:
        """Contents (B, Q, D) and initial boxes (B, Q, 4) of all queries, denoising ones first."""
        contents, boxes = selected.detach(), enc_boxes.detach()
        if self.learnt_init_query:
            contents = self.tgt_embed.weight[: contents.shape[1]].expand(len(contents), -1, -1)
        if dn_contents is not None:
            contents = torch.cat((dn_contents, contents), dim=1)
            boxes = torch.cat((dn_boxes_logit.sigmoid(), boxes), dim=1)
        return contents, boxes


def flatten_levels(maps: list[Tensor]) -> Tensor:
    """L maps (B, D, H_l, W_l) to tokens (B, S, D), row-major per level."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def ratios_of_masks(masks: list[Tensor] | None, tokens: Tensor) -> Tensor:
    """(B or 1, L, 2), float32: the unpadded share of each level's first row (x) and first column (y)."""
    if masks is None:
        return tokens.new_ones((1, 1, 2), dtype=torch.float32)
    shares = [torch.stack(((~m[:, 0]).float().mean(1), (~m[:, :, 0]).float().mean(1)), dim=-1) for m in masks]
    return torch.stack(shares, dim=1)
