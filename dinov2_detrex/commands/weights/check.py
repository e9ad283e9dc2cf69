"""Say which published weights a file is, by its content; exit status 1 where it is none, or not what it is named.

    dinov2-detrex weights check dinov2_vits14_pretrain.pth

Where no SHA-256 is published, the file is compared with the first download of its name, if there was one.
"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("file", metavar="FILE", help="a file of weights")


def run(args):
    from dinov2_detrex.runtime.downloads import identified

    print(f"{args.file} is {identified(Path(args.file))}")
