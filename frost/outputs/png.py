"""A sheet with all slices of a volume, to look at: 8 bits of grey, one window, whose top is in the last line.

With further images a slice is a row, and a column an image. Images of the object share RCAN's window; a map has its
own, from 0 to the number above its column.
"""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngImageFile, PngInfo

from frost.outputs.contract import MAPS, Format, Reconstruction
from frost.outputs.scaling import window_top, windowed

LINE = 16  # pixels of height of a line of text
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
NARROWEST = 96  # pixels of a column: what its text takes


def write(path: Path, volume: Reconstruction) -> None:
    """Slices from left to right and from top to bottom, each as it is in the h5 file."""
    text = f"window 0 to {window_top(volume.images):.3g}. {volume.remark()}"
    font = ImageFont.load_default(11)
    tiles = columns(volume, font) if volume.others else sheet(windowed(volume.images))
    height, width = tiles.shape
    image = Image.new("L", (max(width, math.ceil(font.getlength(text)) + 4), height + LINE))
    image.paste(Image.fromarray(tiles))
    ImageDraw.Draw(image).text((2, height + 1), text, fill=255, font=font)
    facts = PngInfo()
    facts.add_text("made_by", volume.made_by)
    facts.add_text("Comment", f"{volume.remark()}. {volume.derivation()}")
    image.save(path, "PNG", pnginfo=facts)


def columns(volume: Reconstruction, font: Font) -> UInt8[np.ndarray, "rows columns"]:
    """A row a slice and a column an image, each with its name, and a map with the top of its window."""
    stacks, top = {volume.image: volume.images, **volume.others}, window_top(volume.images)
    n, height, width = volume.images.shape
    times = math.ceil(NARROWEST / width)
    filled = np.zeros((2 * LINE + n * times * height, len(stacks) * times * width), np.uint8)
    head = Image.new("L", (filled.shape[1], 2 * LINE))
    for column, (name, stack) in enumerate(stacks.items()):
        left = column * times * width
        own = window_top(stack) if name in MAPS else top
        text = volume.label(name) + (f"\n0 to {own:.2g}" if name in MAPS else "")
        ImageDraw.Draw(head).multiline_text((left + 2, 1), text, fill=255, font=font, spacing=2)
        enlarged = windowed(stack, own).repeat(times, axis=1).repeat(times, axis=2)
        filled[2 * LINE :, left : left + times * width] = enlarged.reshape(-1, times * width)
    filled[: 2 * LINE] = np.asarray(head)
    return filled


def sheet(tiles: UInt8[np.ndarray, "slice y x"]) -> UInt8[np.ndarray, "rows columns"]:
    """All tiles on one sheet that is about as high as wide."""
    n, height, width = tiles.shape
    across = min(n, max(1, round(math.sqrt(n * height / width))))
    rows = math.ceil(n / across)
    filled = np.concatenate([tiles, np.zeros((rows * across - n, height, width), np.uint8)])
    grid = filled.reshape(rows, across, height, width).swapaxes(1, 2)
    return grid.reshape(rows * height, across * width)


def holds(path: Path, made_by: str) -> bool:
    """By the text that `write` put in front of the pixels."""
    try:  # not Image.open, which refuses sheets of very many slices for the pixels that they declare: none is read
        with PngImageFile(path) as image:
            return bool(image.info.get("made_by") == made_by)
    except (OSError, ValueError, SyntaxError):
        return False


PNG = Format(".png", write, holds, together=True)
