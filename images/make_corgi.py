"""Make the demo photo: a Pembroke Welsh Corgi standing in a sunny meadow.

Nothing here is a photograph. The dog is a signed distance field which is ray-marched, lit by a sun and a sky,
and then covered with many thousands of short painted hairs which follow the coat; the meadow is painted blade by
blade from far to near and blurred like a camera with a shallow focus. The result is the same on every run.

    python images/make_corgi.py [output]          # default: Corgi.jpg next to this script
    python images/make_corgi.py --mask output     # white where the dog is
"""

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter
from scipy.signal import fftconvolve

SCALE = float(os.environ.get("CORGI_SCALE", "1"))  # below 1 gives a quick preview
WIDTH, HEIGHT = round(960 * SCALE), round(720 * SCALE)
SUPER = 2  # strokes are painted on a canvas this many times larger and then averaged down

# The scene is measured in "head radii". x goes right, y up and z away from the camera, which stands at x = z = 0.
FOCAL, CENTER_X, HORIZON, EYE_LEVEL = 1420 * SCALE, 480 * SCALE, 372 * SCALE, 2.85
SUN = np.array([-0.60, 0.70, -0.36]) / np.linalg.norm([-0.60, 0.70, -0.36])
SUN_COLOR, SKY_COLOR, GRASS_BOUNCE = np.array([[2.00, 1.80, 1.46], [0.48, 0.58, 0.76], [0.26, 0.27, 0.12]])

FUR, EAR, EYE, NOSE, MOUTH, TONGUE = range(6)


