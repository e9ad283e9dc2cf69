"""Two processes: together they see each record once, agree on the order, and evaluate like one."""

import json
import subprocess
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from engine.small_coco import coco_content, slightly_wrong_model

TESTS = Path(__file__).parents[1]
NAME = "test_two_processes_set"
SCRIPT = """
import json, sys
from itertools import islice
import torch.distributed as dist
import dinov2_detrex
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from dinov2_detrex.runtime.processes import end_process
from engine.test_two_processes import evaluate

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
results, seen = evaluate(f"{folder}/truth.json")
shares = comm.gather((seen, list(islice(iter(TrainingSampler(6)), 3))))
if rank == 0:
    with open(f"{folder}/result.json", "w") as file:
        json.dump({"results": results, "shares": shares}, file)
else:
    assert results == {}, results
dist.destroy_process_group()
end_process(0)
"""


def evaluate(json_file: str):
    """(results, ids of the images this process saw) of a model that is slightly wrong."""
    register_coco_instances(NAME, {}, json_file, "")
    try:
        loader = build_detection_test_loader(DatasetCatalog.get(NAME), mapper=dict, batch_size=2)
        ids = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
        model = slightly_wrong_model(json.loads(Path(json_file).read_text()), ids)
        results = inference_on_dataset(model, loader, COCOEvaluator(NAME))
        return results, [record["image_id"] for batch in loader for record in batch]
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_two_processes_evaluate_and_shuffle_as_one(tmp_path, python, python_env):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"info": {}, **coco_content(7)}))
    env = {**python_env, "PYTHONPATH": f"{TESTS}:{python_env['PYTHONPATH']}"}
    command = [python, "-c", SCRIPT]
    children = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=env, cwd=tmp_path) for rank in range(2)]
    alone, every_image = evaluate(str(truth))
    assert [child.wait(timeout=300) for child in children] == [0, 0]
    together = json.loads((tmp_path / "result.json").read_text())
    assert [seen for seen, _ in together["shares"]] == [every_image[:4], every_image[4:]]
    assert sorted(together["shares"][0][1] + together["shares"][1][1]) == list(range(6))  # they agreed on a seed
    assert together["results"]["bbox"] == pytest.approx(alone["bbox"], nan_ok=True)
    assert 0 < alone["bbox"]["AP"] < 100
