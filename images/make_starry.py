"""Paint images/starry.jpg, the project's own style picture: a swirling night sky over a village.

    python images/make_starry.py [output]

The picture is painted, not filtered: some forty thousand brush strokes are laid one over the other along a flow
field, each with its own pigments, bristle streaks and thickness of paint, and the finished relief is lit from the
upper left. All strokes are about the same size, whatever they depict, because it is the stroke that a style network
learns. The result is the same on every run. It needs NumPy and Pillow only and takes about a minute.
"""

import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 960, 760
SCALE = 2  # strokes are painted at twice the final size, which gives smooth edges and fine bristles
SEED = 1889
QUALITY = 92


def ramp(text):
    """Turn a list of "#rrggbb" pigments into an array of colors between 0 and 1."""
    return np.array([[int(word[i : i + 2], 16) for i in (1, 3, 5)] for word in text.split()], np.float32) / 255


# Pigments of each part of the picture, dark to light.
SKY = ramp("#070b30 #0f1c63 #183493 #2156ba #3680cf #6aaede #addaea #f2f4dc")
GLOW = ramp("#3a86b4 #86bdb8 #d2d88c #efcf43 #fbdc45 #fdea82 #fffbe0")
MOON = ramp("#d9701a #ea8d1c #f3a522 #f9bf33")
FAR_HILL = ramp("#081038 #0f2768 #1a4593 #2b6fb4 #55a0c4 #b4d6d2")
NEAR_HILL = ramp("#05152b #0a2f4c #11506a #1c7a80 #4aae98 #b8dcaa")
FIELD = ramp("#061c2c #0d3a40 #1a6052 #438858 #93b45c #ecd76e")
GROVE = ramp("#030d18 #08252e #114442 #276b54 #5f9e62 #c2d184")
CYPRESS = ramp("#03060c #07110f #0d2418 #1b3f22 #45591f #a08a3a")
WALL = ramp("#12224c #2a4f82 #5788ab #9dc0c2 #ebe6bc")
ROOF = ramp("#17173a #38254c #6e3648 #ad5836 #e0984c")
SLATE = ramp("#0a1640 #19397a #356aa8 #74a8ca #c2dfdf")
WINDOW = ramp("#f08a1c #f9b726 #fdd845 #fff09a")
INK = ramp("#03060f #070e2a #0e1c4c")
# Stray pigments, which turn up in a stroke here and there.
NIGHT_ACCENTS = ramp("#16a0a6 #5a56b4 #0a1140 #e0c964 #2fb4c4")
FAR_ACCENTS = ramp("#6c5cae #0a1140 #58b0b4")
NEAR_ACCENTS = ramp("#2459bd #d3c66a #0a1a48")
FIELD_ACCENTS = ramp("#2a66a8 #e8b840 #0c1c50")
GROVE_ACCENTS = ramp("#2a66a8 #d0bc54")
CYPRESS_ACCENTS = ramp("#6e3520 #20645a #a08338 #1f4580")
HOUSE_ACCENTS = ramp("#e0b860 #1a2f78 #7f6fb0")

# Swirls of the sky: x, y, radius, spin, strength of the light on their arms.
SWIRLS = [(610, 265, 175, 1, 0.42), (332, 372, 100, -1, 0.36), (868, 402, 82, -1, 0.32)]
# Stars: x, y, radius of the halo.
STARS = [
    (58, 66, 42),
    (226, 268, 36),
    (458, 58, 46),
    (640, 52, 34),
    (798, 150, 58),
    (908, 58, 38),
    (476, 436, 40),
    (722, 446, 36),
    (40, 268, 40),
    (930, 266, 36),
    (560, 118, 30),
]
MOON_AT = (300, 126, 108)  # x, y, radius of the halo


@dataclass
class Layer:
    """A part of the picture: where it is, which way its strokes run and what colors they take."""

    mask: np.ndarray
    angle: np.ndarray
    tone: np.ndarray
    pigments: np.ndarray
    spacing: float = 6.0
    length: tuple = (22, 42)
    width: tuple = (4.5, 7.5)
    load: float = 1.0  # how thick the paint is
    accents: np.ndarray = None
    clip: bool = False  # keep the strokes inside the mask
    light: np.ndarray = None  # share of strokes which take their color from GLOW
    light_tone: np.ndarray = None


