"""Find objects in all pictures of a folder, and write one line for each into a table.

    python examples/boxes_to_csv.py my-detector photographs/val --output boxes.csv --score 0.4

The detector is a model package: a folder, or an id on the Hugging Face Hub.
"""

import argparse
import csv
from pathlib import Path

from dinov2_detrex.inference import Predictor

ENDINGS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
COLUMNS = ["picture", "class", "score", "left", "top", "width", "height"]  # pixels of the upright picture


def rows_of(predictor: Predictor, picture: Path, score: float):
    """A row for each object in a picture, the best first."""
    for found in predictor(picture, score):
        yield [picture.name, found["category_name"], f"{found['score']:.3f}", *(f"{x:.1f}" for x in found["bbox"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="a model package")
    parser.add_argument("folder", type=Path, help="of pictures")
    parser.add_argument("--output", type=Path, default=Path("boxes.csv"))
    parser.add_argument("--score", type=float, default=0.3, help="the least that counts, 0 to 1")
    args = parser.parse_args()

    predictor = Predictor.from_pretrained(args.detector)
    pictures = sorted(path for path in args.folder.iterdir() if path.suffix.lower() in ENDINGS)
    with args.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for picture in pictures:
            table.writerows(rows_of(predictor, picture, args.score))
    print(f"{args.output}: the objects in {len(pictures)} pictures")


if __name__ == "__main__":
    main()
