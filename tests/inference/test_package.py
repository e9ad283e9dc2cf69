"""A package answers as the run it was made of, on any machine, and nothing half-made or hostile is taken for one."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import instantiate
from PIL import Image
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM, scoring_detector

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.config.saving import write_config
from dinov2_detrex.inference import Predictor
from dinov2_detrex.inference.packaging import make_package
from dinov2_detrex.inference.runs import Trained, choose_weights
from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.packages import read_checkpoint
from dinov2_detrex.training.init_checkpoint import load_init_checkpoint

METADATA = {"thing_classes": ["newt", "gnu", "owl"], "thing_dataset_id_to_contiguous_id": {0: 0, 7: 1, 40: 2}}
AP = {"bbox/AP": 12.5, "bbox/APl": float("nan"), "loss": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(model, run, its package, picture): a run on own data, which are gone, as training leaves it."""
    run = tmp_path_factory.mktemp("mine")
    cfg, model = scoring_detector("train.model_ema.enabled=true")
    write_config(cfg, run)
    state = model.state_dict()
    average = {name: value.detach() * 0.5 for name, value in model.named_parameters()}
    average |= {name: value for name, value in model.named_buffers() if name in state}
    rest = {"iteration": 9, "metadata": METADATA}
    files.write(run / "model_final.pth", {"model": state, "ema_state": average, **rest})
    files.write(run / "model_best.pth", {"model": state, "results": AP, **rest})
    files.write_text(run / "last_checkpoint", "model_final.pth")
    files.write_text(run / "metrics.json", '{"iteration": 10, "bbox/AP": 3.0}\n{"iter')
    Image.effect_noise((90, 50), 80).save(run / "new.png")
    assert run_command("package", [str(run), "--examples", str(run / "new.png")]) == 0
    return model, run, run / "package", run / "new.png"


def facts_of(package):
    return json.loads((package / "detector.json").read_text())


def test_a_package_detects_what_its_run_does_wherever_it_lies(made, tmp_path):
    _, run, package, picture = made
    moved = Path(shutil.copytree(package, tmp_path / "elsewhere"))
    expected = Predictor(load(str(run), []), run / "model_best.pth")(picture, score_threshold=0.0)
    assert len(expected) == 10 and Predictor.from_pretrained(moved)(picture, score_threshold=0.0) == expected


def test_a_detector_is_opened_by_what_it_is(made):
    _, run, package, picture = made
    expected = Predictor.from_run(run, "best")(picture, score_threshold=0.0)
    for opened in (Predictor.open(run), Predictor.open(run, "best"), Predictor.open(package)):
        assert opened(picture, score_threshold=0.0) == expected
    with pytest.raises(UserError, match="'best': .*package is no run's folder"):
        Predictor.open(package, "best")


def test_it_says_what_it_holds(made):
    _, run, package, _ = made
    facts = facts_of(package)
    assert facts["classes"] == [{"id": 0, "name": "newt"}, {"id": 7, "name": "gnu"}, {"id": 40, "name": "owl"}]
    assert facts["metrics"] == {"bbox/AP": 12.5, "bbox/APl": None}
    assert facts["weights"] == {"file": "model_best.pth", "averaged": True, "iteration": 9}  # the average was judged
    assert (facts["name"], facts["license"]) == (run.name, "apache-2.0")
    assert facts["base_model"] == "vit_small_patch14_dinov2.lvd142m" and facts["versions"]["torch"]
    assert str(run) not in (package / "config.yaml").read_text() + (package / "detector.json").read_text()
    _, front, text = (package / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["license"], front["base_model"]) == ("apache-2.0", "timm/vit_small_patch14_dinov2.lvd142m")
    assert front["pipeline_tag"] == "object-detection" and "newt, gnu, owl" in text and "| bbox/AP | 12.50 |" in text
    assert [path.name for path in (package / "examples").iterdir()] == ["00_new.png"]


def test_averaged_and_final_weights_are_taken_when_asked_for(made, tmp_path):
    model, run, _, _ = made
    packages = {which: tmp_path / which for which in ("final", "averaged")}
    for which, folder in packages.items():
        make_package(load(str(run), []), choose_weights(run, which), folder)
    final, averaged = (read_checkpoint(folder)["model"] for folder in packages.values())
    parameters = dict(model.named_parameters())
    assert final.keys() == averaged.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(final[name], value)
        moves = name in parameters and parameters[name].requires_grad
        if name in parameters or name not in dict(model.named_parameters(remove_duplicate=False)):
            assert torch.equal(averaged[name], value * 0.5 if moves else value), name
    facts = [facts_of(folder) for folder in packages.values()]
    assert [fact["weights"]["averaged"] for fact in facts] == [False, True]
    assert facts[0]["metrics"] == {"bbox/AP": 3.0}  # of metrics.json, whose last line was cut off