def frame(yaw, pitch=0.0, roll=0.0):
    """Axes (rows: side, up, forward) of something which looks at the camera, turned by angles in degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [-np.sin(y), 0, -np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), np.sin(r), 0], [-np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (tilt @ nod @ turn).astype(np.float32)


BODY_ORIGIN, BODY_AXES = np.array([-0.05, 0.0, 14.6], np.float32), frame(56)
HEAD_ORIGIN, HEAD_AXES = np.array([-1.50, 3.80, 12.75], np.float32), frame(5, 7, 5)


# ---------------------------------------------------------------------------------------------- distance fields


def to_local(points, origin, axes):
    """World points (3, n) in the coordinates of a frame."""
    return axes @ (points - origin[:, None])


def mirror(points):
    """Fold the left half onto the right one, so that paired parts are modeled once."""
    return np.stack([np.abs(points[0]), points[1], points[2]])


def ellipsoid(points, center, radii):
    """Approximate distance to an axis-aligned ellipsoid."""
    radii = np.array(radii, np.float32)[:, None]
    q = (points - np.array(center, np.float32)[:, None]) / radii
    outer = np.sqrt((q * q).sum(0)) + 1e-6
    q /= radii
    return outer * (outer - 1) / (np.sqrt((q * q).sum(0)) + 1e-6)


def cone(points, start, end, start_radius, end_radius):
    """Approximate distance to a rounded cone between two balls."""
    start, end = np.array(start, np.float32), np.array(end, np.float32)
    rel, axis = points - start[:, None], end - start
    along = np.clip(axis @ rel / (axis @ axis), 0, 1)
    rel = rel - axis[:, None] * along
    return np.sqrt((rel * rel).sum(0)) - (start_radius + along * (end_radius - start_radius))


def blend(a, b, k):
    """Union of two distances with a soft seam of width k."""
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - h * h * k * 0.25


EAR_ORIGIN = np.array([0.58, 0.56, -0.22], np.float32)
EAR_HEIGHT = 1.02


def ear_local(points):
    """Head points in the frame of the (mirrored) ear: across, along, and forward out of the cup."""
    along = np.array([0.44, 0.90, -0.05])
    along /= np.linalg.norm(along)
    out = np.array([0.30, 0.0, 0.95])
    out -= along * (out @ along)
    out /= np.linalg.norm(out)
    axes = np.stack([np.cross(along, out), along, out]).astype(np.float32)
    return to_local(mirror(points), EAR_ORIGIN, axes)


def ear_outline(ear, base=0.50, tip=0.20):
    """Flat distance to the outline of an ear: a triangle with a round tip."""
    along = np.clip(ear[1] / EAR_HEIGHT, 0, 1)
    belly = 0.06 * np.sin(np.pi * along)
    return np.hypot(ear[0], ear[1] - along * EAR_HEIGHT) - (base + along * (tip - base) + belly)


def ear_distance(points):
    """Distance to both ears: a thin sheet, cupped forwards."""
    ear = ear_local(points)
    cup = ear[2] - 0.55 * ear[0] ** 2 + 0.05
    flat = ear_outline(ear)
    edge = np.maximum(flat, 0)
    slab = np.maximum(np.abs(cup) - 0.05, 0)
    return (np.sqrt(edge * edge + slab * slab) - 0.05) * 0.75


def paw(pair, x, z):
    """Distance to a paw with four toes."""
    foot = ellipsoid(pair, (x, 0.20, z), (0.33, 0.22, 0.42))
    for toe, reach in ((-0.22, 0.24), (-0.08, 0.34), (0.08, 0.34), (0.22, 0.24)):
        foot = blend(foot, ellipsoid(pair, (x + toe, 0.16, z + reach), (0.095, 0.15, 0.17)), 0.04)
    return foot


def body_distance(points):
    """Distance to the trunk, the neck, the ruff and the legs, in body coordinates."""
    pair = mirror(points)
    trunk = cone(points, (0, 2.08, 1.0), (0, 2.00, -2.5), 1.00, 0.96)
    trunk = blend(trunk, ellipsoid(points, (0, 2.00, -2.70), (1.00, 1.04, 0.98)), 0.3)
    trunk = blend(trunk, ellipsoid(points, (0, 2.02, 1.25), (1.04, 1.08, 1.02)), 0.4)
    trunk = blend(trunk, cone(points, (0, 2.45, 1.35), (-0.1, 3.40, 1.72), 1.10, 0.92), 0.5)
    trunk = blend(trunk, ellipsoid(points, (0, 2.15, 1.80), (0.84, 1.02, 0.70)), 0.4)
    fore = cone(pair, (0.60, 1.6, 1.55), (0.56, 0.35, 1.62), 0.50, 0.30)
    fore = blend(fore, paw(pair, 0.57, 1.80), 0.15)
    hind = ellipsoid(pair, (0.66, 1.40, -2.60), (0.52, 0.92, 0.82))
    hind = blend(hind, cone(pair, (0.72, 0.95, -3.00), (0.70, 0.30, -2.95), 0.36, 0.26), 0.3)
    hind = blend(hind, paw(pair, 0.70, -2.70), 0.15)
    return blend(blend(trunk, fore, 0.3), hind, 0.3)


def skull_distance(points):
    """Distance to the furry part of the head without ears, in head coordinates."""
    pair = mirror(points)
    skull = ellipsoid(points, (0, 0.12, -0.15), (0.96, 0.80, 0.92))
    skull = blend(skull, ellipsoid(pair, (0.52, -0.36, -0.02), (0.60, 0.52, 0.60)), 0.30)
    muzzle = cone(points, (0, -0.22, 0.45), (0, -0.37, 1.32), 0.48, 0.27)
    muzzle = blend(muzzle, ellipsoid(pair, (0.17, -0.47, 1.16), (0.24, 0.22, 0.36)), 0.12)
    skull = blend(skull, muzzle, 0.28)
    skull = blend(skull, ellipsoid(pair, (0.36, 0.33, 0.58), (0.24, 0.14, 0.18)), 0.20)
    skull = blend(skull, ellipsoid(pair, (0.385, 0.190, 0.68), (0.17, 0.06, 0.14)), 0.05)
    jaw = cone(points, (0, -0.82, 0.30), (0, -1.06, 1.02), 0.32, 0.20)
    return blend(skull, jaw, 0.08)


EYE_CENTER, EYE_RADIUS = (0.375, 0.07, 0.695), 0.142


def parts(points):
    """Distances (material, n) from world points to each material of the dog."""
    body = to_local(points, BODY_ORIGIN, BODY_AXES)
    head = to_local(points, HEAD_ORIGIN, HEAD_AXES)
    fur = blend(body_distance(body), skull_distance(head), 0.25)
    ear = ear_distance(head)
    pair = mirror(head)
    eye = np.sqrt(((pair - np.array(EYE_CENTER, np.float32)[:, None]) ** 2).sum(0)) - EYE_RADIUS
    nose = ellipsoid(head, (0, -0.22, 1.56), (0.21, 0.15, 0.13))
    nose = blend(nose, ellipsoid(pair, (0.11, -0.25, 1.59), (0.10, 0.09, 0.09)), 0.06)
    mouth = ellipsoid(head, (0, -0.66, 0.70), (0.42, 0.24, 0.56))
    tongue = ellipsoid(head, (0, -0.82, 0.95), (0.25, 0.11, 0.38))
    tongue = blend(tongue, ellipsoid(head, (0, -0.95, 1.25), (0.21, 0.20, 0.09)), 0.10)
    return np.stack([fur, ear, eye, nose, mouth, tongue])


def distance(points):
    """Distance from world points to the dog."""
    d = parts(points)
    return np.minimum(blend(d[FUR], d[EAR], 0.12), d[EYE:].min(0))


# ---------------------------------------------------------------------------------------------- camera and light


def project(points):
    """Picture coordinates (2, n) of world points."""
    return np.stack([CENTER_X + FOCAL * points[0] / points[2], HORIZON - FOCAL * (points[1] - EYE_LEVEL) / points[2]])


def march(directions, start=10.2, stop=18.5):
    """Depth along each ray from the camera (rays are scaled to z = 1), infinite where the dog is missed."""
    depth = np.full(directions.shape[1], start, np.float32)
    stretch = np.sqrt((directions**2).sum(0))
    camera = np.array([0, EYE_LEVEL, 0], np.float32)[:, None]
    active = np.arange(depth.size)
    for _ in range(70):
        d = distance(camera + directions[:, active] * depth[active])
        depth[active] += 0.9 * d / stretch[active]
        active = active[(d > 0.002) & (depth[active] < stop)]
        if not active.size:
            break
    depth[depth >= stop] = np.inf
    return depth


def surface_normal(points, eps=0.012):
    """Unit normals of the dog from four samples around each point."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    grad = sum(c[:, None] * distance(points + eps * c[:, None]) for c in corners)
    return grad / (np.sqrt((grad**2).sum(0)) + 1e-9)


def sun_shadow(points, softness=7.0):
    """How much of the sun each point sees, with a soft edge."""
    light, travel = np.ones(points.shape[1], np.float32), np.full(points.shape[1], 0.10, np.float32)
    direction = SUN.astype(np.float32)[:, None]
    active = np.arange(travel.size)
    for _ in range(28):
        d = distance(points[:, active] + direction * travel[active])
        light[active] = np.minimum(light[active], np.clip(0.5 + 0.5 * softness * d / travel[active], 0, 1))
        travel[active] += np.clip(d, 0.04, 0.6)
        active = active[(travel[active] < 7) & (light[active] > 0.01)]
        if not active.size:
            break
    return light * light * (3 - 2 * light)


def ambient_occlusion(points, normals):
    """How open the surroundings of each point are."""
    occlusion = 0
    for reach, weight in ((0.08, 0.9), (0.2, 0.8), (0.45, 0.65), (0.9, 0.45)):
        gap = np.minimum(distance(points + normals * reach), points[1] + normals[1] * reach + 0.15)
        occlusion = occlusion + weight * np.clip(reach - gap, 0, None) / reach * 0.45
    return np.clip(1 - occlusion, 0.12, 1)


