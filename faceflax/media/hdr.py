"""Videos of high dynamic range (PQ, HLG) shown on an ordinary screen, as players do."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from faceflax.faces.frame import Image
from faceflax.opencv import cv2

if TYPE_CHECKING:  # only annotations need it
    from jaxtyping import Float32, UInt8

PQ, HLG = 16, 18
"""Codes of the transfer functions SMPTE ST 2084 and ARIB STD-B67 in a video (ITU-T H.273)."""

WHITE = 203.0
"""Candela a square metre of white paper, by ITU-R BT.2408; it becomes nearly the brightest that the screen has."""

_PEAK = 1000.0  # of the screen that HLG is rendered for
_KNEE = 0.7  # what is darker stays as it is; what is brighter is compressed into the rest
# From BT.2020's primaries to those of BT.709, both linear, in the order blue, green, red.
_PRIMARIES = np.array([[1.1187, -0.1006, -0.0182], [-0.0083, 1.1329, -0.1246], [-0.0728, -0.5876, 1.6605]], np.float32)
_LUMINANCE = np.array([0.0593, 0.6780, 0.2627], np.float32)  # of BT.2020's blue, green, red


def to_sdr(image: Image, transfer: int) -> Image:
    """Returns a frame with the colours and the brightness that an ordinary screen shows.

    Args:
        image: uint8 ``[height, width, 3]`` BGR, as the video codes it.
        transfer: :data:`PQ` or :data:`HLG`.
    """
    linear: Float32[np.ndarray, "height width 3"] = cv2.LUT(image, _linear(transfer))
    if transfer == HLG:  # the screen brightens what is bright
        luminance = cv2.transform(linear, _LUMINANCE[None])
        linear *= (_PEAK / WHITE) * np.power(luminance, 0.2)[..., None]
    shown = cv2.transform(linear, _PRIMARIES)
    steps = (len(_curve()) - 1) / (_PEAK / WHITE)
    return _curve()[(shown * steps + 0.5).clip(0, len(_curve()) - 1).astype(np.uint16)]


@functools.cache
def _linear(transfer: int) -> Float32[np.ndarray, " 256"]:
    """Light of each code: for PQ in units of white, for HLG as the camera saw it, at most 1."""
    code = np.arange(256) / 255
    if transfer == PQ:
        power = code ** (1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        return (light * 10_000 / WHITE).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@functools.cache
def _curve() -> UInt8[np.ndarray, " n"]:
    """Codes of sRGB for light from 0 to the peak, evenly spaced."""
    light = np.linspace(0, _PEAK / WHITE, 2**16)
    light = np.where(light < _KNEE, light, _KNEE + (1 - _KNEE) * (1 - np.exp((_KNEE - light) / (1 - _KNEE))))
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return (255 * code + 0.5).astype(np.uint8)