def pick(colors, tone):
    """Return the color at `tone` (0 dark, 1 light) of a ramp of pigments."""
    at = min(max(float(tone), 0.0), 1.0) * (len(colors) - 1)
    low = min(int(at), len(colors) - 2)
    return colors[low] + (colors[low + 1] - colors[low]) * (at - low)


def grid():
    """Return the x and y coordinates of every pixel."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return x, y


def noise(rng, cell_x, cell_y, width=WIDTH, height=HEIGHT):
    """Return smooth noise between 0 and 1 with features of the given size in pixels."""
    small = rng.random((max(2, int(height / cell_y)), max(2, int(width / cell_x)))).astype(np.float32)
    return np.clip(np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


def polygon(points):
    """Return the mask of a polygon."""
    image = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon([tuple(p) for p in points], fill=1)
    return np.asarray(image)


class Canvas:
    """Wet paint: a color and a height for every pixel, at SCALE times the size of the picture."""

    def __init__(self, rng):
        """Prime the canvas in dark blue and cut the bristles of the brush."""
        self.rng = rng
        shape = (HEIGHT * SCALE, WIDTH * SCALE)
        self.color = np.empty((*shape, 3), np.float32)
        self.color[:] = SKY[1]
        self.height = np.zeros(shape, np.float32)
        # Long thin streaks, of which every stroke takes a random piece as the trace of its bristles.
        fine, coarse = noise(rng, 60, 2.6, 1024, 512), noise(rng, 110, 4.6, 1024, 512)
        self.bristles = np.clip(0.5 + 1.5 * (0.4 * fine + 0.6 * coarse - 0.5), 0, 1)

    def stroke(self, x, y, angle, length, width, bend, colors, load=1.0, clip=None):
        """Lay one stroke centered on (x, y); `bend` is its curvature, `colors` the two pigments on the brush."""
        half_l, half_w, bend = length * SCALE / 2, width * SCALE / 2, bend / SCALE
        cos, sin = np.cos(angle), np.sin(angle)
        bow = abs(bend) * half_l**2 / 2 + 3
        rows = self._span(y * SCALE, abs(sin) * half_l + abs(cos) * half_w + bow, self.height.shape[0])
        cols = self._span(x * SCALE, abs(cos) * half_l + abs(sin) * half_w + bow, self.height.shape[1])
        if rows.stop <= rows.start or cols.stop <= cols.start:
            return
        dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - y * SCALE
        dx = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :] - x * SCALE
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        # Straighten the bent stroke: a parabola is close enough to an arc at this length.
        across = (across - bend * along**2 / 2) / np.sqrt(1 + (bend * along) ** 2)
        streak = self._streaks(along, across)
        inside = half_w - np.hypot(np.maximum(np.abs(along) - half_l + half_w, 0), across)
        # Bristles run dry towards the end of the stroke, so its tail is ragged.
        inside += (streak - 0.5) * 2.2 - (1 - streak) * np.maximum(along / half_l - 0.1, 0) * half_w * 1.8
        cover = np.clip(inside / 1.3 + 0.5, 0, 1)
        if clip is not None:
            cover = cover * clip[rows, cols]
        self._deposit((rows, cols), cover, streak, np.abs(across) / half_w, colors, load)

    @staticmethod
    def _span(center, reach, limit):
        """Return the slice of rows or columns which a stroke can touch."""
        return slice(max(0, int(center - reach)), min(limit, int(center + reach) + 2))

    def _streaks(self, along, across):
        """Return the bristle trace under each pixel of a stroke."""
        rows, cols = self.bristles.shape
        u, v = self.rng.integers(cols), self.rng.integers(rows)
        return self.bristles[(across.astype(np.int32) + v) % rows, (along.astype(np.int32) + u) % cols]

    def _deposit(self, area, cover, streak, edge, colors, load):
        """Blend the stroke's color into the canvas and raise the paint, most at its edges."""
        mix = np.clip((streak - 0.5) * 2.2 + 0.45, 0, 1)[..., None]
        paint = colors[0] + (colors[1] - colors[0]) * mix
        self.color[area] += (paint - self.color[area]) * (0.96 * cover[..., None])
        ridge = load * (0.55 + 0.45 * np.minimum(edge, 1) ** 3 + 1.5 * (streak - 0.5))
        under = self.height[area]
        under += cover * (ridge + 0.35 * under - under)

    def finish(self):
        """Light the relief from the upper left and return the picture at its final size."""
        slope_y, slope_x = np.gradient(self.height)
        light = (slope_x + slope_y) * 0.75
        color = self.color * np.clip(1 + 0.62 * light, 0.58, 1.34)[..., None]
        color += np.clip(light - 0.28, 0, 0.6)[..., None] * 0.22
        image = Image.fromarray((np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8))
        return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def bend_of(angle, x, y, direction, length):
    """Return the curvature of the flow at a point, from its direction a little before and after."""
    step = length / 4
    ends = []
    for sign in (1, -1):
        col = min(max(int(x + sign * step * np.cos(direction)), 0), WIDTH - 1)
        row = min(max(int(y + sign * step * np.sin(direction)), 0), HEIGHT - 1)
        ends.append(angle[row, col])
    turn = (ends[0] - ends[1] + np.pi / 2) % np.pi - np.pi / 2  # strokes have no sense, only a direction
    return turn / (2 * step)


