"""The whole detector: batches, padding, empty images, precisions, sizes, and what it says when something is wrong."""

import copy
import pickle
import warnings

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from pooling_backbone import PoolingBackbone
from tiny_dino import BASE_WEIGHTS, SMALL, image, record, small_dino, tiny_dino

from dinov2_detrex.runtime.errors import UserError


def training_batch() -> list[dict]:
    return [
        record(image(64, 100), [[10, 12, 70, 50], [30, 8, 90, 60]], [0, 3], file_name="first.png"),
        record(image(80, 64, 1), [[8, 8, 56, 70]], [4], file_name="second.png"),
    ]


def detections(model, batch):
    with torch.no_grad():
        found = [result["instances"] for result in model.eval()(batch)]
    return [(x.pred_boxes.tensor, x.scores, x.pred_classes) for x in found]


def assert_same_detections(got, wanted):
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=0.01)
    assert got[2].tolist() == wanted[2].tolist()


# ---- batches and padding ----


def test_a_batch_of_two_images_of_one_size_equals_two_singles():
    model = small_dino()
    batch = [record(image(96, 128, seed)) for seed in (0, 1)]
    for together, single in zip(detections(model, batch), batch):
        assert_same_detections(together, detections(model, [single])[0])


@pytest.mark.parametrize("sizes", [[(64, 128), (192, 64)], [(100, 150), (70, 61), (64, 192)]])
def test_in_a_batch_of_different_sizes_each_image_is_detected_as_if_alone(sizes):
    model = small_dino()
    batch = [record(image(*size, seed)) for seed, size in enumerate(sizes)]
    for together, single in zip(detections(model, batch), batch):
        assert len(together[1]) == 20
        assert_same_detections(together, detections(model, [single])[0])


def test_detections_refer_to_the_size_that_the_record_asks_for():
    model = small_dino()
    plain, scaled = detections(model, [record(image(64, 96)), record(image(64, 96), height=128, width=480)])
    torch.testing.assert_close(scaled[0], plain[0] * torch.tensor([5.0, 2.0, 5.0, 2.0]))
    assert float(plain[0][:, 2].max()) <= 96 and float(plain[0][:, 3].max()) <= 64


def test_a_cell_at_a_pixel_gets_the_same_coordinate_whatever_the_padding():
    """Boxes are learned relative to the image: an object must not seem to shift with the size of the canvas."""
    model = small_dino()
    sizes = [(100, 70), (192, 192)]
    features = [torch.zeros(2, 32, 192 // stride, 192 // stride) for stride in (8, 16, 32, 64)]
    ratios = model.levels(features, (192, 192), sizes).valid_ratios
    for level, stride in enumerate((8, 16, 32, 64)):
        cells_wh = ratios[0, level] * 192 / stride
        torch.testing.assert_close(cells_wh * stride, torch.tensor([70.0, 100.0]))


@pytest.mark.parametrize("divisibility, size", [(0, (70, 100)), (32, (96, 128)), (64, (128, 128))])
def test_images_are_padded_as_the_backbone_needs_it(divisibility, size):
    model = small_dino(PoolingBackbone(divisibility=divisibility))
    images = model.preprocess([record(image(70, 90)), record(image(40, 100))])
    assert tuple(images.tensor.shape[-2:]) == size
    assert [tuple(s) for s in images.image_sizes] == [(70, 90), (40, 100)]
    wanted = (image(70, 90).float() - model.pixel_mean) / model.pixel_std
    torch.testing.assert_close(images.tensor[0, :, :70, :90], wanted)
    assert not images.tensor[0, :, 70:].any() and not images.tensor[0, :, :, 90:].any()


def test_a_square_is_used_when_asked_for_and_large_enough():
    class Square(PoolingBackbone):
        @property
        def padding_constraints(self):
            return {"size_divisibility": 64, "square_size": 128}

    def canvas(model, *sizes):
        return tuple(model.preprocess([record(image(*size)) for size in sizes]).tensor.shape[-2:])

    assert canvas(small_dino(Square()), (60, 60)) == (64, 64)
    asked = small_dino(Square(), square_pad=True)
    assert canvas(asked, (60, 60)) == (128, 128)
    with pytest.warns(UserWarning, match="square of 128 px"):
        assert canvas(asked, (60, 129)) == (64, 192)


# ---- training ----


def test_every_parameter_gets_a_gradient_and_losses_fall():
    torch.manual_seed(0)
    model = tiny_dino(PoolingBackbone(), **SMALL).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(12):
        loss = sum(model(training_batch()).values())
        optimizer.zero_grad()
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-3:]) < 0.8 * sum(history[:3])


