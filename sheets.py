"""Contact sheets: pictures side by side with the numbers that made them."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import reader

LINE, GAP = 16, 6  # pixels


def contact_sheet(rows):
    """Rows of (picture, caption) in a grid. Pictures are [h,w,3] RGB 0..255, captions of one or more lines.

    Returns [H,W,3] uint8; every column is as wide as its widest picture or caption, every row as high as its highest.
    """
    font = ImageFont.load_default(LINE - 3)
    tiles = [[_tile(picture, caption, font) for picture, caption in row] for row in rows]
    columns = max(len(row) for row in tiles)
    widths = [max(row[i].width for row in tiles if i < len(row)) for i in range(columns)]
    heights = [max(tile.height for tile in row) for row in tiles]
    sheet = Image.new("RGB", (sum(widths) + GAP * (columns + 1), sum(heights) + GAP * (len(rows) + 1)), "white")
    for j, row in enumerate(tiles):
        for i, tile in enumerate(row):
            sheet.paste(tile, (GAP + sum(widths[:i]) + GAP * i, GAP + sum(heights[:j]) + GAP * j))
    return np.asarray(sheet)


def _tile(picture, caption, font):
    """A picture with its caption below."""
    image = reader.to_pil(picture)
    lines = caption.splitlines()
    width = max([image.width, *(int(font.getlength(line)) + 1 for line in lines)])
    tile = Image.new("RGB", (width, image.height + LINE * len(lines)), "white")
    tile.paste(image, (0, 0))
    draw = ImageDraw.Draw(tile)
    for i, line in enumerate(lines):
        draw.text((0, image.height + LINE * i), line, "black", font)
    return tile
