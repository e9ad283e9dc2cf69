"""Which weights of one detector mean the same in another? By name, and row by row where rows stand for something.

A row of a class head stands for a class, which has a name; a row of the learnt queries for the rank of the cell that a
query starts from; a share of a deformable attention's rows for a level. There is a head for each decoder layer, and
the last one is for the encoder's proposals (Zhang et al. 2022, DINO), however many layers there are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dinov2_detrex.runtime.errors import UserError

State = Mapping[str, Tensor]

LEVEL_EMBEDS, QUERIES = "transformer.level_embeds", "transformer.tgt_embed.weight"
NOT_IN_FILE, OTHER_SHAPE, OTHER_NEIGHBOUR = "not in the file", "of another shape", "beside a weight that does not fit"
OTHER_LEVELS, OTHER_CLASSES, NEW_ROWS = "of other levels", "of other classes", "rows that the file has not"

_BY_LEVEL = re.compile(r"(^|\.)(sampling_offsets|attention_weights)\.(weight|bias)$")
_NECK = re.compile(r"^neck\.(convs|extra_convs)\.(\d+)\.")
_HEAD = re.compile(r"^((?:transformer\.decoder\.)?(?:class|bbox)_embed\.)(\d+)\.")
_UNIT = re.compile(r"^(.*\bsimfp_\d+|neck\.(?:convs|extra_convs)\.\d+)\.")  # layers that are of use together alone


@dataclass(frozen=True)
class Known:
    """What is known of the file and of the model beside their weights.

    Attributes:
        classes_in_file, classes: names by row; empty where they are not known, and rows then go by number.
        levels: for each level of the model the file's, -1 for none; empty where they go by number.
        class_dependent: names of the model's weights that have a row for each class.
    """

    classes_in_file: Sequence[str] = ()
    classes: Sequence[str] = ()
    levels: Sequence[int] = ()
    class_dependent: AbstractSet[str] = frozenset()

    @property
    def class_sources(self) -> list[int] | None:
        """For each class of the model its row in the file, -1 for none; None where rows go by number."""
        if not (self.classes_in_file and self.classes) or list(self.classes) == list(self.classes_in_file):
            return None
        return rows_by_name(self.classes, self.classes_in_file)


@dataclass(frozen=True)
class Fate:
    """What becomes of a weight of the model.

    Attributes:
        name: its shortest one, where it has several.
        value: its new value; None where it stays as it was built.
        why: what keeps it, or some of its rows, as built; "" where nothing does.
        detail: an example of that, in words.
        sources: its names in the file.
    """

    name: str
    value: Tensor | None
    why: str = ""
    detail: str = ""
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class Rows:
    """How rows of the file go to rows of the model.

    Both are `groups` x things x (rows of a thing), and behind these so many rows as are left over.

    Attributes:
        groups: how often the things come, e.g. heads of an attention.
        sources: for each thing of the model the file's, -1 for none.
        num_in_file: things in the file.
        per_thing: rows of a thing.
        why: what to say where some of the model's things have no source.
    """

    groups: int
    sources: Sequence[int]
    num_in_file: int
    per_thing: int
    why: str

    def taken(self, own: Tensor, given: Tensor) -> Tensor | None:
        """`own` with the rows of `given`; None where the two are not made of such rows."""
        body = self.groups * len(self.sources) * self.per_thing
        body_given = self.groups * self.num_in_file * self.per_thing
        left_over = len(own) - body, len(given) - body_given
        if own.shape[1:] != given.shape[1:] or left_over not in ((0, 0), (1, 1)):
            return None
        value, sources = own.clone(), torch.tensor(self.sources)
        shape = self.groups, -1, self.per_thing, *own.shape[1:]
        found = sources >= 0
        value[:body].view(shape)[:, found] = given[:body_given].view(shape)[:, sources[found]].to(own)
        value[body:] = given[body_given:].to(own)
        return value


def rows_by_name(names: Sequence[str], in_file: Sequence[str]) -> list[int]:
    """For each name its place in the file's, -1 for none.

    Equal names are the same; of the others those that differ in case, spaces, hyphens and underscores alone, where
    these are one on both sides.
    """
    exact, loose, loose_own = _places(in_file), _places(map(_loosely, in_file)), _places(map(_loosely, names))
    found = []
    for name in names:
        places = exact.get(name) or (loose.get(_loosely(name), []) if len(loose_own[_loosely(name)]) == 1 else [])
        found.append(places[0] if len(places) == 1 else -1)
    return found


def _loosely(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


def transfer(model: nn.Module, state: State, known: Known) -> list[Fate]:
    """What the weights of a file are for a model, which stays as it is.

    Args:
        model: its weights are given by their names.
        state: of the file, under the model's names as far as it has the same.
        known: what their rows stand for.

    Returns:
        one for each weight of the model; one that has several names is one weight.

    Raises:
        UserError: `known.levels` are not of the two, or `known.classes_in_file` are of another number than the file's.
    """
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    places = _Places(own, state, known)
    fates = [_fate(model, own[names[0]].detach(), names, state, places) for names in _names_of_each(own)]
    return list(_whole_units(fates))


def _names_of_each(own: State) -> list[list[str]]:
    """The names of every weight, the shortest first."""
    names: dict[int, list[str]] = {}
    for name, value in own.items():
        names.setdefault(id(value), []).append(name)
    return [sorted(group, key=len) for group in names.values()]


class _Places:
    """Where in the file what the model's names mean is.

    Args:
        own, state, known: see `transfer`.
    """

    def __init__(self, own: State, state: State, known: Known):
        self.known, self.class_sources = known, known.class_sources
        self.num_levels = tuple(len(each[LEVEL_EMBEDS]) if LEVEL_EMBEDS in each else 0 for each in (state, own))
        self.num_heads = tuple(_count(each, r"^class_embed\.(\d+)\.") for each in (state, own))
        self.num_convs = tuple(_count(each, r"^neck\.convs\.(\d+)\.") for each in (state, own))
        self._check_levels()
        self._check_classes(state)

    def _check_levels(self) -> None:
        levels, (in_file, in_model) = list(self.known.levels), self.num_levels
        if levels and (len(levels) != in_model or not all(-1 <= level < in_file for level in levels)):
            raise UserError(
                f"train.init_levels={levels} must name for each of the model's {in_model} levels one of the file's "
                f"{in_file}, counted from 0, or -1"
            )

    def _check_classes(self, state: State) -> None:
        named = len(self.known.classes_in_file)
        for name in sorted(self.known.class_dependent & state.keys()) if self.class_sources else ():
            rows = len(state[name])
            if rows not in (named, named + 1, 4 * named):
                raise UserError(f"its classes are said to be {named}, but {name} has {rows} rows")

    @property
    def levels_by_number(self) -> bool:
        """True where level i of the file is level i of the model, or one of the two has none."""
        return not self.known.levels and (0 in self.num_levels or self.num_levels[0] == self.num_levels[1])

    def source(self, name: str) -> str | None:
        """The file's name for what the model calls `name`, as far as it can have one; None for nothing."""
        if (head := _HEAD.match(name)) and self.num_heads[0] != self.num_heads[1]:
            return self._renumbered(name, head, self._head(int(head[2])))
        if (output := _NECK.match(name)) and not self.levels_by_number:
            level = int(output[2]) + (self.num_convs[1] if output[1] == "extra_convs" else 0)
            return self._neck_name(name[output.end() :], self.known.levels[level] if self.known.levels else -1)
        return name

    def _head(self, number: int) -> int:
        in_file, in_model = self.num_heads
        if number == in_model - 1:
            return in_file - 1
        return number if number < in_file - 1 else -1

    @staticmethod
    def _renumbered(name: str, head: re.Match, number: int) -> str | None:
        return None if number < 0 else f"{head[1]}{number}.{name[head.end() :]}"

    def _neck_name(self, rest: str, level: int) -> str | None:
        if level < 0:
            return None
        convs = self.num_convs[0]
        return f"neck.convs.{level}.{rest}" if level < convs else f"neck.extra_convs.{level - convs}.{rest}"

    def rows(self, model: nn.Module, name: str, own: Tensor, given: Tensor) -> Rows | str | None:
        """How the rows go, or why they cannot; None where they go one by one."""
        if name in self.known.class_dependent and self.class_sources is not None:
            per_thing = 4 if "bbox_pred" in name else 1
            return Rows(1, self.class_sources, len(self.known.classes_in_file), per_thing, OTHER_CLASSES)
        if name == QUERIES and len(own) != len(given):
            sources = [i if i < len(given) else -1 for i in range(len(own))]
            return Rows(1, sources, len(given), 1, NEW_ROWS)
        if (name == LEVEL_EMBEDS or _BY_LEVEL.search(name)) and not self.levels_by_number:
            if not self.known.levels:
                return OTHER_LEVELS
            groups = 1 if name == LEVEL_EMBEDS else _num_heads(model, name)
            per_thing = len(own) // (groups * len(self.known.levels))
            return Rows(groups, self.known.levels, self.num_levels[0], per_thing, OTHER_LEVELS)
        return None


