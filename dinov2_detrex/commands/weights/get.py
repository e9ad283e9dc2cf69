"""Download published weights by name, check them, keep them in the cache, and print where they lie.

examples:
  dinov2-detrex weights get dinov2_vits14_pretrain
  dinov2-detrex weights get dino_r50_4scale_12ep_49_2AP --to weights

What is there already is checked again. Another size or SHA-256 than the published one is refused; where none is
published, another than that of the first download.
"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("name", metavar="NAME", help="as in `dinov2-detrex weights list`")
    parser.add_argument("--to", metavar="FOLDER", help="put a copy into this folder as well")


def run(args):
    from dinov2_detrex.runtime.downloads import copy_to, fetch
    from dinov2_detrex.runtime.known_weights import find_known

    known = find_known(args.name)
    path = fetch(known, show=lambda line: print(line, flush=True))
    print(copy_to(known, Path(args.to)) if args.to else path)
