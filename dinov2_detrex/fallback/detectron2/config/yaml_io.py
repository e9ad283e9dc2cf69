"""How is a config written as YAML, and read back? Callables by dotted name, interpolations as they stand.

Beyond plain YAML the files hold `!!python/name:` tags for callables and `!!python/object:` for dataclasses. Only
these, tuples and paths are read back; but loading a config still means importing what it names: trust your files.
"""

import copy
import logging
import pathlib
from dataclasses import is_dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf, SCMode

from dinov2_detrex.runtime import files

from ..utils.registry import _convert_target_to_string, locate

logger = logging.getLogger(__name__)


def save(cfg: DictConfig, filename: str) -> None:
    """Write `cfg`; where its YAML cannot be loaded back (lambdas, arbitrary objects), also `filename + ".pkl"`."""
    values = OmegaConf.to_container(copy.deepcopy(cfg), resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    reason = _write_yaml(_name_targets(values), filename)
    if reason:
        name = pathlib.Path(filename).name
        logger.warning("%s cannot be loaded again (%s); %s.pkl holds the config as well", name, reason, name)
        _write_pickle(cfg, f"{filename}.pkl")


def read(filename: str) -> Any:
    """The plain content of a YAML config; interpolations are still strings.

    Raises:
        FileNotFoundError: there is no such file.
        yaml.YAMLError: not YAML, or a tag that `save` does not write.
    """
    with open(filename, encoding="utf-8") as file:
        return yaml.load(file, Loader=ConfigLoader)


def _write_yaml(values: Any, filename: str) -> str:
    """Write the file if it can be written at all; return why it could not be read back, or ""."""
    try:
        text = yaml.dump(values, Dumper=ConfigDumper, default_flow_style=None, allow_unicode=True, width=9999)
        files.write_text(filename, text)
        yaml.load(text, Loader=ConfigLoader)
    except OSError:
        raise
    except Exception as error:  # any object's own way of failing to be represented
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def _write_pickle(cfg: DictConfig, filename: str) -> None:
    try:
        import cloudpickle

        pathlib.Path(filename).write_bytes(cloudpickle.dumps(cfg))
    except Exception as error:  # the pickle is a convenience; a run must not end for it
        logger.debug("no %s: %s", filename, error)


def _name_targets(values: Any) -> Any:
    """A copy of nested dicts and lists in which every callable `_target_` is its dotted name."""
    if isinstance(values, list):
        return [_name_targets(v) for v in values]
    if isinstance(values, dict):
        named = {k: _name_targets(v) for k, v in values.items()}
        if callable(named.get("_target_")):
            named["_target_"] = _convert_target_to_string(named["_target_"])
        return named
    return values


class ConfigDumper(yaml.Dumper):
    """PyYAML's dumper, with functions and classes under their shortest importable name and everything written out."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors: which values are one object in memory says nothing about a config."""
        return True


class ConfigLoader(yaml.SafeLoader):
    """YAML without arbitrary objects: the safe types plus the tags that `save` writes."""


def _represent_callable(dumper: yaml.Dumper, target: Any) -> yaml.Node:
    return dumper.represent_scalar(f"tag:yaml.org,2002:python/name:{_convert_target_to_string(target)}", "")


def _represent_path(dumper: yaml.Dumper, path: pathlib.PurePath) -> yaml.Node:
    kind = "PosixPath" if isinstance(path, pathlib.PurePosixPath) else "WindowsPath"
    return dumper.represent_sequence(f"tag:yaml.org,2002:python/object/apply:pathlib.{kind}", list(path.parts))


def _construct_name(loader: yaml.Loader, suffix: str, node: yaml.Node) -> Any:
    try:
        return locate(suffix)
    except ImportError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def _construct_dataclass(loader: yaml.Loader, suffix: str, node: yaml.MappingNode) -> Any:
    kind = _construct_name(loader, suffix, node)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise yaml.constructor.ConstructorError(None, None, f"{suffix} is not a dataclass", node.start_mark)
    return kind(**cast(dict[str, Any], loader.construct_mapping(node, deep=True)))


def _construct_tuple(loader: yaml.Loader, node: yaml.SequenceNode) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _construct_path(loader: yaml.Loader, suffix: str, node: yaml.SequenceNode) -> pathlib.Path:
    return pathlib.Path(*loader.construct_sequence(node))


for _kind in (FunctionType, BuiltinFunctionType):
    ConfigDumper.add_representer(_kind, _represent_callable)
ConfigDumper.add_multi_representer(type, _represent_callable)
ConfigDumper.add_multi_representer(pathlib.PurePath, _represent_path)
ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", _construct_name)
ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/object:", _construct_dataclass)
ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/object/apply:pathlib", _construct_path)
ConfigLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)
