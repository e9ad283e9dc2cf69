"""The config that a run used, written down so that it can be given to --config-file again."""

import copy
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyCall, LazyConfig
from omegaconf import DictConfig, OmegaConf, SCMode

from dinov2_detrex.config.schema import Choice, is_section
from dinov2_detrex.runtime.files import atomic_write, write_text


def write_config(cfg: DictConfig, output_dir: str) -> Path:
    """Write the config as this run uses it, overrides applied and references resolved, to `config.yaml`."""
    path = Path(output_dir) / "config.yaml"
    save_config(settled(cfg), path)
    return path


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a config as it is, the same text whichever engine writes it.

    What has no name in a module, such as a lambda, cannot be read back from it; then `path` with ".pkl" behind it holds
    the config as well.
    """
    with tempfile.TemporaryDirectory() as elsewhere:  # a full disk must not leave half a config
        LazyConfig.save(cfg, f"{elsewhere}/config.yaml")
        text = Path(elsewhere, "config.yaml").read_text(encoding="utf-8")
        if (pickled := Path(elsewhere, "config.yaml.pkl")).is_file():
            with atomic_write(f"{path}.pkl") as target:
                target.write(pickled.read_bytes())
    write_text(path, without_anchors(text))


def without_anchors(text: str) -> str:
    """The same YAML document with aliases written out: which values are one object in memory is no part of a config.

    detectron2's own `LazyConfig.save` marks a list that is referred to twice with an anchor, `&id001`.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    if "&" not in text:
        return text
    root = _unshared(yaml.compose(text, Loader=yaml.SafeLoader))
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=9999)


def _unshared(node: Any) -> Any:
    """A copy of a tree of YAML nodes in which none has two parents."""
    copied = copy.copy(node)
    if isinstance(node, yaml.SequenceNode):
        copied.value = [_unshared(inner) for inner in node.value]
    elif isinstance(node, yaml.MappingNode):
        copied.value = [(_unshared(key), _unshared(value)) for key, value in node.value]
    return copied


def settled(cfg: DictConfig, **values: Any) -> DictConfig:
    """A plain copy with references resolved.

    Args:
        cfg: stays as it is.
        values: options of `train` that the run has settled, e.g. its seed.
    """
    copied = plain(cfg)
    copied.train.update(values)
    OmegaConf.resolve(copied)
    return copied


def plain(cfg: DictConfig) -> DictConfig:
    """A copy whose typed sections are ordinary ones, which can be written and read without this package."""
    copied = copy.deepcopy(cfg)
    for name in copied:
        if is_section(OmegaConf.get_type(copied, str(name))):
            copied[name] = _as_written(OmegaConf.to_container(copied[name]))
    return copied


def with_calls_for_values(cfg: DictConfig) -> DictConfig:
    """A copy in which a value of a dataclass, as detectron2's `ShapeSpec` is one, is the call that makes it.

    Then YAML needs no tag for it, which only a loader reads that would run anything.

    Args:
        cfg: without typed sections, see `plain`.
    """
    values = OmegaConf.to_container(cfg, structured_config_mode=SCMode.INSTANTIATE)
    return DictConfig(_called(values), flags={"allow_objects": True})


def _called(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: _called(getattr(value, field.name)) for field in fields(value)}
        return LazyCall(type(value))(**arguments)
    if isinstance(value, dict):
        return {name: _called(inner) for name, inner in value.items()}
    return [_called(inner) for inner in value] if isinstance(value, list) else value


def _as_written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_written(inner) for name, inner in value.items()}
    return value.value if isinstance(value, Choice) else value
