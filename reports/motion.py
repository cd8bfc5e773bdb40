"""Measures how steady stylized videos are: on moves over a still picture, whose optical flow is known, and on noise.

The warping error of two results in a row is the mean squared difference, in 0..255, between the second and the first as
the exact flow carries it along, where the second's place was visible in the first.
"""

import numpy as np

import losses
from core import pictures, stability
from methods import johnson

MOVES = ("pan", "zoom", "turn")
FRAMES = 8  # of each move
NOISY_FRAMES, SETTLING, SIGMA = 16, 6, 2.0  # of the static picture: how many, how many of them come first, their noise
ROOM = 1.35  # the still's sides divided by the frames', so that moves stay inside


def move(name, number, width, height):
    """The matrix [3,3] from the pixels of frame `number` of a move, (x, y, 1), to those of the still picture."""
    if name == "pan":  # 3.2 pixels a frame: slow enough to look at
        return shift(3.0 * number, 1.2 * number)
    angle = np.deg2rad(0.5 * number) if name == "turn" else 0.0
    scale = 0.99**number if name == "zoom" else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turn[:2, :2] *= scale
    to_center = shift(width / 2, height / 2)
    return shift(0.1 * width, 0.1 * height) @ to_center @ turn @ np.linalg.inv(to_center)


def shift(x, y):
    """The matrix [3,3] that moves points by x and y."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def places(matrix, width, height):
    """Where a matrix [3,3] leads each pixel of a picture: [height,width,2] float32."""
    y, x = np.mgrid[:height, :width]
    return (np.stack([x, y, np.ones_like(x)], -1) @ matrix.T)[..., :2].astype(np.float32)


def sample(picture, at):
    """The pixels of a picture [H,W,3] float32 at places [h,w,2], between its own by cubic interpolation."""
    cv2 = stability.cv2
    return cv2.remap(np.float32(picture), at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def moving_frames(photo, name, width, height):
    """FRAMES frames [height,width,3] uint8 of a move over a photo [H,W,3] that covers ROOM times as much."""
    return [
        np.clip(np.rint(sample(photo, places(move(name, number, width, height), width, height))), 0, 255).astype(np.uint8)
        for number in range(FRAMES)
    ]


def noisy_frames(photo, width, height):
    """NOISY_FRAMES times the same part of a photo, each with other noise: [height,width,3] uint8."""
    rng = np.random.default_rng(0)
    still = np.float32(photo[:height, :width])
    noise = (rng.normal(0, SIGMA, still.shape) for _ in range(NOISY_FRAMES))
    return [np.clip(np.rint(still + grain), 0, 255).astype(np.uint8) for grain in noise]


def warping_error(results, name):
    """The mean warping error of the results [H,W,3] for the frames of a move."""
    height, width = results[0].shape[:2]
    errors = []
    for number in range(1, len(results)):
        to_before = np.linalg.inv(move(name, number - 1, width, height)) @ move(name, number, width, height)
        at = places(to_before, width, height)
        visible = ((at >= 0) & (at <= np.float32([width - 1, height - 1]))).all(2)
        difference = results[number] - sample(results[number - 1], at)
        errors.append((difference[visible] ** 2).mean())
    return float(np.mean(errors))


def deviation(frames):
    """How much pixels change in time: the root of the mean variance of all but the first SETTLING frames, [H,W,3] each."""
    return float(np.sqrt(np.mean(np.var(np.float32(frames[SETTLING:]), axis=0))))


def steady(frames, results, strength):
    """The results [H,W,3] of frames [h,w,3] as --stability `strength` makes them."""
    stabilizer = stability.Stabilizer(strength)
    return [stabilizer(frame, result) for frame, result in zip(frames, results, strict=True)]


def cover(photo, width, height):
    """A photo [H,W,3], resized and cropped to ROOM times the frames' size: [h,w,3] float32."""
    height, width = int(np.ceil(ROOM * height)), int(np.ceil(ROOM * width))
    scale = max(height / photo.shape[0], width / photo.shape[1])
    size = [max(least, round(side * scale)) for least, side in zip((height, width), photo.shape[:2], strict=True)]
    return pictures.resize(photo, size)[:height, :width]


def style_error_of(painting):
    """A function from results [[H,W,3]] to their mean style error to a painting [h,w,3], in the form "relative"."""
    loss = losses.PerceptualLoss(johnson.JohnsonConf(style_image="none", naming="none", style_form="relative"))
    targets = loss.style_targets(np.float32(painting)[None])

    def measure(results):
        errors = (loss.errors(result[None], {}, [(1.0, None, targets)])[0]["style"] for result in results)
        return float(np.mean([float(error) for error in errors]))

    return measure
