"""Fixtures of the data tests: data sets on the disk."""

import pytest
from coco_folder import CocoFolder


@pytest.fixture
def coco(tmp_path):
    """An empty data set folder to fill."""
    return CocoFolder(tmp_path / "own data")


@pytest.fixture
def sound_coco(coco):
    """Two images with a box each, nothing wrong."""
    coco.add_image(1)
    coco.add_image(2, width=50, height=80)
    coco.add_box([5, 5, 20, 10], image_id=1, category_id=1)
    coco.add_box([10.5, 20, 30, 40.25], image_id=2, category_id=2)
    return coco.write()