def test_a_checkpoint_with_a_config_becomes_a_package_with_the_names_that_can_be_known(made, tmp_path):
    _, run, _, picture = made
    files.write(tmp_path / "foreign.pth", {"model": files.read(run / "model_final.pth")["model"]})  # as detrex's
    arguments = [CUSTOM_RECIPE, *TINY_CUSTOM, "--weights", str(tmp_path / "foreign.pth"), "--out", str(tmp_path / "p")]
    assert run_command("package", [*arguments, "model.num_classes=3"]) == 0
    assert facts_of(tmp_path / "p")["classes"] == [{"id": i, "name": str(i)} for i in range(3)]
    coco = ["dataloader.train.dataset.names=coco_2017_train", "dataloader.train.dataset.json_file=null"]
    model = instantiate(without_pretrained(load(CUSTOM_RECIPE, [*TINY_CUSTOM, "model.num_classes=80"])).model)
    files.write(tmp_path / "coco.pth", {"model": model.state_dict()})
    arguments = [CUSTOM_RECIPE, *TINY_CUSTOM, *coco, "model.num_classes=80"]
    arguments += ["--weights", str(tmp_path / "coco.pth"), "--out", str(tmp_path / "q")]
    assert run_command("package", arguments) == 0
    assert facts_of(tmp_path / "q")["classes"][-1] == {"id": 90, "name": "toothbrush"}
    assert len(Predictor.from_pretrained(tmp_path / "q")(picture, score_threshold=0.0)) == 10


def test_nothing_is_overwritten_and_nothing_half_made_stays(made, tmp_path, capsys):
    _, run, package, _ = made
    before = (package / "detector.json").read_bytes()
    assert run_command("package", [str(run)]) == 1 and "exists" in capsys.readouterr().err
    assert (package / "detector.json").read_bytes() == before
    refused = [
        (["model.num_queries=7", "model.transformer.two_stage_num_proposals=7"], "another model"),
        (["+optimizer.hook={_target_:os.system}"], "optimizer.hook._target_='os.system' is not among"),
        (["--examples", "absent.png"], "absent.png is no file"),
    ]
    for arguments, words in refused:
        assert run_command("package", [str(run), "--out", str(tmp_path / "p"), *arguments]) == 1
        stderr = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in stderr and "unfinished" not in stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"default": 2}', "from 0 to 1, not 2"),
        ('{"by_class": {"cow": 0.5}}', "'cow', which is none of the classes newt, gnu, owl"),
        ("[]", "holds no object"),
        ("{", "no JSON"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(content, words, made, tmp_path, capsys):
    _, run, _, _ = made
    (tmp_path / "t.json").write_text(content)
    assert run_command("package", [str(run), "--out", str(tmp_path / "p"), "--thresholds", str(tmp_path / "t.json")])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "weights, of_report, taken",
    [("best", "best", True), ("final", "final", True), ("final", "best", False), ("averaged", "final", False)],
)
def test_the_thresholds_of_the_runs_report_are_taken_where_they_are_of_these_weights(
    weights, of_report, taken, made, tmp_path
):
    _, run, _, _ = made
    report = {"default": 0.25, "by_class": {"gnu": 0.75}, "weights": of_report, "chosen_for": "F1 at IoU 0.5"}
    files.write_json(run / "report" / "thresholds.json", report)
    try:
        assert run_command("package", [str(run), "--out", str(tmp_path / "p"), "--weights", weights]) == 0
        (tmp_path / "t.json").write_text('{"default": 0.6}')
        given = ["--out", str(tmp_path / "q"), "--thresholds", str(tmp_path / "t.json")]
        assert run_command("package", [str(run), *given]) == 0
    finally:
        shutil.rmtree(run / "report")
    usual = {"default": 0.3, "by_class": {}}
    assert facts_of(tmp_path / "p")["thresholds"] == ({k: report[k] for k in usual} if taken else usual)
    assert facts_of(tmp_path / "q")["thresholds"] == {"default": 0.6, "by_class": {}}


def test_training_starts_from_a_package_as_from_its_checkpoint(made):
    model, run, package, _ = made
    cfg = without_pretrained(load(str(run), []))
    for other in (["newt", "gnu", "owl"], ["newt", "owl", "gnu"]):
        started = instantiate(cfg.model)
        rest = load_init_checkpoint(started, str(package), lambda other=other: other)
        assert rest["metadata"]["thing_classes"] == METADATA["thing_classes"]
        taken = {name for name, value in started.state_dict().items() if torch.equal(value, model.state_dict()[name])}
        left = model.state_dict().keys() - taken
        assert bool(left) == (other != METADATA["thing_classes"]) and all("class" in n or "label" in n for n in left)
    with pytest.raises(UserError, match="is a folder, but no model package"):
        load_init_checkpoint(started, str(run))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda package: (package / "detector.json").write_text("{"), "detector.json cannot be read"),
        (lambda package: (package / "detector.json").write_text('{"format": 9}'), "format 9.*upgrade"),
        (lambda package: (package / "detector.json").write_text('{"format": 1, "classes": [1]}'), "an id and a name"),
        (lambda package: (package / "detector.json").unlink(), "no detector.json"),
        (lambda package: (package / "model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{"), "damaged"),
        (lambda package: (package / "model.safetensors").unlink(), "does not exist"),
        (lambda package: (package / "config.yaml").unlink(), "is a folder"),
    ],
)
def test_what_is_damaged_is_named_in_one_line(damage, words, made, tmp_path):
    package = Path(shutil.copytree(made[2], tmp_path / "copy"))
    damage(package)
    with pytest.raises(UserError, match=words) as caught:
        Predictor.from_pretrained(package)
    assert "\n" not in str(caught.value)


