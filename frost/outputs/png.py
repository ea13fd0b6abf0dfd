"""A sheet with all slices of a volume, to look at: 8 bits of grey, one window, which the last line tells."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from frost.outputs.contract import Format, Reconstruction
from frost.outputs.scaling import window_top, windowed

LINE = 16  # pixels of height of the text below


def write(path: Path, volume: Reconstruction) -> None:
    """Slices from left to right and from top to bottom, each as it is in the h5 file."""
    text = f"window 0 to {window_top(volume.images):.3g}. {volume.remark()}"
    font = ImageFont.load_default(11)
    tiles = sheet(windowed(volume.images))
    height, width = tiles.shape
    image = Image.new("L", (max(width, math.ceil(font.getlength(text)) + 4), height + LINE))
    image.paste(Image.fromarray(tiles))
    ImageDraw.Draw(image).text((2, height + 1), text, fill=255, font=font)
    facts = PngInfo()
    facts.add_text("made_by", volume.made_by)
    facts.add_text("Comment", f"{volume.remark()}. {volume.derivation()}")
    image.save(path, "PNG", pnginfo=facts)


def sheet(tiles: UInt8[np.ndarray, "slice y x"]) -> UInt8[np.ndarray, "rows columns"]:
    """All tiles on one sheet that is about as high as wide."""
    n, height, width = tiles.shape
    columns = min(n, max(1, round(math.sqrt(n * height / width))))
    rows = math.ceil(n / columns)
    filled = np.concatenate([tiles, np.zeros((rows * columns - n, height, width), np.uint8)])
    grid = filled.reshape(rows, columns, height, width).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width)


def holds(path: Path, made_by: str) -> bool:
    """By the text that `write` put in front of the pixels."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return bool(image.info.get("made_by") == made_by)
    except (OSError, ValueError, SyntaxError):
        return False


PNG = Format(".png", write, holds)
