"""What the slice lacks, withdrawn parts and all other misses, is refused in one line that names it and who has it."""

import importlib
import pickle
import pkgutil
import random
import string
import subprocess

import numpy as np
import pytest
from detectron2.utils.registry import locate

from dinov2_detrex.engine import FALLBACK_DIR, missing_part_message

pytestmark = pytest.mark.fallback("detectron2", "detrex")

LEFT_OUT = """
detectron2.config: CfgNode configurable get_cfg
detectron2.data: build_batch_data_loader load_proposals_into_dataset
detectron2.data.common: ToIterableDataset
detectron2.data.datasets: register_coco_panoptic
detectron2.data.transforms: RandomRotation RandomExtent RandomResize MinIoURandomCrop
detectron2.engine: AMPTrainer AutogradProfiler BestCheckpointer CallbackHook DEFAULT_TIMEOUT DefaultTrainer EvalHook
detectron2.engine: LRScheduler PeriodicCheckpointer PreciseBN SimpleTrainer TorchMemoryStats TorchProfiler
detectron2.engine: create_ddp_model default_argument_parser default_setup launch
detectron2.engine.defaults: create_ddp_model default_argument_parser default_setup
detectron2.engine.hooks: BestCheckpointer CallbackHook EvalHook LRScheduler PeriodicCheckpointer PreciseBN
detectron2.engine.train_loop: AMPTrainer SimpleTrainer
detectron2.evaluation: LVISEvaluator SemSegEvaluator verify_results
detectron2.evaluation.testing: verify_results
detectron2.layers: NaiveSyncBatchNorm Linear interpolate
detectron2.layers.batch_norm: NaiveSyncBatchNorm
detectron2.layers.wrappers: interpolate
detectron2.modeling: build_model GeneralizedRCNN
detectron2.modeling.backbone: build_backbone MViT
detectron2.solver: LRMultiplier build_lr_scheduler WarmupCosineLR
detectron2.solver.lr_scheduler: LRMultiplier
detectron2.structures: RotatedBoxes Keypoints
detectron2.structures.boxes: pairwise_ioa
detectron2.utils: collect_env visualizer
detrex.layers: ConvNormAct
detrex.modeling: SetCriterion
detrex.modeling.backbone: EVAViT
"""
NAMES = [(line.split(":")[0], name) for line in LEFT_OUT.strip().splitlines() for name in line.split(":")[1].split()]
MODULES = ["detectron2.engine.launch", "detectron2.model_zoo", "detectron2.utils.collect_env", "detrex.modeling.dn"]


def modules_of_the_slice() -> list[str]:
    """Dotted names of all modules; detrex's config files are no modules."""
    found = [module.name for module in pkgutil.walk_packages([str(FALLBACK_DIR)])]
    return [name for name in found if not name.startswith("detrex.config.configs")]


def generated_misses() -> list[tuple[str, str]]:
    """A name that nobody chose, for every module of the slice."""
    letters = random.Random(0)
    return [(name, "".join(letters.choices(string.ascii_letters, k=8))) for name in modules_of_the_slice()]


def check(error: BaseException, name: str) -> None:
    package = name.partition(".")[0]
    assert str(error).startswith(f"{name} is not in") and f"the real {package} has it" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("module, name", [*NAMES, *generated_misses()])
def test_a_name_that_the_slice_lacks_is_refused_by_import_and_by_attribute(module, name):
    with pytest.raises(ImportError) as imported:
        exec(f"from {module} import {name}")
    with pytest.raises(AttributeError) as read:
        getattr(importlib.import_module(module), name)
    for caught in (imported, read):
        check(caught.value, f"{module}.{name}")


@pytest.mark.parametrize("module", [*MODULES, *(".".join(miss) for miss in generated_misses())])
def test_a_module_that_the_slice_lacks_is_refused(module):
    for statement in (f"import {module}", f"from {module} import anything"):
        with pytest.raises(ImportError) as caught:
            exec(statement)
        check(caught.value, module)


def test_a_config_that_names_what_the_slice_lacks_is_told_so():
    name = "detectron2.engine.SimpleTrainer"
    with pytest.raises(ImportError) as caught:
        locate(name)
    assert missing_part_message(name) in str(caught.value)


@pytest.mark.parametrize("name", ["ResNet", "BasicStem", "ViT", "FPN"])
def test_a_backbone_that_is_not_provided_is_refused_when_called(name):
    import detectron2.modeling.backbone as backbones

    kind = getattr(backbones, name)
    with pytest.raises(NotImplementedError, match="TimmBackbone") as caught:
        kind(depth=50)
    check(caught.value, f"{kind.__module__}.{name}")


def test_a_module_can_be_searched_for_a_name_without_an_error():
    """As pickle does with every module in memory for an object that does not say where it is from."""
    for module in modules_of_the_slice():
        assert not hasattr(importlib.import_module(module), "a_name_of_none_of_them")
    assert pickle.loads(pickle.dumps(np.add)) is np.add


def test_all_that_a_module_exports_is_there():
    for name in modules_of_the_slice():
        module = importlib.import_module(name)
        assert all(hasattr(module, exported) for exported in getattr(module, "__all__", ()))


def test_a_submodule_that_was_not_imported_is_not_called_missing(python, python_env):
    code = "import dinov2_detrex, detectron2\ntry: detectron2.evaluation\nexcept AttributeError as e: print(e)"
    run = subprocess.run([python, "-c", code], env=python_env, capture_output=True, text=True, check=True)
    assert "no attribute 'evaluation'" in run.stdout and "slice" not in run.stdout


def test_a_process_that_inherits_the_import_path_refuses_as_well(python, python_env):
    """A spawned process has the fallback's folder in its path before dinov2_detrex is imported."""
    env = {**python_env, "PYTHONPATH": f"{python_env['PYTHONPATH']}:{FALLBACK_DIR}"}
    code = "import dinov2_detrex\ntry: from detectron2.engine.hooks import EvalHook\nexcept ImportError as e: print(e)"
    run = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == missing_part_message("detectron2.engine.hooks.EvalHook")
