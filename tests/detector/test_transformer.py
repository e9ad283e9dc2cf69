"""The transformer: its parts against plain loops, and its blindness to padding."""

import pytest
import torch
from golden_numbers import fill_from_names
from pooling_backbone import PoolingBackbone
from tiny_dino import tiny_dino

from dinov2_detrex.detector import DINOTransformerDecoder
from dinov2_detrex.detector.denoising import LeadingQueries
from dinov2_detrex.detector.levels import Levels, ratios_of_masks
from dinov2_detrex.detector.padding import padding_masks, valid_ratios
from dinov2_detrex.detector.transformer import SelectedCells
from dinov2_detrex.detector.two_stage import cell_centres, cell_proposals

SHAPES_HW = [(12, 18), (6, 9), (3, 5), (2, 3)]
IMAGE_HW = (96, 144)


def speaking_model(**kwargs):
    """Random weights of a size that lets every part speak."""
    model = tiny_dino(PoolingBackbone(), embed_dim=64, neck={"norm_layer": None}, encoder_layers=2, **kwargs)
    fill_from_names(model)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return speaking_model()


def random_levels(num_images=1, shapes_hw=SHAPES_HW, width=64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(num_images, width, *hw, generator=generator) for hw in shapes_hw]


def surround(levels, rows: int, columns: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same maps with masked rows below and columns at the right, full of large numbers; and the masks."""
    padded, masks = [], []
    for x in levels:
        canvas = torch.randn(*x.shape[:2], x.shape[2] + rows, x.shape[3] + columns) * 50
        canvas[..., : x.shape[2], : x.shape[3]] = x
        mask = torch.ones(len(x), *canvas.shape[-2:], dtype=torch.bool)
        mask[:, : x.shape[2], : x.shape[3]] = False
        padded.append(canvas)
        masks.append(mask)
    return padded, masks


def as_levels(model, maps, masks) -> Levels:
    return Levels.from_masks(maps, model.positions(maps, masks), masks)


def detect(model, levels, masks):
    """Boxes in pixels, scores and classes, best first."""
    outputs = model.heads(model.transformer(as_levels(model, levels, masks)))
    found = model.postprocess(outputs, [IMAGE_HW] * len(levels[0]), [{}] * len(levels[0]))
    return [(x["instances"].pred_boxes.tensor, x["instances"].scores, x["instances"].pred_classes) for x in found]


def assert_same_detections(got, wanted):
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=0.01)
    assert got[2].tolist() == wanted[2].tolist()


@pytest.mark.parametrize("rows, columns", [(1, 0), (0, 1), (3, 7), (20, 30)])
@torch.no_grad()
def test_padding_changes_nothing(model, rows, columns):
    levels = random_levels()
    alone = detect(model, levels, None)[0]
    assert len(alone[1]) == 20 and float(alone[1].std()) > 1e-3  # there is something to change
    padded, masks = surround(levels, rows, columns)
    assert_same_detections(detect(model, padded, masks)[0], alone)


@torch.no_grad()
def test_padding_changes_nothing_where_an_image_has_fewer_cells_than_queries(model):
    levels = random_levels(shapes_hw=[(4, 3), (2, 2), (1, 1), (1, 1)])  # 18 cells for 30 queries
    alone = detect(model, levels, None)[0]
    padded, masks = surround(levels, 4, 5)
    assert_same_detections(detect(model, padded, masks)[0], alone)


@torch.no_grad()
def test_queries_that_stand_for_padding_say_background_where_classes_are_a_softmax():
    model = speaking_model(criterion={"loss_class_type": "ce_loss"})
    levels = random_levels(shapes_hw=[(4, 3), (2, 2), (1, 1), (1, 1)])  # 18 cells for 30 queries
    alone = detect(model, levels, None)[0]
    padded, masks = surround(levels, 4, 5)
    assert_same_detections(detect(model, padded, masks)[0], alone)


@torch.no_grad()
def test_padding_is_not_selected_even_if_it_scores_above_all_cells(model):
    levels, masks = surround(random_levels(), 10, 10)
    transformer, head = model.transformer, model.class_embed[-1]
    of_padding = transformer.enc_output_norm(transformer.enc_output(torch.zeros(64)))
    weight = head.weight.clone()
    head.weight.copy_(of_padding.expand(5, -1))  # what is most like padding scores best
    found = transformer(as_levels(model, levels, masks))
    head.weight.copy_(weight)
    assert float((found.selected_memory @ of_padding).max()) < float(of_padding @ of_padding) * 0.99
    assert not found.query_padding_mask.any()


@torch.no_grad()
def test_a_batch_of_two_equals_two_singles(model):
    levels = random_levels(num_images=2)
    together = detect(model, levels, None)
    for i in range(2):
        assert_same_detections(together[i], detect(model, [x[i : i + 1] for x in levels], None)[0])


@torch.no_grad()
def test_called_as_in_detrex_it_gives_detrexs_five_tensors(model):
    levels, masks = surround(random_levels(), 3, 7)
    contents, boxes_logit, blocked = torch.randn(1, 6, 64), torch.randn(1, 6, 4), torch.rand(36, 36) < 0.2
    blocked.fill_diagonal_(False)
    five = model.transformer.call_as_detrex(
        levels, masks, model.positions(levels, masks), (contents, boxes_logit), attn_masks=[blocked, None]
    )
    values = model.transformer(as_levels(model, levels, masks), LeadingQueries(contents, boxes_logit, blocked))
    wanted = [values.states, values.initial_boxes, values.refined_boxes, values.selected_memory, values.selected_boxes]
    assert [tuple(x.shape) for x in five] == [(2, 1, 36, 64), (1, 36, 4), (2, 1, 36, 4), (1, 30, 64), (1, 30, 4)]
    assert all(torch.equal(x, y) for x, y in zip(five, wanted))
    torch.testing.assert_close(five[1][:, :6], boxes_logit.sigmoid())
    unblocked = model.transformer.call_as_detrex(
        levels, masks, model.positions(levels, masks), (contents, boxes_logit), attn_masks=[None, None]
    )
    assert not torch.allclose(unblocked[0], five[0])


def test_a_decoder_whose_heads_nobody_has_set_says_so():
    with pytest.raises(RuntimeError, match="class_embed"):
        DINOTransformerDecoder(embed_dim=8, num_heads=2, num_layers=1).heads()


def test_cells_know_their_place_in_the_image():
    image_sizes, canvas = [(96, 144), (48, 100)], (96, 144)
    ratios = valid_ratios(image_sizes, canvas, len(SHAPES_HW), "cpu")
    centres = cell_centres([(12, 18), (6, 9)], ratios)
    for image, (height, width) in enumerate(image_sizes):
        cells = [(x * 8 + 4, y * 8 + 4) for y in range(12) for x in range(18)]
        cells += [(x * 16 + 8, y * 16 + 8) for y in range(6) for x in range(9)]
        wanted = torch.tensor(cells) / torch.tensor([width, height])
        torch.testing.assert_close(centres[image], wanted)


def test_masks_are_those_of_nearest_neighbour_resizing():
    image_sizes, canvas = [(96, 144), (50, 100), (1, 7)], (96, 144)
    pixels = torch.ones(3, *canvas)
    for mask, (height, width) in zip(pixels, image_sizes):
        mask[:height, :width] = 0
    shapes_hw = [(12, 18), (6, 9), (3, 5), (2, 3), (7, 11)]
    for mask, hw in zip(padding_masks(image_sizes, canvas, shapes_hw, "cpu"), shapes_hw):
        wanted = torch.nn.functional.interpolate(pixels[None], hw, mode="nearest")[0].bool()
        assert torch.equal(mask, wanted)


def test_ratios_by_masks_and_by_sizes_agree_where_cells_tile_the_images():
    image_sizes, canvas, shapes_hw = [(128, 64), (64, 192)], (128, 192), [(16, 24), (8, 12), (4, 6), (2, 3)]
    masks = padding_masks(image_sizes, canvas, shapes_hw, "cpu")
    by_masks = ratios_of_masks(masks)
    torch.testing.assert_close(by_masks, valid_ratios(image_sizes, canvas, 4, "cpu"))
    torch.testing.assert_close(by_masks[:, 0], torch.tensor([[64 / 192, 1.0], [1.0, 64 / 128]]))


def test_proposals_are_boxes_around_their_cells_or_infinite():
    shapes_hw, ratios = [(60, 3), (2, 2)], torch.tensor([[[1.0, 0.5], [1.0, 0.5]]])
    mask = torch.cat([torch.arange(60)[:, None].expand(60, 3).flatten() >= 30, torch.tensor([0, 0, 1, 1]).bool()])[None]
    logits, invalid = cell_proposals(cell_centres(shapes_hw, ratios), shapes_hw, mask)
    boxes = logits.sigmoid()[0]
    for cell in range(184):
        y, x = divmod(cell, 3) if cell < 180 else divmod(cell - 180, 2)
        width, height, size = (3, 30, 0.05) if cell < 180 else (2, 1, 0.1)
        wanted = torch.tensor([(x + 0.5) / width, (y + 0.5) / height, size, size])
        valid = bool(((wanted > 0.01) & (wanted < 0.99)).all()) and y < height
        # the last row of the image, (29.5 / 30 = 0.983), is valid; with 60 rows a first row would be below 0.01
        assert bool(invalid[0, cell]) is not valid
        torch.testing.assert_close(boxes[cell], wanted if valid else torch.ones(4))


def test_sizes_of_six_levels_outgrow_the_image():
    shapes_hw = [(2, 2)] * 6
    _, invalid = cell_proposals(cell_centres(shapes_hw, torch.ones(1, 6, 2)), shapes_hw, None)
    assert invalid.view(6, 4).all(1).tolist() == [False] * 5 + [True]


def test_proposals_start_at_the_size_that_the_transformer_was_told_and_double():
    shapes_hw = [(4, 4), (2, 2), (1, 1)]
    logits, _ = cell_proposals(cell_centres(shapes_hw, torch.ones(1, 3, 2)), shapes_hw, None, 0.12)
    sizes = torch.cat([torch.full((16,), 0.12), torch.full((4,), 0.24), torch.full((1,), 0.48)])
    torch.testing.assert_close(logits.sigmoid()[0, :, 2:], sizes[:, None].expand(21, 2))
    model = speaking_model(num_queries=10, transformer={"proposal_size": 0.12})
    model.bbox_embed[-1].layers[-1].weight.data.zero_()
    model.bbox_embed[-1].layers[-1].bias.data.zero_()
    with torch.no_grad():
        found = model.transformer(Levels.from_masks(random_levels(), random_levels(), None)).selected_boxes
    allowed = torch.tensor([0.12, 0.24, 0.48, 0.96])
    assert ((found[..., 2:, None] - allowed).abs().amin(-1) < 1e-5).all()


@pytest.mark.parametrize("size", [0.0, 0.995])
def test_a_proposal_that_no_image_holds_is_refused(size):
    with pytest.raises(ValueError, match=f"proposal_size={size}"):
        tiny_dino(transformer={"proposal_size": size})


def test_without_learnt_queries_the_contents_are_the_selected_memory():
    model = tiny_dino(
        PoolingBackbone(), embed_dim=64, neck={"norm_layer": None}, transformer={"learnt_init_query": False}
    )
    assert "transformer.tgt_embed.weight" not in model.state_dict()
    selected, boxes = torch.randn(2, 30, 64, requires_grad=True), torch.rand(2, 30, 4)
    contents, references = model.transformer.queries(SelectedCells(selected, boxes, None), leading=None)
    assert torch.equal(contents, selected) and not contents.requires_grad and torch.equal(references, boxes)


def test_post_norm_adds_a_last_norm_to_the_encoder():
    model = tiny_dino(PoolingBackbone(), embed_dim=64, neck={"norm_layer": None}, encoder={"post_norm": True})
    assert "transformer.encoder.post_norm_layer.weight" in model.state_dict()


def test_initial_values_are_those_of_the_recipe():
    torch.manual_seed(0)
    model = tiny_dino(PoolingBackbone(), embed_dim=64, neck={"norm_layer": None})
    values = model.state_dict()
    for name in ("transformer.enc_output.weight", "transformer.decoder.ref_point_head.layers.0.weight"):
        bound = (6 / sum(values[name].shape)) ** 0.5
        assert 0.95 * bound < float(values[name].abs().max()) <= bound
    for name in ("transformer.level_embeds", "label_enc.weight"):
        assert 0.8 < float(values[name].std()) < 1.2
    for i in range(3):
        assert values[f"class_embed.{i}.bias"].tolist() == pytest.approx([-4.59512] * 5)
        assert not values[f"bbox_embed.{i}.layers.2.weight"].any() and not values[f"bbox_embed.{i}.layers.2.bias"].any()
        assert torch.equal(values[f"class_embed.{i}.weight"], values["class_embed.0.weight"])
    assert not values["neck.convs.0.conv.bias"].any()