@pytest.mark.parametrize("empty", [[0], [0, 1]], ids=["one image", "all images"])
def test_images_without_objects_train(empty):
    model = small_dino().train()
    batch = training_batch()
    for i in empty:
        batch[i]["instances"] = batch[i]["instances"][:0]
    losses = model(batch)
    sum(losses.values()).backward()
    assert len(losses) == 15 and all(torch.isfinite(loss) for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_denoising_the_same_losses_are_there():
    model = small_dino(dn_number=0).train()
    losses = model(training_batch())
    sum(losses.values()).backward()
    assert len(losses) == 15
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_auxiliary_losses_only_the_last_layer_is_trained():
    losses = small_dino(aux_loss=False).train()(training_batch())
    kinds = ("loss_class", "loss_bbox", "loss_giou")
    assert set(losses) == {kind + ending for kind in kinds for ending in ("", "_enc", "_dn")}


def test_a_criterion_written_for_detrexs_forms_gets_them():
    class OfDetrex(torch.nn.Module):
        weight_dict = {"loss_sum": 3.0}

        def forward(self, outputs, targets, dn_metas):
            self.objects = [(t["labels"].tolist(), t["boxes"].shape) for t in targets]
            self.queries = [x["pred_logits"].shape[1] for x in (outputs, *outputs["aux_outputs"])]
            denoised = dn_metas["output_known_lbs_bboxes"]["pred_boxes"]
            self.denoising = (denoised.shape[1], dn_metas["single_padding"] * dn_metas["dn_num"])
            return {"loss_sum": denoised.sum()}

    criterion = OfDetrex()
    model = small_dino()
    model.criterion = criterion
    losses = model.train()(training_batch())
    assert criterion.objects == [([0, 3], (2, 4)), ([4], (1, 4))]
    assert criterion.queries == [12, 12] and criterion.denoising == (24, 24)
    assert list(losses) == ["loss_sum"] and losses["loss_sum"].requires_grad


def test_training_without_a_criterion_says_so():
    model = small_dino()
    model.criterion = None
    assert len(detections(model, [record(image(64, 64))])) == 1
    with pytest.raises(ValueError, match="criterion=None"):
        model.train()(training_batch())


def test_losses_are_weighted_by_a_config_node():
    model = small_dino(dn_number=0)
    plain = model.train()(training_batch())
    model.criterion.weight_dict = OmegaConf.create({**BASE_WEIGHTS, "loss_bbox": 50.0})
    heavy = model(training_batch())
    for name, loss in plain.items():
        factor = 10 if name.startswith("loss_bbox") else 1
        torch.testing.assert_close(heavy[name], loss * factor)


def test_checkpointing_changes_neither_losses_nor_gradients():
    model = small_dino(dn_number=0).train()
    saved = copy.deepcopy(model)
    saved.transformer.encoder.use_checkpoint = saved.transformer.decoder.use_checkpoint = True
    for x in (model, saved):
        sum(x(training_batch()).values()).backward()
    assert list(model.state_dict()) == list(saved.state_dict())
    for (name, p), (_, q) in zip(model.named_parameters(), saved.named_parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("look_forward_twice", [True, False])
def test_looking_forward_twice_lets_a_loss_reach_the_box_head_before(look_forward_twice):
    model = small_dino(decoder={"look_forward_twice": look_forward_twice}, dn_number=0).train()
    model(training_batch())["loss_bbox"].backward()
    reached = bool(model.bbox_embed[0].layers[-1].weight.grad.any())
    assert reached is look_forward_twice


@pytest.mark.parametrize("input_format, red", [("RGB", 0), ("BGR", 2)])
def test_training_shows_a_picture_every_so_many_iterations(input_format, red):
    model = small_dino(vis_period=5, input_format=input_format).train()
    batch = training_batch()
    batch[0]["image"] = torch.zeros(3, 64, 100, dtype=torch.uint8)
    batch[0]["image"][red] = 200
    pictures = []
    with EventStorage(5) as storage:
        storage.put_image = lambda name, picture: pictures.append(picture)
        for storage.iter in (5, 6, 9):
            model(batch)
    [picture] = pictures
    assert picture.dtype == torch.uint8 and tuple(picture.shape) == (3, 64, 200)
    assert picture[:, 0, 0].tolist() == [200, 0, 0]  # RGB whatever the input is
    assert picture[:, 50, 20].tolist() == [255, 0, 0]  # the lower edge of the first box
    assert picture[:, 50, 120].tolist() == [200, 0, 0]  # no prediction is that sure


# ---- precisions and sizes ----


def test_bfloat16_autocast_trains_with_boxes_and_losses_in_float32():
    model = small_dino(label_noise_ratio=0.0, box_noise_scale=0.0).train()
    exact = model(training_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(training_batch())
        batch = model.preprocess(training_batch())
        outputs = model.predict(batch.tensor, batch.image_sizes)
    assert outputs["pred_logits"].dtype == torch.bfloat16  # so autocast was at work
    assert outputs["pred_boxes"].dtype == outputs["enc_outputs"]["pred_boxes"].dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []
    assert model.transformer.enc_output.weight.grad.any() and model.class_embed[-1].weight.grad.any()
    total, wanted = float(sum(losses.values()).detach()), float(sum(exact.values()).detach())
    assert total == pytest.approx(wanted, rel=0.05)


def test_bfloat16_autocast_detects():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        boxes, scores, _ = detections(small_dino(), [record(image(64, 100))])[0]
    assert boxes.dtype == scores.dtype == torch.float32 and len(scores) == 20


@pytest.mark.parametrize(
    "sizes",
    [
        dict(embed_dim=96, num_heads=6, num_levels=3, num_points=2, num_classes=1, num_queries=7, encoder_layers=0),
        dict(embed_dim=64, num_heads=2, num_levels=5, num_points=1, num_classes=11, decoder_layers=3),
        dict(embed_dim=32, num_levels=4, encoder_layers=2, decoder_layers=1, criterion={"two_stage_binary_cls": True}),
    ],
)
def test_any_width_levels_points_classes_and_queries_work(sizes):
    backbone = PoolingBackbone(min(sizes["num_levels"], 4), channels=24)  # a fifth level comes from the neck
    model = tiny_dino(
        backbone, **{**SMALL, **sizes, "criterion": {"weight_dict": BASE_WEIGHTS, **sizes.get("criterion", {})}}
    )
    batch = training_batch()
    for example in batch:
        example["instances"].gt_classes %= sizes.get("num_classes", 5)
    losses = model.train()(batch)
    sum(losses.values()).backward()
    num_layers = sizes.get("decoder_layers", 2)
    assert len(losses) == 3 * (2 * num_layers + 1)
    boxes, _, classes = detections(model, batch)[1]
    assert boxes.shape[1] == 4 and int(classes.max()) < sizes.get("num_classes", 5)


def test_cross_entropy_has_a_background_class_that_is_never_detected():
    criterion = {"loss_class_type": "ce_loss", "weight_dict": BASE_WEIGHTS}
    model = tiny_dino(PoolingBackbone(), **SMALL, criterion=criterion)
    assert model.class_embed[0].out_features == 6 and model.label_enc.num_embeddings == 5
    model.train()(training_batch())["loss_class"].backward()
    with torch.no_grad():
        for head in model.class_embed:
            head.bias[-1] = 10.0
    _, scores, classes = detections(model, [record(image(64, 64))])[0]
    assert int(classes.max()) < 5 and float(scores.max()) < 0.1


def test_small_images_are_detected_with_fewer_queries_and_refused_in_training():
    model = small_dino(PoolingBackbone(divisibility=8), num_queries=30, select_box_nums_for_evaluation=300)
    boxes, scores, _ = detections(model, [record(image(16, 16))])[0]  # 4 + 1 + 1 + 1 cells
    assert 0 < len(boxes) == len(scores) <= 7 * 5
    with pytest.raises(ValueError, match=r"16 x 16 pixels give 7 cells, too few for 30 queries"):
        model.train()([record(image(16, 16), [[2, 2, 9, 9]], [0])])


# ---- state ----


def test_pixel_statistics_move_with_the_model_but_are_not_saved():
    model = small_dino(pixel_mean=[1.0, 2.0, 3.0, 4.0], pixel_std=[1.0] * 4)
    assert model.pixel_mean.shape == (4, 1, 1)
    assert not [name for name in model.state_dict() if name.startswith("pixel")]
    assert model.to("meta").pixel_std.device == model.device == torch.device("meta")


def test_the_detector_can_be_pickled_and_keeps_its_shared_heads():
    model = pickle.loads(pickle.dumps(small_dino()))
    assert model.transformer.decoder.bbox_embed is model.bbox_embed
    assert len(detections(model, [record(image(64, 64))])) == 1


# ---- what goes wrong ----


def test_a_training_record_without_instances_is_named():
    with pytest.raises(UserError, match="first.png has no instances.*`annotations`"):
        batch = training_batch()
        del batch[0]["instances"]
        small_dino().train()(batch)


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_out_of_range_is_named(label):
    batch = training_batch()
    batch[1]["instances"].gt_classes[0] = label
    with pytest.raises(ValueError, match=rf"label {label} of second.png .*num_classes=5"):
        small_dino().train()(batch)


def test_a_box_that_is_not_finite_is_named():
    batch = training_batch()
    batch[1]["instances"].gt_boxes = Boxes(torch.tensor([[1.0, 2.0, torch.nan, 9.0]]))
    with pytest.raises(ValueError, match="box of second.png is not finite"):
        small_dino().train()(batch)


def test_predictions_that_are_not_finite_are_named():
    model = small_dino()
    torch.nn.init.constant_(model.transformer.decoder.norm.weight, torch.nan)
    with pytest.raises(AssertionError, match="NaN"):
        detections(model, [record(image(64, 64))])
    with pytest.raises(ValueError, match="NaN"):
        model.train()(training_batch())


def test_another_number_of_queries_than_the_transformer_selects_is_refused():
    model = small_dino()
    with pytest.raises(ValueError, match=r"num_queries=11 .* 12"):
        type(model)(model.backbone, model.position_embedding, model.neck, model.transformer, 32, 5, 11, model.criterion)


def test_the_class_dependent_parts_are_those_that_change_with_the_number_of_classes():
    five, seven = small_dino(), small_dino(num_classes=7)
    differing = {key for key, value in five.state_dict().items() if value.shape != seven.state_dict()[key].shape}
    named = {key for key in five.state_dict() if key.startswith(tuple(f"{name}." for name in five.class_dependent))}
    assert differing == named and differing


def test_a_clean_step_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sum(small_dino().train()(training_batch()).values()).backward()
        detections(small_dino(), [record(image(64, 64)), record(image(64, 100))])


# ---- export ----


def test_an_exported_graph_gives_the_same_numbers_on_other_pixels():
    class Outputs(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            outputs = self.model.predict(images)
            return outputs["pred_logits"], outputs["pred_boxes"]

    plain = Outputs(small_dino()).eval()
    exported = torch.export.export(plain, (torch.randn(1, 3, 64, 128),), strict=False).module()
    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        for got, wanted in zip(exported(images), plain(images)):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