def load_brush(rng, layer, row, col):
    """Choose the two pigments for a stroke of the layer at a pixel."""
    pigments, tone = layer.pigments, layer.tone[row, col]
    if layer.light is not None and rng.random() < layer.light[row, col]:
        pigments, tone = GLOW, layer.light_tone[row, col]
    tone += rng.normal(0, 0.13)
    # The second pigment is what the brush still carries from elsewhere: it shows between the bristles.
    first, second = pick(pigments, tone), pick(pigments, tone + rng.choice((-1, 1)) * rng.uniform(0.08, 0.34))
    if layer.accents is not None and rng.random() < 0.1:
        accent = layer.accents[rng.integers(len(layer.accents))]
        first = first + (accent - first) * rng.uniform(0.5, 0.95)
    tint = rng.normal(1, 0.05) * rng.normal(1, (0.02, 0.035, 0.035)).astype(np.float32)
    return np.clip(first * tint, 0, 1), np.clip(second * tint, 0, 1)


def spots_of(rng, layer):
    """Return the places of a layer's strokes: a shaken grid over its mask, in random order."""
    y, x = np.mgrid[0 : HEIGHT : layer.spacing, 0 : WIDTH : layer.spacing]
    spots = np.stack([x.ravel(), y.ravel()], 1) + rng.uniform(-0.6, 0.6, (x.size, 2)) * layer.spacing
    cols, rows = np.clip(spots, 0, (WIDTH - 1, HEIGHT - 1)).astype(int).T
    return rng.permutation(spots[layer.mask[rows, cols]])


def paint_layer(canvas, layer):
    """Cover a layer's mask with strokes."""
    rng, clip = canvas.rng, None
    if layer.clip:
        mask = Image.fromarray(layer.mask.astype(np.float32))
        clip = np.asarray(mask.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.BILINEAR))
    for x, y in spots_of(rng, layer):
        row, col = min(max(int(y), 0), HEIGHT - 1), min(max(int(x), 0), WIDTH - 1)
        length, width = rng.uniform(*layer.length), rng.uniform(*layer.width)
        direction = layer.angle[row, col] + rng.normal(0, 0.08)
        bend = bend_of(layer.angle, x, y, direction, length)
        if abs(bend) * length > 1.6:  # a tight turn: a long stroke would fly off it
            length = max(11.0, 1.6 / abs(bend))
            bend = np.sign(bend) * min(abs(bend), 1.6 / length)
        if rng.random() < 0.5:  # the dry tail may be at either end
            direction, bend = direction + np.pi, -bend
        load = layer.load * rng.uniform(0.6, 1.4)
        canvas.stroke(x, y, direction, length, width, bend, load_brush(rng, layer, row, col), load, clip)


