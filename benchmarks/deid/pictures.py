"""Makes labelled pictures with burned-in text, and clean ones, from a seed. Every name and number is invented."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from scipy import ndimage

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MIN_SIZE, MAX_SIZE = 8, 40
"""Of the letters: the font's size in pixels."""
BACKGROUNDS: Final = ("black", "speckle", "anatomy", "ultrasound")
STYLES: Final = ("plain", "inverted", "coloured", "dim")
# Of pydicom's pictures: the parts without text of their own (top, left, bottom, right).
_ULTRASOUND: Final = (
    ("examples_rgb_color.dcm", (85, 42, 140, 268)),
    ("examples_ybr_color.dcm", (25, 40, 195, 280)),
    ("examples_palette.dcm", (110, 130, 350, 760)),
)
_ANATOMY: Final = ("CT_small.dcm", "MR_small.dcm")
_SHAPES: Final = ((384, 512), (480, 640), (512, 512))
_LATIN: Final = (
    "WHITMORE, AGNES", "Tallis Ruth", "MRN 4488120", "DOB 04.03.1951", "1951-03-04", "ID: 630-78-4412",
    "St. Ann's Hospital", "Dr. Okafor", "M 067Y", "Acc 90017-B", "2024/01/10 14:28:25", "Room 12b", "Lindqvist^Per",
    "Tel 415-555-0143",
)  # fmt: skip
_HAN: Final = (
    "王伟", "患者：李秀英", "住院号 20240117", "张建国 男 67岁", "市第一人民医院",
    "出生日期 1951年3月4日", "超声科 陈医生", "门诊号：88120",
)  # fmt: skip
_COLOURS: Final = ((255, 255, 0), (0, 255, 0), (0, 255, 255), (255, 120, 0), (255, 90, 255))


