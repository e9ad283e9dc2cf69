"""Lazy configs: calls written down now and made later, in files that import each other, are overridden and saved."""

import builtins
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigIndexError, InterpolationKeyError, ValidationError
from torch import nn


def write(folder: Path, **files: str) -> None:
    """write(folder, a="text", sub__b="text") makes a.py and sub/b.py."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def keep(**kwargs):
    """A target that shows what it was called with."""
    return kwargs


class Explosive:
    def __init__(self):
        raise AssertionError("this was only to be written down")


# --- LazyCall ---------------------------------------------------------------------------------------------------


def test_a_call_is_written_down_and_made_later():
    L(Explosive)()
    cfg = L(nn.Linear)(in_features=3, out_features="${.in_features}", bias=False)
    assert list(cfg.keys()) == ["in_features", "out_features", "bias", "_target_"]
    cfg.in_features = 5
    linear = instantiate(cfg)
    assert linear.weight.shape == (5, 5) and linear.bias is None


@pytest.mark.parametrize("target", [3, None, [nn.Linear]])
def test_only_callables_paths_and_configs_are_targets(target):
    with pytest.raises(TypeError):
        L(target)


def test_a_path_and_a_config_of_a_callable_are_targets():
    assert instantiate(L("collections.OrderedDict")(b=1)) == {"b": 1}
    assert instantiate(L(L(_maker)(factor=3))(value=7)) == 21


def _maker(factor):
    return lambda value: factor * value


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        L(nn.Linear)(3, 4)


def test_a_dataclass_target_is_stored_by_its_shortest_name():
    cfg = L(ShapeSpec)(channels=4)
    assert cfg._target_ == "detectron2.layers.ShapeSpec"
    assert instantiate(cfg) == ShapeSpec(channels=4)


@pytest.mark.fallback("detectron2")
def test_the_builtin_dict_is_a_target():
    assert instantiate(L(dict)(a=1, b=L(dict)(c=2))) == {"a": 1, "b": {"c": 2}}


def test_objects_keep_their_identity_and_sequences_become_list_configs():
    tensor, module, function = torch.ones(2), nn.ReLU(), lambda: 1
    cfg = L(keep)(a=tensor, b=module, c=function, d=(1, 2), e={"x": 1}, f=nn.Linear, g=Path("x"), h=b"y")
    assert cfg.a is tensor and cfg.b is module and cfg.c is function and cfg.f is nn.Linear
    assert isinstance(cfg.d, ListConfig) and isinstance(cfg.e, DictConfig)
    got = instantiate(cfg)
    assert got["a"] is tensor and got["c"] is function and list(got["d"]) == [1, 2] and got["e"].x == 1
    assert got["g"] == Path("x") and got["h"] == b"y"


def test_a_dataclass_argument_reaches_the_callable_as_an_instance():
    cfg = L(keep)(spec=ShapeSpec(channels=3), specs={"p3": ShapeSpec(channels=8)})
    assert cfg.spec.channels == 3
    got = instantiate(cfg)
    assert got["spec"] == ShapeSpec(channels=3) and isinstance(got["spec"], ShapeSpec)
    assert got["specs"]["p3"].channels == 8


def test_assigning_a_config_copies_it_and_ties_it_to_the_new_root():
    inner = L(keep)(size="${..size}")
    root = L(keep)(size=1, inner=None)
    root.inner = inner
    root.size = 9
    inner.extra = 1
    assert root.inner.size == 9 and "extra" not in root.inner
    with pytest.raises(InterpolationKeyError):
        _ = L(keep)(x="${nothing}").x
    with pytest.raises(ConfigAttributeError):
        _ = root.nothing


# --- instantiate ------------------------------------------------------------------------------------------------


def test_arguments_are_built_first_and_never_shared():
    shared = L(nn.Linear)(in_features=2, out_features=2)
    cfg = L(nn.Sequential)()
    pair = instantiate(L(keep)(a=shared, b=shared, items=[shared, 3]))
    assert pair["a"] is not pair["b"]
    assert isinstance(pair["items"][0], nn.Linear) and pair["items"][1] == 3
    assert isinstance(instantiate(cfg), nn.Sequential)


def test_a_mapping_without_target_is_returned_unchanged_and_not_searched():
    cfg = OmegaConf.create({"x": {"_target_": "collections.OrderedDict"}})
    assert instantiate(cfg) is cfg
    assert instantiate(L(keep)(d={"x": L(keep)()}))["d"].x == {"_target_": keep}
    for value in (None, "text", (1, 2), nn.ReLU):
        assert instantiate(value) is value


def test_the_config_is_not_modified():
    cfg = L(keep)(a=L(keep)(b=[1, L(keep)()]), c="${.a.b}")
    before = OmegaConf.to_container(cfg, resolve=False)
    instantiate(cfg)
    assert OmegaConf.to_container(cfg, resolve=False) == before


def test_plain_containers_work_as_well():
    cfg = L(keep)(spec=ShapeSpec(channels=3), items=[L(nn.ReLU)()], deep=L(keep)(x=1))
    got = instantiate(OmegaConf.to_object(cfg))
    assert got["spec"] == ShapeSpec(channels=3) and got["deep"] == {"x": 1}
    assert isinstance(got["items"], list) and isinstance(got["items"][0], nn.ReLU)


@pytest.mark.fallback("detectron2")
def test_list_arguments_arrive_as_plain_lists_so_that_optimizer_states_hold_plain_types():
    parameters = [nn.Parameter(torch.zeros(1))]
    optimizer = instantiate(L(torch.optim.AdamW)(params=parameters, lr=0.1, betas=(0.9, 0.99)))
    assert not isinstance(optimizer.param_groups[0]["betas"], ListConfig)
    assert type(instantiate(L(keep)(x=[[1], [2]]))["x"][0]) is list


def test_errors_name_the_target(logged):
    messages = logged("detectron2.config.instantiate")
    with pytest.raises(TypeError):
        instantiate(L(nn.Linear)(no_such_argument=1))
    assert "torch.nn" in messages[-1] and "Linear" in messages[-1]
    with pytest.raises(ImportError, match="no.such.thing"):
        instantiate(L("no.such.thing")())
    with pytest.raises(AssertionError):
        instantiate(L("math.pi")())
    with pytest.raises(ZeroDivisionError):
        instantiate(L(_divide_by_zero)())


def _divide_by_zero():
    return 1 / 0


# --- files ------------------------------------------------------------------------------------------------------


def test_loading_keeps_the_public_configs_only(tmp_path):
    write(tmp_path, a="x = dict(b=1)\n_y = {}\nz = [1]\nn = 3\ndef f(): pass\nimport os\nname = __name__\n")
    cfg = LazyConfig.load(str(tmp_path / "a.py"))
    assert cfg == {"x": {"b": 1}} and isinstance(cfg.x, DictConfig)
    assert LazyConfig.load(str(tmp_path / "a.py"), "n") == 3
    y, z = LazyConfig.load(str(tmp_path / "a.py"), ("_y", "z"))
    assert isinstance(y, DictConfig) and z == [1]
    assert LazyConfig.load(str(tmp_path / "a.py"), "name") == "builtins"
    with pytest.raises(KeyError):
        LazyConfig.load(str(tmp_path / "a.py"), "nothing")


def test_yaml_is_loaded_unfiltered(tmp_path):
    (tmp_path / "a.yaml").write_text("_x: 1\ny: [1, 2]\nz: ${_x}\n")
    cfg = LazyConfig.load(str(tmp_path / "a.yaml"))
    assert cfg._x == 1 and cfg.y == [1, 2] and cfg.z == 1
    (tmp_path / "b.yml").write_text("- 1\n- {a: 2}\n")
    assert isinstance(LazyConfig.load(str(tmp_path / "b.yml")), ListConfig)


def test_unusable_names_fail(tmp_path):
    with pytest.raises(FileNotFoundError):
        LazyConfig.load(str(tmp_path / "missing.py"))
    with pytest.raises(ValueError):
        LazyConfig.load(str(tmp_path / "a.json"))
    with pytest.raises(ValueError):
        LazyConfig.load("")


@pytest.mark.fallback("detectron2")
def test_an_empty_name_points_to_the_flag_and_paths_are_accepted(tmp_path):
    with pytest.raises(ValueError, match="--config-file"):
        LazyConfig.load("")
    write(tmp_path, a="x = dict(b=1)")
    assert LazyConfig.load(tmp_path / "a.py").x.b == 1


def test_a_syntax_error_names_the_file(tmp_path):
    write(tmp_path, a="x = (1,\n")
    with pytest.raises(SyntaxError, match="a.py"):
        LazyConfig.load(str(tmp_path / "a.py"))


def test_relative_imports_go_by_the_position_of_files(tmp_path):
    write(
        tmp_path,
        base="train = dict(steps=1)\ndef double(x): return 2 * x\n",
        models__dino="from ..base import train, double\nmodel = dict(steps=double(train.steps))",
        recipes__coco__a="from ...models.dino import model\nfrom .b import lr\nfrom ...base import train\n",
        recipes__coco__b="import math\nlr = dict(value=math.pi)",
    )
    cfg = LazyConfig.load(str(tmp_path / "recipes" / "coco" / "a.py"))
    assert cfg == {"model": {"steps": 2}, "lr": {"value": math.pi}, "train": {"steps": 1}}


def test_two_imports_of_a_file_are_independent(tmp_path):
    write(
        tmp_path,
        base="train = dict(steps=1)",
        a="from .base import train as one\nfrom .base import train as two\none.steps = 5",
    )
    assert LazyConfig.load(str(tmp_path / "a.py")) == {"one": {"steps": 5}, "two": {"steps": 1}}


def test_load_rel_is_relative_to_the_calling_file(tmp_path):
    write(
        tmp_path,
        a="from detectron2.config import LazyConfig\nother = LazyConfig.load_rel('sub/b.py')",
        sub__b="from .c import x",
        sub__c="x = dict(v=1)",
    )
    assert LazyConfig.load(str(tmp_path / "a.py")).other.x.v == 1


def test_wrong_relative_imports_fail_as_imports(tmp_path):
    (tmp_path / "folder").mkdir()
    for i, statement in enumerate(("from . import x", "from .folder import x", "from .missing import x")):
        write(tmp_path, **{f"a{i}": statement})
        with pytest.raises(ImportError):
            LazyConfig.load(str(tmp_path / f"a{i}.py"))
    with pytest.raises(ImportError, match="a2.py.*missing.py"):
        LazyConfig.load(str(tmp_path / "a2.py"))


def test_imports_are_as_before_after_loading(tmp_path):
    usual = builtins.__import__
    write(tmp_path, a="x = dict(a=1)")
    LazyConfig.load(str(tmp_path / "a.py"))
    assert builtins.__import__ is usual


@pytest.mark.fallback("detectron2")
def test_imports_are_as_before_after_a_config_that_raises(tmp_path):
    usual = builtins.__import__
    write(tmp_path, a="from .b import x", b="raise RuntimeError('inside')")
    with pytest.raises(RuntimeError, match="inside"):
        LazyConfig.load(str(tmp_path / "a.py"))
    assert builtins.__import__ is usual


@pytest.mark.fallback("detectron2")
def test_a_missing_name_is_an_import_error_that_names_it(tmp_path):
    write(tmp_path, a="from .b import nothing", b="x = dict()")
    with pytest.raises(ImportError, match="nothing.*b.py"):
        LazyConfig.load(str(tmp_path / "a.py"))


@pytest.mark.fallback("detectron2")
def test_a_star_imports_the_public_names(tmp_path):
    write(tmp_path, a="from .b import *", b="x = dict(v=1)\n_hidden = dict(v=2)")
    assert LazyConfig.load(str(tmp_path / "a.py")) == {"x": {"v": 1}}


@pytest.mark.fallback("detectron2")
def test_a_cycle_is_an_import_error_that_shows_it(tmp_path):
    write(tmp_path, a="from .b import x", b="from .c import x", c="from .b import x")
    with pytest.raises(ImportError, match=r"b\.py -> .*c\.py -> .*b\.py"):
        LazyConfig.load(str(tmp_path / "a.py"))
    write(tmp_path, b="x = dict(v=1)")
    assert LazyConfig.load(str(tmp_path / "a.py")).x.v == 1  # the failure leaves nothing behind


# --- overrides --------------------------------------------------------------------------------------------------


def config_to_override() -> DictConfig:
    return OmegaConf.create(
        {
            "a": {"b": 1, "n": None, "c": {"d": [1, 2], "e": "${a.b}"}},
            "l": [{"x": 1}, {"x": 2}],
            "m": L(nn.Conv2d)(in_channels=1, out_channels=2, kernel_size=3),
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("a.b=2", "a.b", 2),
        ("a.b=1e-4", "a.b", 1e-4),
        ("a.b=true", "a.b", True),
        ("a.b=null", "a.b", None),
        ("a.b=1_000", "a.b", 1000),
        ("a.b=inf", "a.b", math.inf),
        ("a.b=07", "a.b", "07"),
        ("a.b=None", "a.b", "None"),
        ("a.b=text", "a.b", "text"),
        ("a.b=/x/y.pth", "a.b", "/x/y.pth"),
        ("a.b=detectron2://x/y.pkl", "a.b", "detectron2://x/y.pkl"),
        ("a.b=two words", "a.b", "two words"),
        ("a.b='2'", "a.b", "2"),
        ('a.b="quoted"', "a.b", "quoted"),
        ("a.b=", "a.b", ""),
        ("a.c.d=[1,2,3]", "a.c.d", [1, 2, 3]),
        ("a.c.d.0=7", "a.c.d", [7, 2]),
        ("l.1.x=9", "l", [{"x": 1}, {"x": 9}]),
        ("a.c={q:1}", "a.c", {"d": [1, 2], "e": 1, "q": 1}),
        ("a.b=${l.0.x}", "a.b", 1),
        ("m._target_=torch.nn.Conv1d", "m._target_", "torch.nn.Conv1d"),
        ("m={kernel_size:9}", "m.kernel_size", 9),
        ("+x=1", "x", 1),
        ("++x=1", "x", 1),
        ("+a.z=3", "a.z", 3),
        ("new.sub.key=1", "new", {"sub": {"key": 1}}),
        ("a.n.deep=1", "a.n.deep", 1),
        ("a@b=3", "a", 3),
        ("a/b=3", "a/b", 3),
    ],
)
def test_an_override_sets_a_typed_value(override, key, value):
    cfg = config_to_override()
    assert LazyConfig.apply_overrides(cfg, [override]) is cfg
    got = OmegaConf.select(cfg, key)
    assert got == value and isinstance(got, bool) == isinstance(value, bool)


def test_a_dict_is_merged_and_the_callable_stays():
    cfg = LazyConfig.apply_overrides(config_to_override(), ["m={kernel_size:9}", "m.kernel_size=[1,3]"])
    assert cfg.m._target_ is nn.Conv2d and instantiate(cfg.m).kernel_size[1] == 3


def test_the_last_override_wins_and_interpolations_follow():
    cfg = LazyConfig.apply_overrides(config_to_override(), ["a.b=2", "a.b=5"])
    assert cfg.a.c.e == 5


@pytest.mark.parametrize(
    "override, error",
    [
        ("~a.b", NotImplementedError),
        ("a.b.c=1", KeyError),
        ("a.c.d.9=1", ConfigIndexError),
        ("l.7.x=1", ConfigIndexError),
        ("a.b=1,2", ValidationError),
        ("a.b=choice(1,2)", ValidationError),
    ],
)
def test_an_override_that_cannot_be_meant_fails(override, error):
    with pytest.raises(error):
        LazyConfig.apply_overrides(config_to_override(), [override])


@pytest.mark.parametrize("override", ["a.b", "a.b = 3", "a=b=c", "a.b=(1,2)", "a[0]=1", "--flag", ""])
def test_what_is_no_override_is_a_parse_error(override):
    from hydra.errors import OverrideParseException

    with pytest.raises(OverrideParseException):
        LazyConfig.apply_overrides(config_to_override(), [override])


def test_only_configs_are_overridden():
    with pytest.raises(AssertionError):
        LazyConfig.apply_overrides({"a": 1}, ["a=2"])


@pytest.mark.fallback("detectron2")
def test_a_misspelt_key_is_created_with_a_warning_that_names_the_closest(logged):
    cfg = OmegaConf.create({"train": {"max_iter": 1, "seed": 2}})
    messages = logged("detectron2.config.overrides")
    LazyConfig.apply_overrides(cfg, ["train.max_itr=5", "+train.wholly_new=1", "train.seed=3"])
    assert cfg.train.max_itr == 5 and cfg.train.wholly_new == 1
    assert len(messages) == 1 and "train.max_iter?" in messages[0]


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize("override", ["a.b=range(1,3)", "a.b=interval(0,1)", "a.b=glob(*)", "a.b=1,2"])
def test_sweeps_are_refused_with_the_way_to_write_a_list(override):
    with pytest.raises(ValueError, match=r"\[1,2\]"):
        LazyConfig.apply_overrides(config_to_override(), [override])


@pytest.mark.fallback("detectron2")
def test_a_flag_among_overrides_says_that_flags_come_first():
    with pytest.raises(Exception, match="flags must precede"):
        LazyConfig.apply_overrides(config_to_override(), ["a.b=1", "--resume"])


# --- saving -----------------------------------------------------------------------------------------------------


def config_to_save() -> DictConfig:
    from detectron2.solver import get_default_optimizer_params

    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.model = L(nn.Conv2d)(in_channels="${.out_channels}", out_channels=6, kernel_size=(3, 5))
    cfg.neck = L(keep)(spec=ShapeSpec(channels=3), specs={"p3": ShapeSpec(channels=8, stride=8)})
    cfg.neck._target_ = "collections.OrderedDict"
    cfg.optimizer = L(torch.optim.AdamW)(params=L(get_default_optimizer_params)(base_lr="${..lr}"), lr=1e-4)
    cfg.optimizer.params.lr_factor_func = get_default_optimizer_params  # any importable function, by name
    cfg.nothing, cfg.text, cfg.numbers, cfg.small = None, "ü: {}", [1, 2.5, True], 1e-7
    return cfg


def test_a_saved_config_loads_again_and_is_the_same(tmp_path):
    cfg = config_to_save()
    LazyConfig.save(cfg, str(tmp_path / "a.yaml"))
    assert not (tmp_path / "a.yaml.pkl").exists()
    again = LazyConfig.load(str(tmp_path / "a.yaml"))
    assert again.model._target_ == "torch.nn.Conv2d"
    assert instantiate(again.model).weight.shape == instantiate(cfg.model).weight.shape == (6, 6, 3, 5)
    assert instantiate(again.neck)["spec"] == ShapeSpec(channels=3)
    assert again.neck.specs.p3.stride == 8
    assert again.optimizer.params.lr_factor_func is cfg.optimizer.params.lr_factor_func
    assert (again.text, again.small, list(again.numbers)) == (cfg.text, cfg.small, [1, 2.5, True])
    again.model.out_channels = 2
    assert again.model.in_channels == 2  # the interpolation was saved, not its value
    again.model.out_channels = 6
    LazyConfig.save(again, str(tmp_path / "b.yaml"))
    assert (tmp_path / "a.yaml").read_text() == (tmp_path / "b.yaml").read_text()
    assert cfg.model._target_ is nn.Conv2d  # saving changed nothing


@pytest.mark.fallback("detectron2")
def test_a_value_that_stands_twice_is_written_twice(tmp_path):
    spec, file = ShapeSpec(channels=3), tmp_path / "a.yaml"
    cfg = OmegaConf.create(flags={"allow_objects": True})
    values = dict(f=nn.functional.relu, g=nn.functional.relu, path=[file, file], size=(3, 5))
    cfg.x = L(keep)(**values, specs={"a": spec, "b": spec})
    cfg.x._target_ = "builtins.dict"
    LazyConfig.save(cfg, str(file))
    assert "&id" not in file.read_text()
    assert LazyConfig.load(str(file)) == cfg


@pytest.mark.fallback("detectron2")
def test_a_config_reads_as_python():
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.train = {"steps": "${train.batch}", "batch": 2, "name": "a"}
    cfg.model = L(nn.Linear)(out_features=3, in_features="${train.batch}", bias=None, extra={"x": [1, 2.5]})
    assert LazyConfig.to_py(cfg).splitlines() == [
        "cfg.model = torch.nn.Linear(bias=None, extra={'x': [1, 2.5]}, in_features=2, out_features=3)",
        "cfg.train.batch = 2",
        "cfg.train.name = 'a'",
        "cfg.train.steps = 2",
    ]
    assert LazyConfig.to_py(cfg.train, prefix="t.").startswith("t.batch = 2")


def test_a_config_with_a_lambda_is_also_pickled(tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.x = L(keep)(f=lambda v: v + 1)
    LazyConfig.save(cfg, str(tmp_path / "a.yaml"))
    assert "x:" in (tmp_path / "a.yaml").read_text()
    assert cloudpickle.loads((tmp_path / "a.yaml.pkl").read_bytes()).x.f(1) == 2


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir ['%s']", "!!python/object:os.mkdir {path: '%s'}"])
def test_a_yaml_file_constructs_nothing_but_what_save_writes(tmp_path, tag):
    import yaml

    (tmp_path / "a.yaml").write_text("x: " + tag.replace("%s", str(tmp_path / "made")))
    with pytest.raises(yaml.YAMLError):
        LazyConfig.load(str(tmp_path / "a.yaml"))
    assert not (tmp_path / "made").exists()
