"""One picture's colours on another. Pictures are [H,W,3] RGB 0..255."""

import numpy as np
from PIL import Image

import reader


def luminance_of(image, source):
    """The luminance (Y of YCbCr) of one picture with the chroma of another. Two [H,W,3] RGB 0..255 -> the same."""
    luminance = reader.to_pil(image).convert("YCbCr").getchannel(0)
    _, blue, red = reader.to_pil(source).convert("YCbCr").split()
    return np.asarray(Image.merge("YCbCr", (luminance, blue, red)).convert("RGB"))


def gray(image):
    """A picture's luminance alone: [H,W,3] RGB 0..255 -> the same, float32, three equal channels."""
    return np.asarray(reader.to_pil(image).convert("L").convert("RGB"), np.float32)


def match_luminance(image, source):
    """A picture's luminance with another's mean and standard deviation. Two [H,W,3] of any sizes -> the first's, gray.

    Of luminance-only transfer (Gatys et al. 2016, "Preserving color in neural artistic style transfer"). Clipped to 0..255.
    """
    own, wanted = gray(image), gray(source)
    moved = (own - own.mean()) * (wanted.std() / max(own.std(), 1e-3)) + wanted.mean()
    return np.clip(moved, 0, 255).astype(np.float32)


def match_covariance(image, source):
    """A picture recoloured to the mean and covariance of another's pixels. Two [H,W,3], of any sizes -> the first's shape.

    The symmetric linear map of Gatys et al. 2016, "Preserving color in neural artistic style transfer". Clipped to 0..255.
    """
    pixels, wanted = (np.asarray(x, np.float64).reshape(-1, 3) for x in (image, source))
    map_ = _root(np.cov(wanted.T, bias=True)) @ _root(np.cov(pixels.T, bias=True), -0.5)
    moved = (pixels - pixels.mean(0)) @ map_.T + wanted.mean(0)
    return np.clip(moved, 0, 255).astype(np.float32).reshape(np.shape(image))


def _root(covariance, power=0.5):
    """A power of a symmetric matrix [3,3]; directions without variance, as in a gray picture, stay so."""
    values, vectors = np.linalg.eigh(covariance)
    powers = np.where(values > 1e-5, np.maximum(values, 1e-5) ** power, 0)
    return (vectors * powers) @ vectors.T
