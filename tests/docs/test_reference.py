"""The generated reference leaves nothing out: every key, command, flag, recipe and public name."""

import argparse

import api_pages
import command_line
import config_keys
import pytest
import recipe_list

from dinov2_detrex.config.recipes import named_recipes
from dinov2_detrex.config.refusals import SECTIONS
from dinov2_detrex.config.schema import dotted_keys


def rows(page: str) -> list[list[str]]:
    """The cells of every row of every table, heads apart."""
    found = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if line[:1] == "|"]
    return [cells for cells in found if cells[0].startswith("`")]


@pytest.fixture(scope="module")
def config_page():
    return config_keys.page()


@pytest.mark.fallback("detectron2", "detrex")  # whose own docstrings the page does not read
def test_every_key_says_its_type_and_its_effect(config_page):
    silent = [line for line in config_page.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    silent += [cells[0] for cells in rows(config_page) if len(cells) > 1 and not cells[1]]
    assert silent == []


@pytest.mark.parametrize("name", SECTIONS)
def test_every_typed_option_is_listed(config_page, name):
    listed, heading = set(), ""
    for line in config_page.splitlines():
        heading = line.split()[1] if line.startswith("##") else heading
        listed |= {heading, f"{heading}.{line.split('`')[1]}"} if line.startswith("| `") else set()
    assert set(dotted_keys(SECTIONS[name], name)) <= listed


def test_every_command_and_flag_is_listed():
    page = command_line.page()
    for name, module in command_line.commands():
        assert f"## dinov2-detrex {name}\n" in page
        assert [flag for flag in flags_of(name, module) if flag not in page] == []


def flags_of(name, module) -> list[str]:
    """The flags that the help shows."""
    shown = [a for a in command_line.parser_of(name, module)._actions if a.help != argparse.SUPPRESS]
    return [flag for action in shown for flag in action.option_strings]


def test_every_recipe_is_listed():
    page = recipe_list.page()
    assert all(f"## {name}\n" in page for name in named_recipes())


@pytest.mark.parametrize("name", api_pages.FACES)
def test_every_public_name_of_a_package_has_its_directive(name):
    page = api_pages.page(name)
    assert ".. auto" in page
