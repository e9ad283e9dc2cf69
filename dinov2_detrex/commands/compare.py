"""Train recipes with the same seeds and tell the mean difference of their AP, with its 95 % interval.

    dinov2-detrex compare dino_dinov2_tiny_shapes dino_dinov2_tiny_shapes --with-b optimizer.lr=2e-3 --seeds 0..4
    dinov2-detrex compare RECIPE RECIPE schedule.epochs=1 --with-b model.criterion.loss_class_type=mal_loss
    dinov2-detrex compare RECIPE --option weight model.criterion.weight_dict.loss_class=2.0 --option other RECIPE

Two recipes are compared with each other; one recipe with each `--option`: overrides, another recipe, or both. Words
with "=" before them change all configs. The same command goes on where it was interrupted, and more seeds or options
add runs to the ones that are there. `comparison.md`, `comparison.json` and `comparison.png` are written into the
output folder, beside the runs. Fix the seeds and the length before looking: choosing them by the result makes the
interval a lie, and of many options the best looks better than it is: judge it anew with other seeds.
"""

import re

from dinov2_detrex.cli import AT_LEAST_1, OVERRIDE, split_words
from dinov2_detrex.runtime.errors import UsageError

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?", re.ASCII)
_NAME = re.compile(r"[\w-]+")  # of an option; it becomes that of a folder


def add_arguments(parser):
    parser.add_argument("words", nargs="+", metavar="RECIPE|key=value", help="A and B, and changes to both; or A alone")
    parser.add_argument("--seeds", nargs="+", default=["0..2"], metavar="N", help="0 3 or 0..4 (default: 0..2)")
    parser.add_argument("--with-a", nargs="+", default=[], metavar="key=value", help="changes to A alone")
    parser.add_argument("--with-b", nargs="+", default=[], metavar="key=value", help="changes to B alone")
    parser.add_argument(
        "--option",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "RECIPE|key=value"),
        help="A with these changes, or another recipe; may be given many times",
    )
    parser.add_argument("--at-once", type=AT_LEAST_1, default=1, metavar="N", help="runs side by side (default: 1)")
    parser.add_argument("--output-dir", default="output/compare", metavar="DIR", help="of all runs")


def run(args):
    recipes, overrides = split_words(args.words, _is_recipe)
    sides = _options(recipes, overrides, args) if args.option else _two(recipes, overrides, args)
    seeds = _seeds(args.seeds)

    import logging
    from pathlib import Path

    from dinov2_detrex.analysis.comparing import Side, compare, table, table_of_options
    from dinov2_detrex.analysis.comparison_figure import draw, draw_gains
    from dinov2_detrex.config.loading import load
    from dinov2_detrex.runtime.files import write_json, write_text

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(args.output_dir)
    for _, recipe, changes in sides:
        load(recipe, list(changes))  # a mistake is found before anything trains
    results = compare([Side(*side) for side in sides], seeds, folder, args.at_once)
    text = table_of_options(results) if args.option else table(results)
    print(text)
    write_text(folder / "comparison.md", text + "\n")
    runs = {side: {seed: vars(result) for seed, result in of.items()} for side, of in results.items()}
    write_json(folder / "comparison.json", runs, indent=1)
    if args.option:
        draw_gains(results, folder / "comparison.png")
    else:
        draw(results, {name: Path(recipe).stem for name, recipe, _ in sides}, folder / "comparison.png")
    print(f"comparison.md, comparison.json and comparison.png are in {folder}")


def _is_recipe(word: str) -> bool:
    return not OVERRIDE.match(word)


def _two(recipes: list[str], overrides: list[str], args) -> list[tuple[str, str, list[str]]]:
    """(name, recipe, overrides) of A and B."""
    if len(recipes) != 2:
        found = " ".join(recipes) or "none was given"
        raise UsageError(f"two recipes are compared, or one with each --option, not {len(recipes)}: {found}")
    return [("a", recipes[0], [*overrides, *args.with_a]), ("b", recipes[1], [*overrides, *args.with_b])]


def _options(recipes: list[str], overrides: list[str], args) -> list[tuple[str, str, list[str]]]:
    """(name, recipe, overrides) of the reference, "a", and of every option."""
    if len(recipes) != 1 or args.with_a or args.with_b:
        raise UsageError("--option changes one recipe: give one, and no --with-a or --with-b")
    sides = [("a", recipes[0], overrides)]
    for name, *words in args.option:
        others, changes = split_words(words, _is_recipe)
        if not _NAME.fullmatch(name) or len(others) > 1 or not words:
            raise UsageError(
                f"--option {' '.join([name, *words])}: expected is a name (letters, digits, _ and -), then changes"
            )
        if name in (taken := [side[0] for side in sides]):
            raise UsageError(f"--option {name}: the names {', '.join(taken)} are taken")
        sides.append((name, (others or recipes)[0], [*overrides, *changes]))
    return sides


def _seeds(texts: list[str]) -> list[int]:
    """0 1 2 of "0..2", in ascending order; a UsageError for what is no seed."""
    seeds = set[int]()
    for text in texts:
        found = _RANGE.fullmatch(text)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise UsageError(f"--seeds {text}: expected is a whole number, or a range as 0..4")
        seeds |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    return sorted(seeds)