def in_chunks(function, *arrays, size=24000):
    """Apply a function to slices of the last axis: small slices stay in the processor's cache."""
    pieces = [function(*(a[..., i : i + size] for a in arrays)) for i in range(0, arrays[0].shape[-1], size)]
    return np.concatenate(pieces, axis=-1)


# ---------------------------------------------------------------------------------------------- the coat


NOISE = np.random.default_rng(7).random((32, 32, 32)).astype(np.float32)


def noise(points, frequency):
    """Smooth repeatable noise in 0..1 at points (3, n)."""
    scaled = points * frequency
    cell = np.floor(scaled)
    part = scaled - cell
    return map_coordinates(NOISE, cell + part * part * (3 - 2 * part), order=1, mode="grid-wrap")


def fractal(points, frequency, octaves):
    """Noise in 0..1 with detail at several sizes."""
    total, weight = 0, 0.0
    for octave in range(octaves):
        total = total + noise(points + 7.3 * octave, frequency * 2**octave) * 0.5**octave
        weight += 0.5**octave
    return total / weight


def ramp(x, low, high):
    """Smooth step from 0 at low to 1 at high."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def srgb(*values):
    """A color given in 8-bit sRGB as linear light, shaped (3, 1)."""
    return (np.array(values, np.float64)[:, None] / 255) ** 2.2


TAN, SABLE, CREAM, WHITE = srgb(204, 126, 64), srgb(142, 78, 36), srgb(226, 178, 126), srgb(242, 235, 224)
PINK, LIP, DARK_EYE, BLACK = srgb(226, 158, 140), srgb(44, 30, 28), srgb(44, 24, 12), srgb(30, 27, 28)


def mix(a, b, amount):
    """Linear blend of two colors."""
    return a + (b - a) * amount


def head_color(points):
    """Coat color on the head: tan mask, white blaze, muzzle and throat, dark rims around eyes and lips."""
    x, y, z = points
    pair = mirror(points)
    wobble = (noise(points, 5.0) - 0.5) * 0.16
    color = mix(TAN, SABLE, 0.55 * ramp(y + 0.4 * np.abs(x) + wobble, 0.55, 1.0))
    color = mix(color, CREAM, 0.75 * ramp(-y + wobble, 0.15, 0.55) * ramp(np.abs(x), 0.2, 0.7))
    color = mix(color, SABLE, 0.45 * ramp(fractal(points, 3.0, 3), 0.5, 0.8))
    brow = ((pair[0] - 0.33) / 0.16) ** 2 + ((y - 0.40) / 0.11) ** 2
    color = mix(color, CREAM, 0.45 * ramp(-brow, -2.0, 0.0) * (z > 0))
    # The blaze is narrow between the eyes and widens into the muzzle and, a little, over the forehead.
    half = 0.105 + 0.10 * ramp(y, 0.45, 0.95) + 0.30 * ramp(-y, -0.12, 0.30)
    white = ramp(half - np.abs(x) + 0.5 * wobble, -0.035, 0.035) * ramp(-y, -0.95, -0.75) * (z > 0)
    muzzle = ramp(z + wobble - 0.25 * ramp(y, -0.30, 0.0), 0.62, 0.80) * ramp(-y, -0.02, 0.10)
    throat = ramp(-y + 0.22 * z + wobble, 0.52, 0.70)
    color = mix(color, WHITE, np.clip(np.maximum(np.maximum(white, muzzle), throat), 0, 1))
    eye = np.hypot((pair[0] - EYE_CENTER[0]) * 0.82, (y - EYE_CENTER[1]) * 1.1 - 0.10 * (pair[0] - EYE_CENTER[0]))
    color = mix(color, LIP, ramp(-eye, -0.158, -0.128) * (z > 0.4))
    return mix(color, LIP, lip_line(pair))


def lip_line(pair):
    """Where the dark edge of the upper lip runs along the (mirrored) muzzle."""
    height = -0.50 - 0.16 * ramp(pair[2], 0.55, 1.05) + 0.05 * ramp(pair[2], 1.15, 1.45)
    edge = ramp(-np.abs(pair[1] - height), -0.04, -0.015) * ramp(pair[2], 0.52, 0.66)
    cleft = ramp(-pair[0], -0.030, -0.012) * ramp(pair[2], 1.25, 1.35) * (pair[1] > height) * (pair[1] < -0.25)
    return np.maximum(edge, cleft)


def ear_color(points):
    """Pink skin inside the cup with a pale fringe, tan with a dark edge outside."""
    ear = ear_local(points)
    wobble = (noise(points, 6.0) - 0.5) * 0.12
    inside = ramp(-ear_outline(ear) + wobble, 0.03, 0.14) * (ear[2] - 0.55 * ear[0] ** 2 + 0.05 > 0)
    skin = mix(PINK, srgb(196, 120, 104), ramp(-ear_outline(ear), 0.15, 0.45))
    skin = mix(skin, CREAM, 0.8 * ramp(-ear[1] + wobble, -0.30, 0.05))
    edge = mix(TAN, SABLE, 0.5 + 0.4 * ramp(ear[1], 0.4, 1.2))
    return mix(edge, skin, inside)


def body_color(points):
    """Coat color on the body: tan saddle, white chest, collar, belly and legs."""
    x, y, z = points
    wobble = (noise(points, 1.3) - 0.5) * 0.5 + (noise(points, 5.0) - 0.5) * 0.2
    color = mix(TAN, SABLE, 0.65 * ramp(y + 0.6 * wobble, 2.25, 3.0))
    color = mix(color, CREAM, 0.6 * ramp(-y + 0.5 * wobble, -1.7, -1.1))
    border = z + 0.30 * (2.4 - y) - 0.15 * np.abs(x) + 0.8 * wobble
    color = mix(color, CREAM, 0.6 * ramp(border, 0.5, 1.2))
    color = mix(color, SABLE, 0.5 * ramp(fractal(points, 2.0, 4), 0.50, 0.80))
    chest = ramp(border, 1.05, 1.55)
    legs = ramp(-y + 0.35 * wobble + 0.35 * ramp(z, -1.0, 1.0), -0.85, -0.60)
    color = mix(color, WHITE, np.maximum(chest, legs))
    return mix(color, srgb(120, 104, 92), 0.75 * toe_gaps(np.abs(x), y, z))


def toe_gaps(side, y, z):
    """Dark lines between the toes, which the short hair of the paws would otherwise hide."""
    fore = z > 0
    offset, reach = side - np.where(fore, 0.57, 0.70), z - np.where(fore, 1.80, -2.70)
    gap = np.minimum(np.abs(offset), np.abs(np.abs(offset) - 0.15))
    return ramp(-gap, -0.032, -0.010) * ramp(reach, 0.12, 0.28) * ramp(-y, -0.42, -0.32)


def eye_color(pair):
    """Black pupil in a brown iris with a dark border."""
    gaze = np.array([[-0.04], [0.04], [1.0]])
    facing = ((pair - np.array(EYE_CENTER)[:, None]) / EYE_RADIUS * gaze).sum(0)
    iris = mix(LIP * 0.4, mix(srgb(92, 50, 22), DARK_EYE, ramp(pair[1], 0.0, 0.14)), ramp(facing, 0.55, 0.78))
    return mix(iris, BLACK * 0.3, ramp(facing, 0.80, 0.90))


def nose_color(pair):
    """Grainy black leather with two nostrils."""
    leather = BLACK * (0.5 + 1.3 * noise(pair, 45.0))
    nostril = np.hypot((pair[0] - 0.105) * 0.8, pair[1] + 0.275 + 0.35 * (pair[0] - 0.105))
    return leather * (1 - 0.95 * ramp(-nostril, -0.060, -0.035))


def on_head(points):
    """1 on the head, 0 on the body, with a furry border at the throat."""
    head = to_local(points, HEAD_ORIGIN, HEAD_AXES)
    body = to_local(points, BODY_ORIGIN, BODY_AXES)
    return ramp(body_distance(body) - skull_distance(head) + (noise(points, 4.0) - 0.5) * 0.2, -0.08, 0.08)


def albedo(points, material):
    """Linear color (3, n) of surface points of the dog."""
    head = to_local(points, HEAD_ORIGIN, HEAD_AXES)
    body = to_local(points, BODY_ORIGIN, BODY_AXES)
    color = mix(body_color(body), head_color(head), on_head(points))
    color = np.where(material == EAR, ear_color(head), color)
    color = np.where(material == EYE, eye_color(mirror(head)), color)
    color = np.where(material == NOSE, nose_color(mirror(head)), color)
    color = np.where(material == MOUTH, srgb(62, 16, 18), color)
    groove = ramp(np.abs(head[0]), 0.0, 0.04)
    return np.where(material == TONGUE, mix(srgb(196, 84, 92), srgb(236, 128, 132), groove), color)


def light_dog(points, normals, material):
    """Linear radiance (3, n): wrapped sunlight, sky and grass bounce, and wet highlights on eyes and nose."""
    shadow = sun_shadow(points + normals * 0.05)
    open_sky = ambient_occlusion(points, normals)
    facing = SUN @ normals
    furry = material <= EAR
    sun = np.where(furry, np.clip((facing + 0.25) / 1.25, 0, 1), np.clip(facing, 0, 1)) * shadow
    up = 0.5 + 0.5 * normals[1]
    light = (
        SUN_COLOR[:, None] * sun
        + SKY_COLOR[:, None] * open_sky * (0.35 + 0.65 * up)
        + GRASS_BOUNCE[:, None] * open_sky * (1 - up)
    )
    # Thin ears let warm light through.
    light += (material == EAR) * np.array([[0.34], [0.15], [0.09]]) * shadow
    return albedo(points, material) * light + wet_highlight(points, normals, material, shadow)


def wet_highlight(points, normals, material, shadow):
    """Mirror image of the sun and the sky on eyes, nose and tongue."""
    view = points - np.array([[0], [EYE_LEVEL], [0]])
    view = view / np.sqrt((view**2).sum(0))
    mirrored = view - 2 * (view * normals).sum(0) * normals
    toward = np.clip(SUN @ mirrored, 0, 1)
    rim = (1 - np.clip(-(view * normals).sum(0), 0, 1)) ** 3
    sky = SKY_COLOR[:, None] * ramp(mirrored[1], 0.0, 0.9)
    # The catchlight is the bright part of the sky, seen from both eyes whatever the lids shade.
    window = np.clip(np.array([-0.42, 0.62, -0.66]) @ mirrored, 0, 1)
    eye = 5.0 * ramp(window, 0.925, 0.965) + sky * (0.10 + 0.7 * rim)
    grain = 0.4 + 1.2 * noise(points, 34.0)
    nose = (0.55 * toward**14 * shadow + sky * (0.12 + 0.6 * rim)) * grain
    tongue = 0.5 * toward**20 * shadow + 0.05 * sky
    return (material == EYE) * eye + (material == NOSE) * nose + ((material == TONGUE) | (material == MOUTH)) * tongue


def tone(radiance):
    """Film-like curve from linear light to 8-bit sRGB values (float)."""
    return 255 * np.clip(1 - np.exp(-1.05 * np.clip(radiance, 0, None)), 0, 1) ** (1 / 2.2)


# ---------------------------------------------------------------------------------------------- painting


def to_canvas(array):
    """A float array (h, w, 3) of 8-bit values as an image."""
    return Image.fromarray(np.clip(array + 0.5, 0, 255).astype(np.uint8))


def fills(image, color):
    """Colors (3, n) as 8-bit tuples, or plain numbers (1, n) for an image of floats."""
    if image.mode == "F":
        return color[0].tolist()
    return list(map(tuple, np.clip(color, 0, 255).astype(int).T.tolist()))


def strokes(image, root, middle, tip, width, color, tip_color=None):
    """Paint bent, tapered strokes in order: points are (2, n) pixels, widths (n,) and colors (3, n) 8-bit."""
    draw = ImageDraw.Draw(image)
    along = tip - root
    side = np.stack([-along[1], along[0]]) / (np.hypot(*along) + 1e-6) * width * 0.5
    lower = np.concatenate([root + side, middle + side * 0.8, middle - side * 0.8, root - side]).T.tolist()
    upper = np.concatenate([middle + side * 0.8, tip, middle - side * 0.8]).T.tolist()
    first, second = fills(image, color), fills(image, color if tip_color is None else tip_color)
    for quad, triangle, a, b in zip(lower, upper, first, second, strict=True):
        draw.polygon(quad, fill=a)
        draw.polygon(triangle, fill=b)


def defocus(image, radius):
    """Blur with a disc, in linear light, as a lens does."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    light = (np.pad(np.asarray(image, np.float32), ((reach, reach), (reach, reach), (0, 0)), "edge") / 255) ** 2.2
    light = fftconvolve(light, (disc / disc.sum())[:, :, None], mode="valid", axes=(0, 1))
    return to_canvas(255 * np.clip(light, 0, 1) ** (1 / 2.2))


