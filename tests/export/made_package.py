"""A model package of a small detector, and a picture: what commands that export are given."""

from PIL import Image
from tiny_custom import scoring_detector

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.saving import write_config
from dinov2_detrex.runtime import files

METADATA = {"thing_classes": ["newt", "gnu", "owl"], "thing_dataset_id_to_contiguous_id": {0: 0, 7: 1, 40: 2}}


def make_package(folder):
    """(package, picture): a detector of three classes, and 150 x 90 pixels of noise."""
    cfg, model = scoring_detector()
    write_config(cfg, folder / "run")
    content = {"model": model.state_dict(), "metadata": METADATA, "iteration": 9}
    files.write(folder / "run" / "model_best.pth", content)
    picture = folder / "new.png"
    Image.effect_noise((150, 90), 80).convert("RGB").save(picture)
    words = [str(folder / "run"), "--out", str(folder / "package"), "--examples", str(picture)]
    assert run_command("package", words) == 0
    return folder / "package", picture