class Line(NamedTuple):
    """One line of text: where its glyphs are, and what it is like."""

    glyphs: Mask
    size: int
    script: str
    turned: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with the lines burned into it; none in a clean one."""

    frame: Frame
    background: str
    style: str
    lines: tuple[Line, ...]


def fonts(folders: tuple[Path, ...]) -> dict[str, list[Path]]:
    """Font files by script. Raises ValueError when there is no Latin one."""
    found = sorted({path for folder in folders for path in folder.rglob("*.tt[fc]")})
    latin = [path for path in found if path.name.startswith(("DejaVu", "Liberation"))]
    if not latin:
        raise ValueError("no DejaVu or Liberation font: install fonts-dejavu-core, or name its folder with --fonts")
    return {"latin": latin, "han": [path for path in found if _has_han(path)]}


def make(seed: int, numbers: Iterable[int], faces: dict[str, list[Path]], *, text: bool) -> Iterator[Picture]:
    """The pictures of these numbers; backgrounds and styles take turns, the rest is drawn by lot."""
    for index in numbers:
        random = Random(f"{seed}-{text}-{index}")
        background = BACKGROUNDS[index % len(BACKGROUNDS)]
        style = STYLES[index // len(BACKGROUNDS) % len(STYLES)] if text else "clean"
        image = Image.fromarray(_background(background, random)).convert("RGB")
        _draw_graphics(image, random)
        lines = tuple(_draw_text(image, style, faces, random)) if text else ()
        frame = np.asarray(image, np.uint8)
        yield Picture(255 - frame if style == "inverted" else frame, background, style, lines)


@cache
def _has_han(path: Path) -> bool:
    """A font without them draws one box for every character."""
    try:
        font = ImageFont.truetype(str(path), 24)
        return bytes(font.getmask("王")) != bytes(font.getmask("李"))
    except OSError:
        return False


@cache
def _shipped(name: str) -> Frame:
    """A picture of pydicom, on 0 to 255."""
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    pixels = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    low, high = np.percentile(pixels, (0.5, 99.5))
    scaled = np.clip((pixels - low) / (high - low), 0, 1) * 255
    return np.asarray(scaled, np.uint8)


def _background(kind: str, random: Random) -> Frame:
    rows, columns = random.choice(_SHAPES)
    if kind == "black":
        return np.zeros((rows, columns), np.uint8)
    if kind == "speckle":
        return _speckle(rows, columns, random)
    if kind == "anatomy":
        source = _shipped(random.choice(_ANATOMY))
        top, left = random.randrange(source.shape[0] // 4), random.randrange(source.shape[1] // 4)
        part = source[top : top + source.shape[0] * 3 // 4, left : left + source.shape[1] * 3 // 4]
    else:
        name, (top, left, bottom, right) = random.choice(_ULTRASOUND)
        part = _shipped(name)[top:bottom, left:right]
    return np.asarray(Image.fromarray(part).resize((columns, rows), Image.Resampling.BICUBIC), np.uint8)


def _speckle(rows: int, columns: int, random: Random) -> Frame:
    """Rayleigh noise, as wide as a few pixels, in a sector that gets darker with depth."""
    noise = np.random.default_rng(random.randrange(1 << 32))
    grains = (random.uniform(0.7, 1.6), random.uniform(0.7, 2.5))
    parts = [ndimage.gaussian_filter(noise.standard_normal((rows, columns)), grains) for _ in range(2)]
    echo = np.hypot(*parts)
    echo *= random.uniform(50, 110) / echo.mean()
    down, across = np.mgrid[0:rows, 0:columns]
    across = across - columns / 2
    sector = np.abs(across) < (down + rows * 0.15) * random.uniform(0.6, 1.2)
    return np.asarray(np.clip(echo * sector * (1.2 - down / rows), 0, 255), np.uint8)


def _draw_graphics(image: Image.Image, random: Random) -> None:
    """What is no text and stands in such pictures too: rulers, frames, wedges of grey, curves, calipers."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for kind in random.sample(("ruler", "frame", "wedge", "curve", "calipers"), random.randrange(3)):
        light = random.randrange(150, 256)
        if kind == "ruler":
            for row in range(20, height - 20, random.choice((10, 20, 40))):
                draw.line((width - 8, row, width - 3, row), (light,) * 3)
        elif kind == "frame":
            draw.rectangle((width // 4, height // 4, width * 3 // 4, height * 3 // 4), outline=(light,) * 3)
        elif kind == "wedge":
            for row in range(100):
                draw.line((6, 60 + row, 16, 60 + row), (255 - row * 2,) * 3)
        elif kind == "curve":
            line = [(x, height - 40 - int(20 * np.sin(x / 9) ** 9)) for x in range(10, width - 10)]
            draw.line(line, (0, light, 0))
        else:
            for _ in range(2):
                x, y = random.randrange(40, width - 40), random.randrange(40, height - 40)
                draw.line((x - 4, y, x + 4, y), (light,) * 3)
                draw.line((x, y - 4, x, y + 4), (light,) * 3)


def _draw_text(image: Image.Image, style: str, faces: dict[str, list[Path]], random: Random) -> Iterator[Line]:
    """Up to five lines that don't touch, one under another or in the corners; returns where their glyphs are."""
    taken = np.zeros((image.height, image.width), bool)
    turned = random.random() < 0.2
    stacked = random.random() < 0.5
    column, row = random.randrange(4, image.width // 3), random.randrange(4, image.height // 3)
    size = random.randint(MIN_SIZE, MAX_SIZE)
    for _ in range(random.randint(1, 5)):
        script = "han" if faces["han"] and random.random() < 0.3 else "latin"
        font = ImageFont.truetype(str(random.choice(faces[script])), size)
        glyphs = _rendered(random.choice(_HAN if script == "han" else _LATIN), font, turned=turned)
        tall, wide = glyphs.shape
        if tall > image.height - 8 or wide > image.width - 8:
            size = max(MIN_SIZE, size // 2)
            continue
        if not stacked:
            column, row = random.randrange(2, image.width - wide - 2), random.randrange(2, image.height - tall - 2)
        if column + wide > image.width - 2 or row + tall > image.height - 2:
            continue
        place = np.s_[row : row + tall, column : column + wide]
        if taken[max(0, row - 2) : row + tall + 2, max(0, column - 4) : column + wide + 4].any():
            continue
        taken[place] = True
        image.paste(_ink(style, random, image, (column, row, wide, tall)), (column, row), Image.fromarray(glyphs))
        whole = np.zeros(taken.shape, bool)
        whole[place] = glyphs > 127
        yield Line(whole, size, script, turned)
        if turned:
            column += wide + 4
        else:
            row += tall + 4


def _rendered(text: str, font: ImageFont.FreeTypeFont, *, turned: bool) -> Frame:
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, 255, font)
    return np.asarray(image.transpose(Image.Transpose.ROTATE_90) if turned else image, np.uint8)


def _ink(style: str, random: Random, image: Image.Image, place: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """The letters' colour. Dim letters are 70 of 255 brighter than the ground's bright parts (or darker)."""
    if style == "coloured":
        return random.choice(_COLOURS)
    if style != "dim":
        return (255, 255, 255)
    column, row, wide, tall = place
    ground = np.asarray(image.crop((column, row, column + wide, row + tall)).convert("L"))
    bright = int(np.percentile(ground, 90))
    level = bright + 70 if bright + 70 <= 255 else max(0, int(np.percentile(ground, 10)) - 70)
    return (level, level, level)