def sky():
    """Blue sky, paler towards the horizon, with lit cumulus clouds."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / (720 * SCALE)
    height = np.clip(1 - y / (HORIZON / (720 * SCALE)), 0, 1)
    blue = mix(srgb(196, 220, 236)[:, :, None], srgb(70, 128, 204)[:, :, None], height**0.8)

    def density(dx, dy):
        """Cloud thickness; clouds look flatter and smaller the nearer they are to the horizon."""
        stretch = 0.45 + height
        point = np.stack([(x + dx - 0.6) / stretch, (y + dy) * 2.0 / stretch, np.full_like(x, 3.7)])
        return fractal(point.reshape(3, -1), 2.2, 6).reshape(x.shape)

    here = density(0, 0)
    cover = ramp(here, 0.46, 0.66)
    lit = np.clip(0.72 + 5.0 * (here - density(-0.02, -0.025)), 0, 1)
    cloud = mix(srgb(168, 184, 206)[:, :, None], srgb(255, 252, 244)[:, :, None], lit)
    glow = 0.16 * np.exp(-((x - 0.05) ** 2 + y**2) / 0.35) * srgb(255, 240, 205)[:, :, None]
    linear = mix(blue, cloud, cover * 0.95) + glow
    return to_canvas(255 * np.clip(linear, 0, 1).transpose(1, 2, 0) ** (1 / 2.2))


def ridge(image, base, rise, seed, color):
    """One hill range: a wavy outline filled with a mottled color."""
    x = np.arange(WIDTH) / (720 * SCALE)
    line = np.stack([x, np.full_like(x, seed), np.zeros_like(x)])
    top = HORIZON - SCALE * (base + rise * (fractal(line, 2.6, 5) - 0.5))
    y = np.arange(HEIGHT)[:, None]
    grid = np.stack(np.broadcast_arrays(x[None], y / (720 * SCALE) * 3, seed)).reshape(3, -1)
    mottle = 0.75 + 0.5 * fractal(grid, 9.0, 4).reshape(HEIGHT, WIDTH)
    linear = np.clip(mottle * color[:, :, None], 0, 1).transpose(1, 2, 0) ** (1 / 2.2) * 255
    mask = np.clip(y - top[None] + 0.5, 0, 1)
    image.paste(to_canvas(linear), mask=Image.fromarray((mask * 255).astype(np.uint8)))


def trees(image, rng):
    """A line of broad-leaved trees at the far edge of the meadow, painted leaf clump by leaf clump."""
    draw = ImageDraw.Draw(image)
    for _ in range(46):
        center, size = rng.uniform(-0.05, 1.40), rng.uniform(0.028, 0.075)
        size *= 0.7 + 0.9 * (noise(np.array([[center], [2.0], [5.0]]), 3.0)[0])
        hue = mix(srgb(64, 96, 40), srgb(112, 124, 52), rng.random())[:, 0]
        count = 260
        angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
        u, v = reach * np.cos(angle), reach * np.sin(angle) + rng.normal(0, 0.1, count)
        light = np.clip(0.55 - 0.30 * u + 0.55 * v + rng.normal(0, 0.22, count), 0.10, 1.7)
        for i in np.argsort(v * 0.3 + rng.random(count)):
            cx = 720 * SCALE * (center + size * u[i] * 0.9)
            cy = HORIZON + 4 * SCALE - 720 * SCALE * size * (0.75 + 0.85 * v[i])
            r = 720 * SCALE * size * rng.uniform(0.06, 0.14)
            shade = tuple((255 * np.clip(hue * light[i], 0, 1) ** (1 / 2.2)).astype(int).tolist())
            draw.ellipse([cx - r, cy - r * 0.8, cx + r, cy + r * 0.8], fill=shade)


# ---------------------------------------------------------------------------------------------- the meadow


def meadow_shadow():
    """A function giving the sunlight (0..1) at ground points (x, z): the dog shades the grass behind it."""
    x, z = np.meshgrid(np.linspace(-4, 7, 160), np.linspace(11, 21, 140))
    flat = np.stack([x, np.full_like(x, 0.12), z]).reshape(3, -1).astype(np.float32)
    light = in_chunks(sun_shadow, flat)
    close = np.clip(in_chunks(distance, flat) / 0.7 + 0.25, 0.3, 1)
    table = gaussian_filter((0.22 + 0.78 * light).reshape(x.shape) * close.reshape(x.shape), 1.0)

    def look_up(gx, gz):
        """Sunlight at ground points."""
        return map_coordinates(table, [(gz - 11) / 10 * 139, (gx + 4) / 11 * 159], order=1, mode="nearest")

    return look_up


def ground_color(x, z, sun):
    """Linear color (3, n) of grass at ground points."""
    point = np.stack([x, z, np.full_like(x, 1.5)])
    patch, fine = fractal(point, 0.35, 3), noise(point, 2.3)
    green = mix(srgb(74, 116, 36), srgb(150, 160, 66), ramp(patch, 0.3, 0.75))
    green = mix(green, srgb(46, 84, 30), 0.6 * ramp(fine, 0.5, 0.9))
    haze = 0.55 * ramp(z, 20, 140)
    return mix(green, srgb(168, 186, 120), haze) * (0.30 + 0.85 * sun)


def meadow_floor(image, sunlight):
    """Paint the ground under the blades, below the horizon."""
    rows = np.arange(int(HORIZON) + 1, HEIGHT)
    z, x = np.meshgrid(FOCAL * EYE_LEVEL / (rows + 0.5 - HORIZON), np.arange(WIDTH) + 0.5, indexing="ij")
    x = (x - CENTER_X) * z / FOCAL
    color = ground_color(x.ravel(), z.ravel(), sunlight(x.ravel(), z.ravel()))
    streak = 0.55 + 0.7 * noise(np.stack([x.ravel() * 4, 3 * np.log(z.ravel()) * 9, z.ravel() * 0]), 1.0)
    picture = tone(color * streak * 1.2).reshape(3, *x.shape).transpose(1, 2, 0)
    image.paste(to_canvas(picture), (0, int(HORIZON) + 1))


def grow(rng, near, far, count):
    """Random ground points between two depths which cover the view, far ones first."""
    z = np.sort(near + (far - near) * rng.random(count))[::-1]
    half = (0.5 * WIDTH + 30 * SCALE) / FOCAL
    return z * rng.uniform(-half, half, count), z


def blades(rng, near, far, count, tall, sunlight):
    """Blades of grass between two depths: world points of root, middle and tip, width and two colors."""
    x, z = grow(rng, near, far, count)
    # The dog has trodden the grass down around it.
    trodden = np.hypot((x - 0.4) / 2.6, (z - 14.2) / 1.9)
    tall = tall * (0.50 + 0.50 * ramp(trodden, 0.7, 1.3))
    tall = tall * rng.uniform(0.45, 1.15, count) * (0.7 + 0.6 * noise(np.stack([x, z, z * 0]), 0.7))
    lean, twist = rng.normal(0.10, 0.30, (2, count)) * tall
    root = np.stack([x, np.zeros(count), z])
    middle = root + np.stack([0.30 * lean, 0.60 * tall, 0.3 * twist])
    tip = root + np.stack([lean, tall * (1 - 0.25 * np.abs(lean / tall)), twist])
    sun = sunlight(x, z)
    color = ground_color(x, z, sun) * rng.uniform(0.55, 1.35, count)
    dry = (rng.random(count) < 0.06) * 0.7
    color = mix(color, srgb(206, 190, 120) * (0.3 + 0.85 * sun), dry)
    lit = color * np.array([[2.0], [1.75], [1.45]])
    width = rng.uniform(0.018, 0.036, count) * FOCAL / z
    return root, middle, tip, width, tone(color * 0.75), tone(lit)


def paint_blades(image, grass, zoom):
    """Paint blades on a canvas which is zoom times the picture."""
    root, middle, tip, width, color, lit = grass
    ends = [zoom * project(p) for p in (root, middle, tip)]
    strokes(image, *ends, np.maximum(zoom * width, 1.2), color, lit)


def blade_depth(grass, zoom):
    """Depth of the nearest blade per canvas pixel, infinite where there is none."""
    image = Image.new("F", (WIDTH * zoom, HEIGHT * zoom), float("inf"))
    root, middle, tip, width, _, _ = grass
    depth = root[2][None]
    ends = [zoom * project(p) for p in (root, middle, tip)]
    strokes(image, *ends, np.maximum(zoom * width, 1.2), depth)
    return np.asarray(image)


def flowers(image, rng, near, far, count, zoom, sunlight):
    """Daisies, buttercups and clover heads scattered between two depths."""
    draw = ImageDraw.Draw(image)
    x, z = grow(rng, near, far, count)
    kind, sun = rng.integers(0, 4, count), sunlight(x, z)
    tall, lean = rng.uniform(0.28, 0.60, count), rng.normal(0, 0.07, (2, count))
    foot = zoom * project(np.stack([x, 0 * x, z]))
    knee = zoom * project(np.stack([x + lean[0], 0.55 * tall, z]))
    top = zoom * project(np.stack([x + lean[0] + lean[1], tall, z]))
    petals = [srgb(250, 248, 240), srgb(250, 208, 40), srgb(250, 246, 236), srgb(190, 112, 184)]
    for i in range(count):
        pixels = zoom * FOCAL / z[i]
        draw.line([*foot[:, i], *knee[:, i], *top[:, i]], fill=(98, 130, 46), width=max(1, round(pixels * 0.016)))
        light = petals[kind[i]][:, 0] * (0.35 + 1.3 * sun[i])
        bloom(draw, rng, top[:, i], pixels * (0.085 if kind[i] % 2 == 0 else 0.055), light, kind[i] == 3)


def bloom(draw, rng, center, size, light, clover):
    """One flower seen from the side: a ring of petals around a yellow heart, or a ball of clover florets."""
    count = 26 if clover else 11
    turn, squash = rng.uniform(0, 1), 0.9 if clover else rng.uniform(0.40, 0.70)
    for k in range(count):
        angle = 2 * np.pi * (k + turn) / count
        reach = size * (0.9 * rng.random() if clover else rng.uniform(0.62, 0.78))
        px, py = center[0] + reach * np.cos(angle), center[1] + squash * reach * np.sin(angle)
        r = size * (0.22 if clover else 0.27)
        # Petals at the back lie in the shade of the heart.
        fill = tuple(tone(light * (0.82 + 0.18 * np.sin(angle)) * rng.uniform(0.75, 1.05)).astype(int).tolist())
        draw.ellipse([px - r, py - 0.85 * r, px + r, py + 0.85 * r], fill=fill)
    if not clover:
        r = size * 0.34
        box = [center[0] - r, center[1] - 0.8 * r, center[0] + r, center[1] + 0.7 * r]
        draw.ellipse(box, fill=(226, 164, 30))


def background(rng, sunlight):
    """Everything behind the focus plane, painted far to near and blurred step by step, at picture size."""
    image = sky()
    ridge(image, 74, 70, 11.0, srgb(138, 166, 186))
    ridge(image, 44, 60, 4.0, srgb(108, 142, 128))
    image = defocus(image, 1.5 * SCALE + 0.4)
    meadow_floor(image, sunlight)
    trees(image, rng)
    image = defocus(image, 4.0 * SCALE)
    bands = ((40, 110, 26000, 500, 3.0), (24, 40, 26000, 150, 2.4), (17.5, 24, 30000, 46, 1.2))
    for near, far, grass, blooms, blur in bands:
        paint_blades(image, blades(rng, near, far, grass, 0.50, sunlight), 1)
        flowers(image, rng, near, far, blooms, 1, sunlight)
        image = defocus(image, blur * SCALE + 0.3)
    return image


# ---------------------------------------------------------------------------------------------- the dog


def cast(zoom):
    """Where rays through a grid zoom times the picture meet the dog: flat pixel index, rays, depth of these pixels."""
    rows, columns = HEIGHT * zoom, WIDTH * zoom
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    rays = np.stack([((x + 0.5) / zoom - CENTER_X) / FOCAL, (HORIZON - (y + 0.5) / zoom) / FOCAL, np.ones_like(x)])
    rays = rays.reshape(3, -1)
    depth = in_chunks(march, rays)
    hit = np.flatnonzero(np.isfinite(depth))
    return hit, rays[:, hit], depth[hit]


def render_dog(zoom):
    """March the dog on a grid zoom times the picture: flat pixel index, points, normals, material, radiance."""
    hit, rays, depth = cast(zoom)
    points = rays * depth + np.array([[0], [EYE_LEVEL], [0]], np.float32)
    normals = in_chunks(surface_normal, points)
    material = in_chunks(parts, points).argmin(0)
    return hit, points, normals, material, in_chunks(light_dog, points, normals, material)


def coat(points, material):
    """Direction (world, 3 x n) in which the hair lies, its length and how far it stands off."""
    head, body = to_local(points, HEAD_ORIGIN, HEAD_AXES), to_local(points, BODY_ORIGIN, BODY_AXES)
    is_head = on_head(points)
    side = np.abs(head[0])
    away = head - np.array([[0], [-0.10], [1.55]])
    away = away / np.sqrt((away**2).sum(0)) + np.stack([0 * side, -0.75 * ramp(side, 0.35, 0.9), 0 * side])
    upward = np.stack([0.44 * np.sign(head[0]), np.full_like(side, 0.9), 0 * side])
    away = np.where(material == EAR, upward, away)
    x, y, z = body
    drop = np.maximum(ramp(z, 0.6, 1.5), ramp(-y, -1.3, -0.8))
    drop = np.maximum(drop, 0.8 * ramp(-z, 2.3, 3.0))
    lie = np.stack([0.15 * np.sign(x), -0.30 - 0.9 * drop, -1.0 + drop])
    flow = mix(BODY_AXES.T @ lie, HEAD_AXES.T @ away, is_head)
    ruff = ramp(z, 0.9, 1.6) * ramp(y, 0.9, 1.4)
    long = mix(0.20 + 0.20 * ruff, 0.055, ramp(-y, -1.1, -0.4))
    cheek = ramp(side, 0.45, 0.85) * ramp(-head[1], -0.25, 0.25)
    face = 0.055 + 0.09 * ramp(-head[2], -0.9, -0.2) + 0.16 * cheek
    pair = mirror(head)
    near_eye = ramp(-np.hypot(pair[0] - EYE_CENTER[0], pair[1] - EYE_CENTER[1]), -0.30, -0.15) * (head[2] > 0.4)
    face = face * (1 - 0.8 * np.maximum(lip_line(pair), 0.9 * near_eye))
    ear = ear_local(head)
    tuft = 0.07 + 0.22 * ramp(-ear[1], -0.40, -0.05) * ramp(-ear_outline(ear), 0.04, 0.12) * (ear[2] > -0.02)
    long = np.where(material == EAR, tuft, mix(long, face, is_head))
    return flow, long, mix(0.30 + 0.15 * ruff, 0.22 + 0.2 * cheek, is_head)


def fur(image, dog, rng, count, zoom):
    """Cover the dog with hairs which start on the skin, follow the coat and take their color from the light there."""
    _, points, normals, material, radiance = dog
    furry = np.flatnonzero(material <= EAR)
    _, long, _ = coat(points[:, furry[::16]], material[furry[::16]])
    chance = np.cumsum(np.repeat(1 / long, 16)[: furry.size], dtype=np.float64)
    pick = furry[np.searchsorted(chance, rng.random(count) * chance[-1])]
    at, normal = points[:, pick].astype(np.float64), normals[:, pick]
    flow, long, lift = coat(at, material[pick])
    clump = noise(at, 5.0) - 0.5
    flow = flow - (flow * normal).sum(0) * normal
    flow = flow / (np.sqrt((flow**2).sum(0)) + 1e-6)
    bend = 0.9 * (noise(at + 9.1, 3.2) - 0.5) + rng.normal(0, 0.16, count)
    flow = flow + bend * np.cross(normal, flow, axis=0)
    long = long * rng.uniform(0.6, 1.25, count)
    middle = at + long * (0.5 * flow + 0.45 * lift * normal)
    tip = at + long * (flow + (0.55 * lift + rng.uniform(0, 0.15, count)) * normal)
    # Hair nearer to the nose, and higher up on the chest, lies over the hair behind it.
    order = np.argsort(-(at[2] - 0.5 * at[1]) + rng.normal(0, 0.10, count))
    layer = np.empty(count)
    layer[order] = rng.random(count)
    bright = (0.76 + 0.40 * layer) * (1 + 0.75 * clump) * rng.normal(1, 0.07, count)
    color = radiance[:, pick] * bright
    width = zoom * SCALE * rng.uniform(0.7, 1.25, count)
    ends = [zoom * project(p)[:, order] for p in (at, middle, tip)]
    strokes(image, *ends, width[order], tone(color)[:, order], tone(color * 1.12)[:, order])


def paint_dog(image, dog, rng, zoom):
    """Paint skin, hair and then the bare parts (eyes, nose, mouth) which no hair may cover."""
    hit, _, _, material, radiance = dog
    picture = np.asarray(image).copy().reshape(-1, 3)
    picture[hit] = tone(radiance * np.where(material <= EAR, 0.85, 1.0)).T
    skin = Image.fromarray(picture.reshape(image.height, image.width, 3))
    fur_image = skin.copy()
    fur(fur_image, dog, rng, round(300000 * min(1, SCALE**1.5)), zoom)
    bare = np.zeros(picture.shape[0], np.float32)
    bare[hit[material > EAR]] = 1
    bare = gaussian_filter(bare.reshape(image.height, image.width), 0.8 * zoom * SCALE)
    bare = np.clip((bare - 0.45) * 4, 0, 1)
    fur_image.paste(skin, mask=Image.fromarray((bare * 255).astype(np.uint8)))
    return fur_image


def whiskers(image, rng, zoom):
    """A few long pale whiskers on both sides of the muzzle."""
    for side in (-1, 1):
        count = 5
        row = rng.uniform(0, 1, count)
        root = np.stack([side * np.full(count, 0.29), -0.38 - 0.14 * row, rng.uniform(1.10, 1.25, count)])
        reach = rng.uniform(0.4, 0.75, count)
        middle = root + np.stack([side * 0.52 * reach, 0.01 - 0.10 * row, -0.06 * reach])
        tip = root + np.stack([side * reach, -0.02 - 0.24 * row, -0.16 * reach])
        ends = [zoom * project(HEAD_AXES.T @ p + HEAD_ORIGIN[:, None]) for p in (root, middle, tip)]
        strokes(image, *ends, np.full(count, 0.5 * zoom * SCALE), np.full((3, count), 222.0))


def dog_depth(dog, zoom):
    """Depth of the dog per canvas pixel, grown outwards to reach the hair beyond its outline; zero elsewhere."""
    depth = np.zeros(HEIGHT * WIDTH * zoom * zoom, np.float32)
    depth[dog[0]] = dog[1][2]
    depth = depth.reshape(HEIGHT * zoom, WIDTH * zoom)
    return np.where(depth > 0, depth, maximum_filter(depth, round(24 * zoom * SCALE)))


def paint(rng):
    """The whole picture as float 8-bit values (h, w, 3)."""
    zoom = SUPER
    sunlight = meadow_shadow()
    image = background(rng, sunlight).resize((WIDTH * zoom, HEIGHT * zoom), Image.Resampling.BICUBIC)
    grass = blades(rng, 11.0, 17.5, 80000, 0.34, sunlight)
    paint_blades(image, grass, zoom)
    dog = render_dog(zoom)
    with_dog = paint_dog(image, dog, rng, zoom)
    whiskers(with_dog, rng, zoom)
    # The dog stands in the grass: blades nearer to the camera than its coat stay in front.
    hidden = blade_depth(grass, zoom) < dog_depth(dog, zoom)
    with_dog.paste(image, mask=Image.fromarray(hidden))
    flowers(with_dog, rng, 11.4, 11.9, 9, zoom, sunlight)
    image = with_dog.reduce(zoom)
    front = image.copy()
    paint_blades(front, blades(rng, 9.6, 11.2, 2600, 0.50, sunlight), 1)
    front = np.asarray(defocus(front, 2.2 * SCALE + 0.3), np.float64)
    fade = ramp(np.arange(HEIGHT) / HEIGHT, 0.93, 0.985)[:, None, None]
    return mix(np.asarray(image, np.float64), front, fade)


def grade(picture, rng):
    """Gentle contrast, vignette and film grain."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    value = picture / 255 * (1 - 0.16 * np.clip(x * x + y * y - 0.5, 0, None))[:, :, None]
    value = value + 0.10 * (value - 0.5) * value * (1 - value) * 4
    grain = gaussian_filter(rng.normal(0, 1, (HEIGHT, WIDTH)), 0.6)[:, :, None]
    return np.clip(value * 255 + 2.0 * grain, 0, 255)