def paint_line(canvas, points, width=4.5, step=24.0):
    """Draw an outline: dark strokes laid end to end along a polyline, by a hand which is not quite steady."""
    rng = canvas.rng
    for (x0, y0), (x1, y1) in pairwise(points):
        distance, direction = np.hypot(x1 - x0, y1 - y0), np.arctan2(y1 - y0, x1 - x0)
        count = max(1, round(distance / step))
        for i in range(count):
            at = (i + 0.5) / count
            x, y = np.array([x0 + (x1 - x0) * at, y0 + (y1 - y0) * at]) + rng.normal(0, 0.8, 2)
            colors = pick(INK, rng.random()), pick(INK, rng.random())
            canvas.stroke(
                x,
                y,
                direction + rng.normal(0, 0.06),
                distance / count * rng.uniform(0.85, 1.2) + width,
                width * rng.uniform(0.65, 1.2),
                rng.normal(0, 0.004),
                colors,
                0.9,
            )


def sky_flow(x, y):
    """Return the direction of the wind as two components: long waves, spiral swirls and rings around the lights."""
    u = np.ones_like(x)
    v = 0.42 * np.sin(x / 118 + y / 190 + 0.6) + 0.2 * np.sin(x / 57 - y / 83)
    for cx, cy, radius, spin, _ in SWIRLS:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-3
        weight = np.exp(-((r / radius) ** 4))
        # The winding of the arms in sky_tone follows from this share of inward motion.
        u = u * (1 - weight) + weight * spin * (-dy + spin * 0.25 * dx) / r
        v = v * (1 - weight) + weight * spin * (dx + spin * 0.25 * dy) / r
    for cx, cy, radius in [*STARS, MOON_AT]:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-3
        weight = np.exp(-((r / radius / 1.15) ** 6))
        sense = 1 if cy > 200 else -1
        u = u * (1 - weight) - weight * sense * dy / r
        v = v * (1 - weight) + weight * sense * dx / r
    norm = np.hypot(u, v) + 1e-6
    return u / norm, v / norm


def streams(rng, u, v, cell=11, steps=26, stride=3.0):
    """Smear noise along the flow, which gives light and dark streams that follow it."""
    source = noise(rng, cell, cell)
    total = source.copy()
    for sign in (stride, -stride):
        x, y = grid()
        for _ in range(steps):
            row, col = np.clip(y, 0, HEIGHT - 1).astype(int), np.clip(x, 0, WIDTH - 1).astype(int)
            total += source[row, col]
            x, y = x + sign * u[row, col], y + sign * v[row, col]
    return np.clip(0.5 + (total - total.mean()) / total.std() * 0.22, 0, 1)


def sky_tone(rng, x, y, u, v):
    """Return the lightness of the sky: streams, spiral arms and a paler band above the hills."""
    tone = 0.6 * streams(rng, u, v) + 0.42 * streams(rng, u, v, cell=44, steps=30, stride=5.0)
    tone += 0.2 * (noise(rng, 190, 130) - 0.5) - 0.06
    for cx, cy, radius, spin, strength in SWIRLS:
        r = np.hypot(x - cx, y - cy) + 1e-3
        turn = np.arctan2(y - cy, x - cx)
        arms = np.cos(2 * turn - spin * 8 * np.log(r / radius))
        tone += strength * (0.75 * arms + 0.35) * np.exp(-((r / radius / 0.95) ** 4)) * np.clip(r / 20, 0.4, 1)
    return tone + 0.22 * np.exp(-(((y - 500) / 60) ** 2)) - 0.16 * np.exp(-((y / 70) ** 2))


def sky_light(x, y):
    """Return the share of yellow strokes in the sky and their lightness, from the halos and the horizon."""
    share = 0.5 * np.exp(-(((y - 520 + 18 * np.sin(x / 90)) / 34) ** 2))
    tone = np.full_like(x, 0.66)
    for cx, cy, radius in [*STARS, MOON_AT]:
        r = np.hypot(x - cx, y - cy) / radius
        halo = 0.98 * np.exp(-((r / 0.86) ** 3.2))
        rings = 0.13 * np.cos(r * radius * 2 * np.pi / 16)  # rings two strokes wide, whatever the star's size
        tone = np.where(halo > share, 1.0 - 0.6 * r**1.3 + rings, tone)
        share = np.maximum(share, halo)
    return share, tone


