"""A film for a page that shows one: `python film.py PICTURE FILM` writes three frames of a picture."""

import sys
from fractions import Fraction
from pathlib import Path

from PIL import Image

from dinov2_detrex.inference.video import VideoWriter

if __name__ == "__main__":
    picture = Image.open(sys.argv[1]).convert("RGB")
    writer = VideoWriter(Path(sys.argv[2]), Fraction(10), (picture.height, picture.width))
    for number in range(3):
        writer.write(picture, number / 10)
    writer.finish()