OFFLINE = """
import sys
from dinov2_detrex.inference import Predictor, push_to_hub
from dinov2_detrex.runtime.errors import UserError

package, picture = sys.argv[1:]
print(len(Predictor.from_pretrained("somebody/newts")(picture, score_threshold=0.0)))
for attempt in (
    lambda: Predictor.from_pretrained("somebody/absent"),
    lambda: Predictor.from_pretrained("somebody/newts", revision="other"),
    lambda: Predictor.from_pretrained("no/such/folder"),
    lambda: push_to_hub(package, "somebody/newts"),
    lambda: push_to_hub(package, "newts"),
):
    try:
        print("done", attempt())
    except UserError as error:
        print(error)
"""


def test_without_network_the_hubs_cache_serves_and_all_else_is_one_line(made, tmp_path, python, python_env):
    repository = tmp_path / "hub" / "models--somebody--newts"
    shutil.copytree(made[2], repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    env = {**python_env, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path)}
    line = [python, "-c", OFFLINE, str(made[2]), str(made[3])]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    number, absent, revision, path, push, name = done.stdout.splitlines()
    assert number == "10"
    assert absent.startswith("somebody/absent is no folder here, and cannot be had from the Hub: ")
    assert revision.startswith("somebody/newts is no folder here")
    assert path == "no/such/folder is neither a folder nor an id of the Hugging Face Hub, owner/name"
    assert "cannot be sent to somebody/newts: OfflineModeIsEnabled" in push and "owner/name" in name


def results_in(stdout):
    """The line with the AP; others may follow it, such as that of threads which gave way to another program."""
    (line,) = (line for line in stdout.splitlines() if "'AP50'" in line)
    return line[line.index("{") :]


def test_evaluating_a_package_gives_the_numbers_of_eval_only(made, sound_coco, tmp_path, capfd, monkeypatch):
    _, run, package, _ = made
    monkeypatch.chdir(tmp_path)
    data = [str(sound_coco.json_file), "--images", str(sound_coco.images), "dataloader.test.num_workers=0"]
    document = json.loads(sound_coco.json_file.read_text())
    names = [category["name"] for category in document["categories"]]
    assert run_command("evaluate", [str(package), "--data", *data]) == 1
    assert f"has the classes {', '.join(names)}, but" in capfd.readouterr().err
    document["categories"] = [{"id": i, "name": name} for i, name in enumerate(METADATA["thing_classes"], 1)]
    sound_coco.json_file.write_text(json.dumps(document))
    assert run_command("evaluate", [str(package), "--data", *data]) == 0
    found = results_in(capfd.readouterr().out)
    assert run_command("evaluate", [str(run), "--data", *data, "--weights", "best"]) == 0
    of_run = results_in(capfd.readouterr().out)
    by_hand = [f"data.val.json='{data[0]}'", f"data.val.images='{data[2]}'", "train.output_dir=other"]
    by_hand += [f"data.train.json='{data[0]}'", f"data.train.images='{data[2]}'", *TINY_CUSTOM, "model.num_classes=3"]
    by_hand += ["model.backbone.net.pretrained=False", data[3]]
    weights = f"train.init_checkpoint='{run / 'model_best.pth'}'"
    assert run_command("train", ["--config-file", CUSTOM_RECIPE, "--eval-only", *by_hand, weights]) == 0
    expected = results_in(capfd.readouterr().out)
    assert found == of_run == expected
    assert (tmp_path / "output/evaluation/log.txt").is_file()


def test_a_run_that_saved_nothing_has_no_package(tmp_path):
    with pytest.raises(UserError, match="no weights were saved in it"):
        choose_weights(tmp_path)
    with pytest.raises(UserError, match="has no model_best.pth.*--weights final"):
        choose_weights(tmp_path, "best")
    assert choose_weights(tmp_path, "a.pth") == Trained(Path("a.pth")) and not os.listdir(tmp_path)


@pytest.mark.parametrize("command", ["package", "evaluate", "export --to onnx"])
def test_weights_that_are_no_file_are_said_not_to_exist(command, tmp_path, capsys):
    name, *flags = command.split()
    absent = str(tmp_path / "absent.pth")
    assert run_command(name, [CUSTOM_RECIPE, *TINY_CUSTOM, *flags, "--weights", absent]) == 1
    assert f"error: --weights {absent} does not exist" in capsys.readouterr().err
