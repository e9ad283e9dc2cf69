"""Which keys may a config have, of which type and range, with which default, to which effect? A page made of the code.

`train` and `schedule` are typed: their dataclasses say everything. The other sections describe calls; their arguments
are read from the constructors, and the values from the recipes that set them.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from docstrings import arguments_of, code, first_sentence, said_of_fields, table
from effects import KINDS, OF_DATA, effect_elsewhere, effect_here
from omegaconf import DictConfig, ListConfig, OmegaConf

from dinov2_detrex.config import RESOLVERS
from dinov2_detrex.config.arguments import ARGUMENTS
from dinov2_detrex.config.loading import load_config
from dinov2_detrex.config.recipes import named_recipes
from dinov2_detrex.config.refusals import SECTIONS
from dinov2_detrex.config.schema import Section, declared_options, expected, is_section, option_kinds

REFERENCE, CUSTOM = "dino_dinov2_b_12ep", "dino_dinov2_s_custom"
CALLS = ("model", "dataloader.train", "dataloader.test", "dataloader.evaluator", "optimizer", "lr_multiplier")

_INTRODUCTION = f"""\
# Config keys

Any key is an override on the command line, `train.max_iter=100`, and a line of a recipe, `train.max_iter = 100`. A key
that does not exist ends the command with the nearest known ones. `train` and `schedule` hold exactly the options below;
the other sections describe calls, and take every argument of what they call, also one that the recipe leaves out.
A key stands under the heading of its section: `max_iter` under `train` is `train.max_iter`. `+key=value` adds a key
of your own, `~key` removes one.

Defaults of the typed sections are what a recipe gets that does not set them; beside the arguments of calls stands what
the recipe `{REFERENCE}` sets, and what the constructor takes without. `${{...}}` is an interpolation: the value
follows from another one."""


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for name, section in SECTIONS.items():
        parts += [f"## {name}", first_sentence(section.__doc__ or ""), *_section_tables(section, name)]
    reference, custom = (load_config(named_recipes()[name]) for name in (REFERENCE, CUSTOM))
    parts += ["## data", _DATA, _plain_table(custom.data, "data", OF_DATA)]
    parts += ["## dataloader.image", _IMAGE, _plain_table(reference.dataloader.image, "dataloader.image", OF_DATA)]
    for key in CALLS:
        parts += _call_tables(OmegaConf.select(reference, key), key, level=2)
    parts += _call_tables(custom.dataloader.train.dataset, "dataloader.train.dataset", level=2, of=f" of `{CUSTOM}`")
    parts += ["## Interpolations", _INTERPOLATIONS, "\n".join(_resolver(*item) for item in RESOLVERS.items())]
    return "\n\n".join(parts) + "\n"


_INTERPOLATIONS = """\
Arithmetic that recipes use, so that one override changes all that follows from it. `${.key}` is a key beside,
`${..key}` one level up, `${train.max_iter}` from the top."""


def _resolver(name: str, resolve: Callable) -> str:
    """One line of the list; Python's own functions are said here."""
    own = resolve.__module__.startswith("dinov2_detrex")
    said = first_sentence(resolve.__doc__ or "") if own else f"`${{d2d.{name}:[...]}}`: how many items a list has."
    return f"- {said}"


_DATA = f"""\
Of the recipe `{CUSTOM}` alone: where your own data are. Classes, their number and the length of an epoch follow from
them."""
_IMAGE = "From these lengths those of the augmentations below follow."


# --------------------------------------------------------------------------------------------------- typed sections


def _section_tables(section: type[Section], key: str) -> Iterator[str]:
    """A table of the section's own options, then those of the sections inside it."""
    said = said_of_fields(section)
    inner = {}
    rows = []
    for declared in declared_options(section):
        kind = option_kinds(section, declared.name)[0][0]
        if is_section(kind):
            inner[f"{key}.{declared.name}"] = kind
            continue
        default = OmegaConf.structured(section)._get_node(declared.name)._value()
        text = " ".join(said[declared.name].split())
        rows.append([code(declared.name), expected(section, declared.name), _yaml(default), text])
    if rows:
        yield table(["key", "takes", "default", "effect"], rows)
    for inner_key, kind in inner.items():
        yield f"### {inner_key}"
        yield first_sentence(kind.__doc__ or "")
        yield from _section_tables(kind, inner_key)


