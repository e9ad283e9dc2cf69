"""A run starts from what means the same in another detector: whole weights by name, rows by class, query and level."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling_backbone import PoolingBackbone
from tiny_dino import SMALL, tiny_backbone, tiny_dino

from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.init_checkpoint import load_init_checkpoint
from dinov2_detrex.training.transfer import Rows, rows_by_name

ANIMALS = ["cat", "dog", "owl", "gnu", "newt"]


def detector(seed: int = 0, **options):
    """A small detector whose every weight is random."""
    torch.manual_seed(seed)
    model = tiny_dino(options.pop("backbone", PoolingBackbone()), **{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.fixture
def start(tmp_path, caplog):
    """start(model, source, metadata, ...) -> (state before, state of the source, state after, the report)."""

    def run(model, source, metadata=None, classes=(), **options):
        state = source if isinstance(source, dict) else source.state_dict()
        content = {"model": state} | ({"metadata": {"thing_classes": metadata}} if metadata else {})
        checkpoint.write(tmp_path / "file.pth", content)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        caplog.clear()
        with caplog.at_level("INFO", logger="dinov2_detrex"):
            load_init_checkpoint(model, str(tmp_path / "file.pth"), lambda: list(classes), **options)
        return before, state, model.state_dict(), caplog.text

    return run


def changed(before, after) -> set[str]:
    return {name for name in after if not torch.equal(before[name], after[name])}


def row_of(report: str, part: str) -> list[str]:
    return next(line.split(None, 5) for line in report.splitlines() if line.split(None, 1)[:1] == [part])


def test_the_same_detector_is_taken_whole_and_no_warning_says_so(start, caplog):
    _, state, after, report = start(detector(), detector(1), ANIMALS, ANIMALS)
    assert all(torch.equal(value, state[name]) for name, value in after.items())
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "weights taken whole" in report and "left in the file" not in report and "classes:" not in report


def test_another_backbone_gives_all_that_does_not_depend_on_it(start):
    model = detector(backbone=tiny_backbone(32))
    before, state, after, report = start(model, detector(1), ANIMALS, ANIMALS)
    of_transformer = {name for name in after if not name.startswith(("backbone.", "neck."))}
    assert all(torch.equal(after[name], state[name]) for name in of_transformer)
    assert not any(name.startswith("backbone.") for name in changed(before, after))
    assert row_of(report, "transformer.decoder")[2:5] == row_of(report, "transformer.decoder")[1:2] + ["0", "0"]
    assert "not in the file, e.g. backbone." in report


def test_a_level_of_the_neck_is_taken_whole_or_not_at_all(start):
    model, source = detector(), detector(1)
    state = source.state_dict()
    state["neck.convs.1.conv.weight"] = torch.randn(32, 9, 1, 1)
    before, _, after, report = start(model, state, ANIMALS, ANIMALS)
    of_neck = {name for name in changed(before, after) if name.startswith("neck.")}
    assert of_neck == {name for name in after if name.startswith("neck.") and ".convs.1." not in name}
    assert "of another shape, e.g. neck.convs.1.conv.weight ((32, 9, 1, 1) in it, (32, " in report


def test_classes_of_the_same_name_are_taken_row_by_row_and_the_others_stay_as_built(start):
    model, source = detector(num_classes=4), detector(1, num_classes=5)
    before, state, after, report = start(model, source, ANIMALS, ["gnu", "lion", "Cat", "tiger"])
    for name in (
        "class_embed.0.weight",
        "class_embed.2.bias",
        "transformer.decoder.class_embed.1.weight",
        "label_enc.weight",
    ):
        assert torch.equal(after[name][[0, 2]], state[name][[3, 0]])
        assert torch.equal(after[name][[1, 3]], before[name][[1, 3]])
    assert "classes: 2 of 4 by name [gnu, Cat]; as built [lion, tiger]" in report


def test_as_many_classes_in_another_order_are_put_in_order(start):
    order = [2, 0, 1, 4, 3]
    _, state, after, report = start(detector(), detector(1), ANIMALS, [ANIMALS[i] for i in order])
    assert torch.equal(after["class_embed.1.weight"], state["class_embed.1.weight"][order])
    assert "5 of 5 by name" in report


def test_a_file_without_names_gives_rows_by_number_or_by_the_names_that_its_user_knows(start):
    coco = detector(1, num_classes=80)
    before, state, after, report = start(detector(num_classes=2), coco, classes=["Traffic-Light", "newt"])
    assert not any("class_embed" in name or "label" in name for name in changed(before, after))
    assert "does not name its own" in report and "train.init_classes_of=coco_2017_train" in report
    given = dict(classes=["Traffic-Light", "newt"], classes_of="coco_2017_train")
    before, _, after, _ = start(detector(num_classes=2), coco, **given)
    assert torch.equal(
        after["label_enc.weight"], torch.stack([state["label_enc.weight"][9], before["label_enc.weight"][1]])
    )


@pytest.mark.parametrize(
    ("classes_of", "metadata", "words"),
    [
        ("coco_2017_train", None, "said to be 80, but .* has 5 rows"),
        ("coco_2017_train", ANIMALS, "the file names its classes itself, .cat, dog"),
        ("coco", None, "init_classes_of=coco is no data set with known classes"),
    ],
)
def test_names_that_are_not_the_files_are_refused(start, classes_of, metadata, words):
    with pytest.raises(UserError, match=words) as error:
        start(detector(), detector(1), metadata, ["newt"] * 5, classes_of=classes_of)
    assert str(error.value).startswith("train.init_checkpoint=") and "\n" not in str(error.value)


@pytest.mark.parametrize(("in_file", "in_model"), [(12, 9), (9, 12)])
def test_queries_of_the_same_rank_are_taken(start, in_file, in_model):
    before, state, after, report = start(
        detector(num_queries=in_model), detector(1, num_queries=in_file), ANIMALS, ANIMALS
    )
    queries = "transformer.tgt_embed.weight"
    assert torch.equal(after[queries][:9], state[queries][:9])
    assert torch.equal(after[queries][9:], before[queries][9:])
    assert ("rows that the file has not" in report) == (in_model == 12)


def test_the_head_of_the_proposals_stays_that_however_many_layers_there_are(start):
    model, source = detector(decoder_layers=1), detector(1, decoder_layers=3)
    _, state, after, _ = start(model, source, ANIMALS, ANIMALS)
    for head in (
        "class_embed.{}.bias",
        "bbox_embed.{}.layers.2.weight",
        "transformer.decoder.bbox_embed.{}.layers.0.bias",
    ):
        assert torch.equal(after[head.format(0)], state[head.format(0)])
        assert torch.equal(after[head.format(1)], state[head.format(3)])
    before, state, after, _ = start(detector(decoder_layers=3), detector(1, decoder_layers=1), ANIMALS, ANIMALS)
    assert torch.equal(after["class_embed.3.bias"], state["class_embed.1.bias"])
    assert torch.equal(after["class_embed.1.bias"], before["class_embed.1.bias"])


def of_three_levels():
    return detector(backbone=PoolingBackbone(3), num_levels=3)


def test_another_number_of_levels_leaves_what_depends_on_them_as_built(start):
    before, state, after, report = start(of_three_levels(), detector(1), ANIMALS, ANIMALS)
    left = set(after) - changed(before, after)
    assert {name.split(".")[0] for name in left} == {"neck", "transformer"}
    assert all("sampling_" in n or "attention_w" in n or "level_emb" in n or "neck" in n for n in left)
    assert "of other levels, e.g." in report


def test_levels_that_its_user_names_are_taken_in_every_head(start):
    model, source = of_three_levels(), detector(1)
    before, state, after, report = start(model, source, ANIMALS, ANIMALS, levels=[1, -1, 3])
    assert torch.equal(after["transformer.level_embeds"][[0, 2]], state["transformer.level_embeds"][[1, 3]])
    attention = "transformer.encoder.layers.0.attentions.0."
    for name, per_point in (("sampling_offsets.weight", 2), ("attention_weights.bias", 1)):
        rows = [each[attention + name].unflatten(0, (4, -1, 4 * per_point)) for each in (after, state, before)]
        assert torch.equal(rows[0][:, [0, 2]], rows[1][:, [1, 3]]) and torch.equal(rows[0][:, 1], rows[2][:, 1])
    assert torch.equal(after["neck.convs.0.conv.weight"], state["neck.convs.1.conv.weight"])
    with pytest.raises(UserError, match=r"init_levels=\[0, 4, 1\] must name for each of the model's 3 .* file's 4"):
        start(model, source, ANIMALS, ANIMALS, levels=[0, 4, 1])


@settings(max_examples=50)
@given(
    names=st.lists(st.sampled_from(["cat", "Cat", "traffic light", "Traffic_Light", "dog", "owl"]), unique=True),
    in_file=st.lists(st.sampled_from(["cat", "CAT", "traffic-light", "dog", "bat"])),
)
def test_a_class_is_taken_from_one_row_of_its_name_and_no_row_twice(names, in_file):
    rows = rows_by_name(names, in_file)
    taken = [row for row in rows if row >= 0]
    assert len(rows) == len(names) and len(taken) == len(set(taken))
    for name, row in zip(names, rows):
        if in_file.count(name) == 1:
            assert in_file[row] == name
        if row >= 0:
            assert in_file[row].casefold().replace("-", " ") == name.casefold().replace("_", " ")


@settings(max_examples=50)
@given(data=st.data(), groups=st.integers(1, 3), per_thing=st.integers(1, 3), left_over=st.integers(0, 1))
def test_rows_go_where_they_are_said_to_go(data, groups, per_thing, left_over):
    in_file = data.draw(st.integers(1, 4))
    sources = data.draw(st.lists(st.integers(-1, in_file - 1), min_size=1, max_size=5))
    own = -torch.arange(1.0, groups * len(sources) * per_thing + left_over + 1)
    given_ = torch.arange(1.0, groups * in_file * per_thing + left_over + 1)
    value = Rows(groups, sources, in_file, per_thing, "").taken(own, given_)
    for group in range(groups):
        for thing, source in enumerate(sources):
            for row in range(per_thing):
                place = (group * len(sources) + thing) * per_thing + row
                wanted = own[place] if source < 0 else given_[(group * in_file + source) * per_thing + row]
                assert value[place] == wanted
    if left_over:
        assert value[-1] == given_[-1]


def test_a_known_name_is_a_start_whose_classes_are_published(tmp_path, monkeypatch, caplog):
    source = detector(1, num_classes=80)
    checkpoint.write(tmp_path / "web/tiny.pth", {"model": source.state_dict()})
    row = f"tiny,detector,coco_2017_train,{(tmp_path / 'web/tiny.pth').as_uri()}"
    (tmp_path / "own.csv").write_text(f"name,kind,classes,address\n{row}\n")
    monkeypatch.setenv("DINOV2_DETREX_KNOWN_WEIGHTS", str(tmp_path / "own.csv"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    model = detector(num_classes=2)
    with caplog.at_level("INFO", logger="dinov2_detrex"):
        load_init_checkpoint(model, "known://tiny", lambda: ["newt", "dog"])
    assert "known://tiny: " in caplog.text and "classes: 1 of 2 by name [dog]; as built [newt]" in caplog.text
    dog = source.state_dict()["class_embed.0.weight"][16]  # COCO's 17th class
    assert torch.equal(model.state_dict()["class_embed.0.weight"][1], dog)


def test_an_unknown_name_says_which_option_it_was_given_to():
    with pytest.raises(UserError, match="^train.init_checkpoint=known://tinny is no known file of weights"):
        load_init_checkpoint(detector(), "known://tinny")
