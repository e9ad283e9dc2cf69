"""Train two recipes with the same seeds and tell the mean difference of their AP, with its 95 % interval.

    dinov2-detrex compare dino_dinov2_tiny_shapes dino_dinov2_tiny_shapes --with-b optimizer.lr=2e-3 --seeds 0..4
    dinov2-detrex compare RECIPE RECIPE schedule.epochs=1 --with-b model.criterion.loss_class_type=mal_loss

Words with "=" change both configs. The same command goes on where it was interrupted, and more seeds add pairs to the
ones that are there. `comparison.md`, `comparison.json` and `comparison.png` are written into the output folder, beside
the runs. Fix the seeds and the length before looking: choosing them by the result makes the interval a lie.
"""

import re

from dinov2_detrex.cli import OVERRIDE, split_words
from dinov2_detrex.runtime.errors import UsageError

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?", re.ASCII)


def add_arguments(parser):
    parser.add_argument("words", nargs="+", metavar="RECIPE|key=value", help="A and B, and changes to both")
    parser.add_argument("--seeds", nargs="+", default=["0..2"], metavar="N", help="0 3 or 0..4 (default: 0..2)")
    parser.add_argument("--with-a", nargs="+", default=[], metavar="key=value", help="changes to A alone")
    parser.add_argument("--with-b", nargs="+", default=[], metavar="key=value", help="changes to B alone")
    parser.add_argument("--output-dir", default="output/compare", metavar="DIR", help="of all runs")


def run(args):
    recipes, overrides = split_words(args.words, lambda word: not OVERRIDE.match(word))
    seeds = _seeds(args.seeds)
    if len(recipes) != 2:
        raise UsageError(f"two recipes are compared, not {len(recipes)}: {' '.join(recipes) or 'none was given'}")

    import logging
    from pathlib import Path

    from dinov2_detrex.analysis.comparing import Side, compare, table
    from dinov2_detrex.analysis.comparison_figure import draw
    from dinov2_detrex.config.loading import load
    from dinov2_detrex.runtime.files import write_json, write_text

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(args.output_dir)
    sides = [Side("a", recipes[0], [*overrides, *args.with_a]), Side("b", recipes[1], [*overrides, *args.with_b])]
    for side in sides:
        load(side.config_file, list(side.overrides))  # a mistake is found before anything trains
    results = compare(sides, seeds, folder)
    text = table(results)
    print(text)
    write_text(folder / "comparison.md", text + "\n")
    runs = {side: {seed: vars(result) for seed, result in of.items()} for side, of in results.items()}
    write_json(folder / "comparison.json", runs, indent=1)
    draw(results, {side.name: Path(side.config_file).stem for side in sides}, folder / "comparison.png")
    print(f"comparison.md, comparison.json and comparison.png are in {folder}")


def _seeds(texts: list[str]) -> list[int]:
    """0 1 2 of "0..2", in ascending order; a UsageError for what is no seed."""
    seeds = set[int]()
    for text in texts:
        found = _RANGE.fullmatch(text)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise UsageError(f"--seeds {text}: expected is a whole number, or a range as 0..4")
        seeds |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    return sorted(seeds)
