"""The 80 classes of COCO: their ids, names and colours for drawing."""

import colorsys

_NAMES_BY_ID = """
1 person; 2 bicycle; 3 car; 4 motorcycle; 5 airplane; 6 bus; 7 train; 8 truck; 9 boat; 10 traffic light;
11 fire hydrant; 13 stop sign; 14 parking meter; 15 bench; 16 bird; 17 cat; 18 dog; 19 horse; 20 sheep; 21 cow;
22 elephant; 23 bear; 24 zebra; 25 giraffe; 27 backpack; 28 umbrella; 31 handbag; 32 tie; 33 suitcase; 34 frisbee;
35 skis; 36 snowboard; 37 sports ball; 38 kite; 39 baseball bat; 40 baseball glove; 41 skateboard; 42 surfboard;
43 tennis racket; 44 bottle; 46 wine glass; 47 cup; 48 fork; 49 knife; 50 spoon; 51 bowl; 52 banana; 53 apple;
54 sandwich; 55 orange; 56 broccoli; 57 carrot; 58 hot dog; 59 pizza; 60 donut; 61 cake; 62 chair; 63 couch;
64 potted plant; 65 bed; 67 dining table; 70 toilet; 72 tv; 73 laptop; 74 mouse; 75 remote; 76 keyboard;
77 cell phone; 78 microwave; 79 oven; 80 toaster; 81 sink; 82 refrigerator; 84 book; 85 clock; 86 vase; 87 scissors;
88 teddy bear; 89 hair drier; 90 toothbrush
"""
_GOLDEN_RATIO = 0.61803398875  # successive multiples, modulo 1, give hues that stay apart


def _color(index: int) -> list[int]:
    """An RGB triple 0..255: hues around the circle, in three brightnesses."""
    rgb = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.8, (1.0, 0.8, 0.6)[index % 3])
    return [round(255 * value) for value in rgb]


def coco_instances_meta() -> dict:
    """Metadata of COCO's instance sets: thing_classes, thing_dataset_id_to_contiguous_id, thing_colors."""
    pairs = [entry.strip().split(" ", 1) for entry in _NAMES_BY_ID.split(";")]
    return {
        "thing_classes": [name for _, name in pairs],
        "thing_dataset_id_to_contiguous_id": {int(number): i for i, (number, _) in enumerate(pairs)},
        "thing_colors": [_color(i) for i in range(len(pairs))],
    }