def _yaml(value: Any) -> str:
    """A value as a recipe's override would write it."""
    if isinstance(value, bool):
        return code(str(value).lower())
    if value is None:
        return "`null`"
    if isinstance(value, list | tuple | ListConfig):
        return code(f"[{', '.join(map(str, value))}]")
    if isinstance(value, dict | DictConfig):
        return code(", ".join(f"{name}: {inner}" for name, inner in value.items()))
    return code(str(getattr(value, "value", value))) or "`''`"


def _plain_table(node: DictConfig, key: str, effects: dict[str, str]) -> str:
    leaves = list(_leaves(node, key))
    rows = [[code(full.removeprefix(f"{key}.")), KINDS[full], _yaml(value), effects[full]] for full, value in leaves]
    return table(["key", "takes", "default", "effect"], rows)


def _leaves(node: DictConfig, key: str) -> Iterator[tuple[str, Any]]:
    for name in node:
        value = _raw(node, str(name))
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{key}.{name}")
        else:
            yield f"{key}.{name}", value


def _raw(node: DictConfig, name: str) -> Any:
    """The value of a key, an interpolation as its text."""
    inner: Any = node._get_node(name)
    return inner if isinstance(inner, DictConfig | ListConfig) and not inner._is_interpolation() else inner._value()


# ------------------------------------------------------------------------------------------------------------ calls


def _call_tables(node: DictConfig, key: str, level: int, of: str = "") -> Iterator[str]:
    """A table of the arguments of what `node` calls, then those of the calls among its arguments."""
    target = node["_target_"]
    called = locate(target) if isinstance(target, str) else target
    yield f"{'#' * level} {key}{of}"
    yield f"Calls `{_name(called)}`."
    inner: dict[str, DictConfig] = {}
    rows = []
    for name, parameter in _parameters(called).items():
        value = _raw(node, name) if name in node else inspect.Parameter.empty
        nested = dict(_calls_in(value, f"{key}.{name}"))
        inner |= nested
        shown = "see below" if nested else _set(value)
        takes, default, said = _takes(key, name, parameter), _default(parameter), effect_of(called, name)
        rows.append([code(name), takes, shown, default, said])
    if rows:
        yield table(["key", "takes", "the recipe", "without", "effect"], rows)
    for inner_key, inner_node in inner.items():
        yield from _call_tables(inner_node, inner_key, min(level + 1, 4))


def _calls_in(value: Any, key: str) -> Iterator[tuple[str, DictConfig]]:
    """The calls that a value is, or that a list holds."""
    if isinstance(value, DictConfig) and "_target_" in value:
        yield key, value
    elif isinstance(value, ListConfig):
        for index in range(len(value)):
            yield from _calls_in(value._get_node(index), f"{key}.{index}")


def _name(called: Any) -> str:
    module = called.__module__
    home = module if not module.startswith("dinov2_detrex") else ".".join(module.split(".")[:2])
    return f"{home}.{called.__qualname__}"


def _parameters(called: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(called).parameters
    ignored = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: parameter for name, parameter in found.items() if parameter.kind not in ignored}


def _takes(key: str, name: str, parameter: inspect.Parameter) -> str:
    """The range that the config is checked for, else the annotated type."""
    if name in ARGUMENTS.get(key, {}):
        return str(ARGUMENTS[key][name])
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return KINDS.get(name, "")
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return code(re.sub(r"\b[a-z_]\w*\.(?=[\w.])", "", text))  # names without their modules


def _set(value: Any) -> str:
    return "" if value is inspect.Parameter.empty else _yaml(value)


def _default(parameter: inspect.Parameter) -> str:
    return "needed" if parameter.default is inspect.Parameter.empty else _yaml(parameter.default)


def effect_of(called: Any, name: str) -> str:
    """What an argument of a callable does: by this project's docstrings, else by `effects`; "" where nobody says."""
    own = arguments_of(called) | arguments_of(called.__init__) if called.__module__.split(".")[0] != "torch" else {}
    text = effect_here(called.__qualname__, name) or own.get(name) or effect_elsewhere(name)
    return text[:1].upper() + text[1:]
