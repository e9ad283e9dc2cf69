"""Show the published weights that are known by name, as a table.

examples:
  dinov2-detrex weights list                   # all of them
  dinov2-detrex weights list detector swin     # those whose row has both words

A run starts from a detector by train.init_checkpoint=known://NAME, and takes a backbone by
model.backbone.net.checkpoint_path=known://NAME. The licence is that of the repository that publishes the file.
DINOV2_DETREX_KNOWN_WEIGHTS=FILE.csv in the environment adds rows of your own, e.g. of a mirror.
"""


def add_arguments(parser):
    parser.add_argument("words", nargs="*", metavar="WORD", help="show rows with all of these words")
    parser.add_argument("--sources", action="store_true", help="also the addresses, and the pages that say all this")


def run(args):
    from tabulate import tabulate

    from dinov2_detrex.runtime.known_weights import known_files

    table = [{**_row(known), **(_sources(known) if args.sources else {})} for known in known_files().values()]
    words = [word.casefold() for word in args.words]
    shown = [row for row in table if all(word in " ".join(row.values()).casefold() for word in words)]
    print(tabulate(shown, headers="keys", disable_numparse=True))
    print(f"{len(shown)} of {len(table)} files")


def _row(known):
    return {
        "name": known.name,
        "is a": known.kind,
        "backbone": known.backbone,
        "pretrained on": known.pretrained_on,
        "classes": known.classes or "-",
        "AP": known.ap or "-",
        "bytes": f"{known.bytes:,}" if known.bytes is not None else "not published",
        "SHA-256": known.sha256[:8] or "not published",
        "licence": known.licence or "not published",
    }


def _sources(known):
    return {
        "address": known.address or "on request",
        "page": known.page,
        "SHA-256 from": known.sha256_from or "-",
    }