def paint_sky(canvas):
    """Paint the night: a dark ground, the flowing strokes, then thick lights."""
    rng = canvas.rng
    x, y = grid()
    u, v = sky_flow(x, y)
    angle, tone = np.arctan2(v, u), sky_tone(rng, x, y, u, v)
    share, light_tone = sky_light(x, y)
    above = y < 600
    paint_layer(canvas, Layer(above, angle, tone - 0.14, SKY, spacing=9, width=(7, 8), load=0.7))
    paint_layer(
        canvas, Layer(above, angle, tone, SKY, spacing=6.6, accents=NIGHT_ACCENTS, light=share, light_tone=light_tone)
    )
    strong = above & ((tone > 0.62) | (share > 0.35))
    paint_layer(
        canvas,
        Layer(
            strong,
            angle,
            tone + 0.08,
            SKY,
            spacing=10,
            load=1.6,
            width=(4, 6.5),
            light=np.maximum(share, 0.12),
            light_tone=light_tone + 0.06,
        ),
    )
    # Dark strokes between the light ones keep the swirls crisp.
    paint_layer(
        canvas, Layer(above & (share < 0.2), angle, tone - 0.34, SKY, spacing=15, width=(3.5, 5.5), accents=NIGHT_ACCENTS)
    )


def paint_lights(canvas):
    """Paint the hearts of the stars and the crescent of the moon."""
    x, y = grid()
    u, v = sky_flow(x, y)
    angle = np.arctan2(v, u)
    for cx, cy, radius in STARS:
        core = np.hypot(x - cx, y - cy) < radius * 0.22
        paint_layer(
            canvas, Layer(core, angle, np.full_like(x, 0.62), GLOW, spacing=5, length=(12, 16), width=(5, 7), load=1.6)
        )
    cx, cy, radius = MOON_AT
    dx, dy = x - cx, y - cy
    disc = np.hypot(dx, dy) < radius * 0.48
    bite = np.hypot(dx + radius * 0.2, dy + radius * 0.1) < radius * 0.36
    paint_layer(canvas, Layer(bite, angle, np.full_like(x, 0.84), GLOW, spacing=5.5, length=(18, 26), width=(4.5, 6.5)))
    tone = 0.45 + 0.25 * np.cos(np.hypot(dx, dy) * 2 * np.pi / 14)
    paint_layer(
        canvas, Layer(disc & ~bite, angle, tone, MOON, spacing=4.2, length=(18, 30), width=(4.5, 6), load=1.6, clip=True)
    )
    for cx, cy, _ in [*STARS, MOON_AT]:
        canvas.stroke(cx, cy, 0.6, 12, 8, 0, (GLOW[-1], GLOW[-3]), 1.8)


def ridge_line(base, waves):
    """Return the height of a range of hills for every column."""
    x = np.arange(WIDTH, dtype=np.float32)
    return base - sum(height * np.sin(x / length + phase) for height, length, phase in waves)


def paint_hill(canvas, top, bottom, pigments, accents, roll=0.0):
    """Paint a range of hills between the line `top` and the row `bottom`: the strokes run along its slopes."""
    rng = canvas.rng
    x, y = grid()
    depth = y - top[None, :]
    slope = np.gradient(top)[None, :]
    # Deeper strokes follow the ridge less and the furrows of the ground more.
    angle = np.arctan(slope * np.exp(-depth / 90) * 1.3) + roll * np.sin(x / 58 + depth / 21)
    u, v = np.cos(angle), np.sin(angle)
    tone = 0.85 * streams(rng, u, v, cell=10, steps=12) - 0.04 + 0.22 * np.exp(-(((depth - 16) / 12) ** 2))
    mask = (depth > 3) & (y < bottom)
    paint_layer(canvas, Layer(mask, angle, tone - 0.15, pigments, spacing=9, width=(7, 8), load=0.7))
    paint_layer(canvas, Layer(mask, angle, tone, pigments, spacing=6.8, length=(20, 36), accents=accents))
    paint_layer(
        canvas,
        Layer(mask, angle, tone + 0.22, pigments, spacing=17, length=(20, 32), width=(4, 6), accents=accents, load=1.5),
    )
    paint_line(canvas, [(c, top[min(c, WIDTH - 1)]) for c in range(0, WIDTH + 24, 24)], width=5.5)