def _count(state: State, numbered: str) -> int:
    """One more than the highest number in the names."""
    return max((int(match[1]) + 1 for name in state if (match := re.match(numbered, name))), default=0)


def _num_heads(model: nn.Module, name: str) -> int:
    """Of the attention that a weight of its linear layers belongs to."""
    attention = model.get_submodule(name.rsplit(".", 2)[0])
    return int(getattr(attention, "num_heads", 1))


def _fate(model: nn.Module, own: Tensor, names: Sequence[str], state: State, places: _Places) -> Fate:
    sources = [source for name in names if (source := places.source(name)) is not None and source in state]
    if not sources:
        neck_level = _NECK.match(names[0]) and not places.levels_by_number
        return Fate(names[0], None, OTHER_LEVELS if neck_level else NOT_IN_FILE)
    given, name = state[sources[0]], names[0]
    rows = next((found for each in names if (found := places.rows(model, each, own, given)) is not None), None)
    if isinstance(rows, str):
        return Fate(name, None, rows, sources=sources)
    if rows is not None and (value := rows.taken(own, given)) is not None:
        found = sum(row >= 0 for row in rows.sources)
        why, detail = ("", "") if found == len(rows.sources) else (rows.why, f"{found} of {len(rows.sources)} there")
        return Fate(name, value if found else None, why, detail, sources)
    if rows is None and given.shape == own.shape:
        return Fate(name, given, sources=sources)
    return Fate(name, None, OTHER_SHAPE, f"{tuple(given.shape)} in it, {tuple(own.shape)} in the model", sources)


def _whole_units(fates: Sequence[Fate]) -> Iterator[Fate]:
    """Nothing is taken of a module whose weight does not fit, nor of a branch of the neck or pyramid."""
    misfits = {_unit(fate.name) for fate in fates if fate.why == OTHER_SHAPE}
    for fate in fates:
        alone = fate.value is not None and _unit(fate.name) in misfits
        yield replace(fate, value=None, why=OTHER_NEIGHBOUR) if alone else fate


def _unit(name: str) -> str:
    found = _UNIT.match(name)
    if found:
        return found[1]
    owner, _, local = name.rpartition(".")
    return owner if local in ("weight", "bias") else name