def silhouette():
    """Where the dog and its hair are: (h, w) in 0..255, the edge soft over a hair's length."""
    inside = np.zeros(HEIGHT * WIDTH, np.float32)
    inside[cast(1)[0]] = 255
    return gaussian_filter(maximum_filter(inside.reshape(HEIGHT, WIDTH), round(6 * SCALE)), 2 * SCALE)


def save(picture, output):
    """Put a picture in place in one step."""
    temporary = output.with_name(output.name + ".tmp")
    picture.save(temporary, "PNG" if output.suffix == ".png" else "JPEG", quality=92)
    temporary.replace(output)


def main(arguments):
    """Paint the photo, or the mask alone."""
    if arguments[:1] == ["--mask"]:
        if len(arguments) != 2:
            sys.exit("make_corgi.py: --mask: name the file to write, such as mask.png")
        save(Image.fromarray(silhouette().astype(np.uint8)), Path(arguments[1]))
        return
    if len(arguments) > 1 or "".join(arguments).startswith("-"):
        sys.exit(__doc__)
    rng = np.random.default_rng(20240601)
    picture = to_canvas(grade(paint(rng), rng))
    save(picture, Path(arguments[0]) if arguments else Path(__file__).with_name("Corgi.jpg"))


if __name__ == "__main__":
    main(sys.argv[1:])