def paint_grove(canvas, crowns):
    """Paint bushy trees: every crown is a curl of strokes, lit from above."""
    x, y = grid()
    for cx, cy, radius in crowns:
        dx, dy = x - cx, (y - cy) * 1.15
        r = np.hypot(dx, dy)
        angle = np.arctan2(dy, dx) + np.pi / 2 + 0.35
        tone = 0.36 - 0.42 * dy / radius - 0.1 * dx / radius + 0.16 * np.cos(r * 2 * np.pi / 13)
        paint_layer(
            canvas,
            Layer(
                r < radius,
                angle,
                tone,
                GROVE,
                spacing=6,
                length=(20, 28),
                width=(4.5, 6.5),
                load=1.2,
                accents=GROVE_ACCENTS,
            ),
        )


def paint_shape(canvas, points, direction, pigments, tone):
    """Paint a plane of a building with strokes kept inside it, and draw round it."""
    rng = canvas.rng
    points = [tuple(np.array(p) + rng.normal(0, 1.3, 2)) for p in points]
    x, _ = grid()
    wash = tone + 0.5 * (noise(rng, 22, 30) - 0.5)
    paint_layer(
        canvas,
        Layer(
            polygon(points),
            np.full_like(x, direction),
            wash,
            pigments,
            spacing=5.2,
            length=(20, 28),
            width=(4.5, 6.5),
            clip=True,
            load=1.2,
            accents=HOUSE_ACCENTS,
        ),
    )
    paint_line(canvas, [*points, points[0]], width=3.6)


def paint_window(canvas, x, y):
    """Paint a lit window: a dark frame with a glowing stroke or two in it."""
    rng = canvas.rng
    x, y = np.array([x, y]) + rng.normal(0, 1.2, 2)
    canvas.stroke(x, y, np.pi / 2 + rng.normal(0, 0.06), rng.uniform(15, 18), 11, 0, (INK[0], INK[2]), 0.6)
    for dx in (-1.9, 1.9):
        colors = pick(WINDOW, rng.uniform(0.3, 1)), pick(WINDOW, rng.uniform(0, 0.7))
        canvas.stroke(x + dx, y, np.pi / 2 + rng.normal(0, 0.1), rng.uniform(10, 13), 4.6, 0, colors, 1.5)


def paint_house(canvas, x, base, width, height, pigments):
    """Paint a house seen at an angle: a gable, a long wall and the roof over it."""
    gable, roof = width * 0.4, height * 0.8
    top = base - height
    paint_shape(canvas, [(x + gable, top), (x + width, top), (x + width, base), (x + gable, base)], np.pi / 2, WALL, 0.2)
    paint_shape(
        canvas,
        [(x, top), (x + gable / 2, top - roof), (x + gable, top), (x + gable, base), (x, base)],
        np.pi / 2,
        WALL,
        0.62,
    )
    slope = [
        (x + gable / 2, top - roof),
        (x + width - gable * 0.35, top - roof),
        (x + width + 5, top + 3),
        (x + gable, top + 3),
    ]
    paint_shape(canvas, slope, np.arctan2(roof, gable / 2), pigments, 0.5)
    paint_window(canvas, x + gable / 2, base - height * 0.6)
    for at in np.arange(x + gable + 15, x + width - 9, 24):
        paint_window(canvas, at, base - height * 0.5)


def paint_church(canvas, x, base):
    """Paint the church: a nave, a tower and a tall spire."""
    nave, eaves, ridge = 84, base - 42, base - 84
    paint_shape(canvas, [(x, eaves), (x + nave, eaves), (x + nave, base), (x, base)], np.pi / 2, WALL, 0.3)
    paint_shape(
        canvas, [(x - 4, eaves + 2), (x + 14, ridge), (x + nave - 14, ridge), (x + nave + 6, eaves + 2)], 1.2, SLATE, 0.42
    )
    paint_shape(canvas, [(x - 30, base), (x - 30, base - 104), (x + 8, base - 104), (x + 8, base)], np.pi / 2, WALL, 0.6)
    paint_shape(canvas, [(x - 34, base - 102), (x - 11, base - 250), (x + 12, base - 102)], np.pi / 2 - 0.06, SLATE, 0.55)
    paint_window(canvas, x - 11, base - 78)
    paint_window(canvas, x - 11, base - 40)
    for at in (24, 46, 68):
        paint_window(canvas, x + at, base - 22)


