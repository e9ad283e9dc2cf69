"""A report is one page that needs no other file, with the numbers of COCO's evaluation, whoever trained."""

import base64
import json
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.evaluation import evaluate_boxes

NAMES = ["<script>alert(1)</script>", 'a "quoted" & odd name', "plain"]
YACS = "MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\nSOLVER:\n  MAX_ITER: 40\n"


class Page(HTMLParser):
    """What a page holds: [(tag, attributes)], its text, and tags that are left open."""

    VOID = {"meta", "img", "link", "br", "hr"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.in_style = [], "", [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def case(tmp_path):
    """(run as detectron2 leaves one, truth, results) with photographs, odd names and a crowd."""
    rng = np.random.default_rng(0)
    images, run = tmp_path / "images", tmp_path / "run & more"
    images.mkdir()
    (run / "inference").mkdir(parents=True)
    truth = {"info": {}, "categories": [{"id": 3 * i + 1, "name": name} for i, name in enumerate(NAMES)]}
    truth |= {"images": [], "annotations": []}
    results = []
    for number in range(1, 9):
        name = f"<b>{number}.png"
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(images / name)
        truth["images"].append({"id": number, "file_name": name, "height": 60, "width": 90})
        for _ in range(number % 4):
            box = [float(v) for v in (*rng.integers(0, 40, 2), *rng.integers(8, 20, 2))]
            category, crowd = int(rng.choice([1, 4, 7])), int(rng.random() < 0.1)
            entry = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box}
            truth["annotations"].append(entry | {"area": box[2] * box[3], "iscrowd": crowd})
            seen = category if rng.random() < 0.7 else 4
            results.append({"image_id": number, "category_id": seen, "bbox": box, "score": float(rng.random())})
        results.append({"image_id": number, "category_id": 7, "bbox": [70.0, 40.0, 9.0, 9.0], "score": 0.9})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (run / "inference" / "coco_instances_results.json").write_text(json.dumps(results))
    (run / "config.yaml").write_text(YACS)
    fixed = {"loss_cls": 1.0, "lr": 0.1, "time": 0.5}
    rows = [{"iteration": i, "total_loss": 5 / (i + 1)} | fixed for i in range(0, 40, 2)]
    (run / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run, truth, results


def report(run, *arguments):
    assert run_command("report", [str(run), *map(str, arguments)]) == 0
    return run / "report"


@pytest.fixture
def written(case):
    run, truth, results = case
    folder = report(run, "--data", run.parent / "truth.json", "--images", run.parent / "images")
    return Page((folder / "report.html").read_text()), folder, truth, results


def test_the_page_is_whole_needs_no_other_file_and_runs_nothing(written):
    page, folder, _, _ = written
    assert page.open == [] and not page.named("script") and not page.named("link")
    addresses = [attrs.get("src") or attrs.get("href") for tag, attrs in page.tags if {"src", "href"} & attrs.keys()]
    assert addresses and all(one.startswith(("data:image/png;base64,", "#")) for one in addresses)
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {one[1:] for one in addresses if one.startswith("#")} == anchors
    ids = ["ap", "thresholds", "confusion", "errors", "labels", "worst", "curves", "data", "costs"]
    assert [attrs["id"] for attrs in page.named("section")] == ids


def test_names_are_shown_as_text_everywhere(written):
    page, folder, _, _ = written
    assert all(name in page.text for name in NAMES)
    text = (folder / "report.html").read_text()
    assert "<script" not in text and "<b>" not in text and "run &amp; more" in text


def test_pictures_and_tables_can_be_read_aloud(written):
    page, folder, _, _ = written
    pictures = page.named("img")
    assert len(pictures) >= 6 and all(len(attrs["alt"]) > 20 for attrs in pictures)
    sizes = [Image.open(BytesIO(base64.b64decode(one["src"].partition(",")[2]))).size for one in pictures]
    assert {Image.open(path).size for path in folder.glob("*.png")} == set(sizes)
    assert len(list(folder.glob("*.png"))) == len(pictures)
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table")) >= 7
    assert all(attrs.get("role") == "img" and attrs["aria-label"] for attrs in page.named("svg") if "role" in attrs)
    assert page.named("html")[0]["lang"] == "en" and {"name": "viewport"}.items() <= page.named("meta")[1].items()


def test_the_numbers_are_those_of_cocos_evaluation(written):
    page, folder, truth, results = written
    numbers = json.loads((folder / "report.json").read_text())
    expected = evaluate_boxes(truth, results, fast=False)
    for name, value in expected.metrics().items():
        shown = numbers["ap"][name]
        assert shown == (pytest.approx(value, abs=1e-9) if np.isfinite(value) else None)
    for row, category in zip(numbers["classes"], expected.category_ids):
        assert row["AP"] == pytest.approx(expected.ap(category_id=category), abs=1e-9)
        assert row["by_iou"]["0.75"] == pytest.approx(expected.ap(0.75, category_id=category), abs=1e-9)
        assert row["right"] + row["missed"] == row["objects"]
        assert f"{row['f1']:.3f}" in page.text
    assert f"{expected.ap():.1f}" in page.text and f"{expected.ap(0.5):.1f}" in page.text
    counts = np.array(numbers["confusion"]["counts"])
    assert np.diag(counts)[:3].tolist() == [row["right"] for row in numbers["classes"]]
    thresholds = json.loads((folder / "thresholds.json").read_text())
    assert thresholds["by_class"] == {r["name"]: r["threshold"] for r in numbers["classes"] if r["right"]}


def test_a_second_report_replaces_the_first(case):
    run, truth, results = case
    data = ["--data", run.parent / "truth.json", "--images", run.parent / "images"]
    before = sorted(path.name for path in report(run, *data).iterdir())
    (run / "inference" / "coco_instances_results.json").write_text("[]")
    folder = report(run, *data)
    left = sorted(path.name for path in folder.iterdir())
    assert [name for name in before if name.startswith("label")] and not [n for n in left if n.startswith("label")]
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers["ap"]["AP"] == 0 and numbers["errors"]["count"]["missed"] == len(
        [a for a in truth["annotations"] if not a["iscrowd"]]
    )


@pytest.mark.parametrize(
    "missing, sentence",
    [
        ("metrics.json", "holds no metrics.json"),
        ("inference", "holds no detections"),
        ("data", "name it with --data"),
        ("images", "are not drawn"),
        ("config.yaml", "config is not read"),
    ],
)
def test_what_is_missing_is_left_out_with_a_sentence(missing, sentence, case, tmp_path):
    import shutil

    run, _, _ = case
    arguments = ["--data", tmp_path / "truth.json", "--images", tmp_path / "images"]
    if missing == "data":
        arguments = []
    elif missing == "images":
        for file in (tmp_path / "images").iterdir():
            file.unlink()
    elif (run / missing).is_dir():
        shutil.rmtree(run / missing)
    else:
        (run / missing).unlink()
    page = Page((report(run, *arguments) / "report.html").read_text())
    assert sentence in page.text and page.open == []
    detected = missing not in ("inference", "data")
    assert ("Average precision" in page.text) == detected == (run / "report" / "thresholds.json").is_file()


def test_mistakes_are_one_line(case, capsys):
    run, truth, results = case
    for arguments, words in [
        ([str(run.parent / "absent")], "is no folder of a run"),
        ([str(run), "--images", "x"], "--images goes with --data"),
        ([str(run), "--data", "absent.json"], "absent.json"),
        ([str(run), "--weights", "best"], "config"),
    ]:
        assert run_command("report", arguments) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    (run / "inference" / "coco_instances_results.json").write_text('[{"image_id": 1}]')
    data = ["--data", str(run.parent / "truth.json"), "--images", str(run.parent / "images")]
    assert run_command("report", [str(run), *data]) == 1 and "no list of COCO results" in capsys.readouterr().err
    assert not (run / "report").exists()