def paint_village(canvas):
    """Paint the village from the back to the front: houses and a church, with trees between and before them."""
    houses = [(468, 660, 78, 30, ROOF), (738, 664, 80, 32, SLATE), (388, 672, 88, 34, SLATE), (846, 674, 86, 34, ROOF)]
    for house in houses:
        paint_house(canvas, *house)
    paint_grove(canvas, [(470, 676, 20), (574, 672, 24), (728, 684, 22), (830, 690, 20)])
    paint_church(canvas, 650, 700)
    houses = [(300, 700, 90, 36, ROOF), (516, 704, 94, 38, ROOF), (752, 712, 98, 40, ROOF), (892, 716, 96, 38, SLATE)]
    for house in houses:
        paint_house(canvas, *house)
    paint_grove(
        canvas,
        [(270, 706, 24), (412, 706, 26), (448, 712, 22), (500, 716, 18), (632, 716, 20), (726, 718, 24), (872, 722, 22)],
    )


def paint_cypress(canvas, plumes):
    """Paint the cypress as dark flames: the strokes lick upwards, winding about the axis of every plume."""
    x, y = grid()
    for cx, top, width in plumes:
        s = np.clip((y - top) / (HEIGHT - top), 0, 1)
        axis = cx + 13 * np.sin(y / 48 + cx) * s**0.5
        half = width * s**0.66 * (1 + 0.17 * np.sin(y / 23 + cx)) + 1.5
        side = (x - axis) / half
        mask = (np.abs(side) < 1) & (y > top)
        angle = -np.pi / 2 + 0.12 * np.clip(side, -1, 1) - 0.27 * np.cos(y / 48 + cx) + 0.3 * np.sin(y / 26 + x / 15)
        u, v = np.cos(angle), np.sin(angle)
        tone = 0.95 * streams(canvas.rng, u, v, cell=10, steps=12) - 0.08
        paint_layer(canvas, Layer(mask, angle, tone - 0.35, CYPRESS, spacing=9, width=(7, 8), load=0.8))
        paint_layer(canvas, Layer(mask, angle, tone, CYPRESS, spacing=6.4, load=1.3, accents=CYPRESS_ACCENTS))


def paint():
    """Paint the whole picture, from the sky to the foreground."""
    canvas = Canvas(np.random.default_rng(SEED))
    paint_sky(canvas)
    paint_lights(canvas)
    paint_hill(canvas, ridge_line(545, [(28, 120, 2.6), (11, 47, 0.4)]), 640, FAR_HILL, FAR_ACCENTS, roll=0.25)
    paint_hill(canvas, ridge_line(590, [(20, 150, 0.2), (8, 60, 1.0)]), 720, NEAR_HILL, NEAR_ACCENTS, roll=0.3)
    paint_grove(canvas, [(262 + 36 * i, 634 + 8 * np.sin(i * 2.1), 22 + 4 * np.sin(i * 3.3)) for i in range(20)])
    paint_village(canvas)
    paint_hill(canvas, ridge_line(724, [(7, 95, 0.9)]), HEIGHT, FIELD, FIELD_ACCENTS, roll=0.35)
    paint_cypress(canvas, [(36, 430, 42), (196, 400, 40), (76, 270, 46), (158, 215, 50), (114, 84, 56)])
    return canvas.finish()


def save(image, path):
    """Write the picture as a JPEG, whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    image.save(partial, "JPEG", quality=QUALITY)
    os.replace(partial, path)


if __name__ == "__main__":
    if len(sys.argv) > 2 or "".join(sys.argv[1:]).startswith("-"):
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("starry.jpg")
    save(paint(), target)
    print(f"painted {target}")
