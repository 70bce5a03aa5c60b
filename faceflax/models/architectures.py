"""Sizes of the networks and constants of their layers.

The Linen modules, the folding of weights (:mod:`faceflax.inference.folding`) and the records of weights read them here,
so that none of the last two needs Flax.
"""

from __future__ import annotations

DETECTORS: tuple[str, ...] = ("face_detector",)
"""Networks that find faces; all others label them."""

MIN_IMAGE_SIZE = 32
"""Pixels a side of the smallest images that the networks take."""

MAX_IMAGE_SIZE = 4096
"""Pixels a side: more is a slip or a damaged record, and would exhaust the memory."""

EPSILON = 1e-3
"""What batch normalisation adds to a variance. As MOMENTUM it is Keras's, which imported weights were trained with."""

MOMENTUM = 0.99
"""Decay of batch normalisation's running statistics, for each training step."""

MINI_XCEPTION_STEM = 8
"""Features of both convolutions at the start of mini-Xception."""

MINI_XCEPTION_BLOCKS: tuple[int, ...] = (16, 32, 64, 128)
"""Features of mini-Xception's residual modules."""

SEQUENTIAL_CNN_STAGES: tuple[tuple[int, int], ...] = ((16, 7), (32, 5), (64, 3), (128, 3))
"""Features and kernel size of each pair of convolutions of sequential_cnn that ends in a pooling."""

SEQUENTIAL_CNN_TOP = 256
"""Features of the convolution before the last one of sequential_cnn."""

VGG_STAGES: tuple[tuple[int, int], ...] = ((32, 2), (64, 2), (128, 3), (256, 3))
"""Features and number of the convolutions of vgg between two poolings."""

DETECTOR_PATCH = 4
"""Side of the patches, in pixels, that face_detector cuts an image into."""

DETECTOR_CHANNELS = 3
"""Of the images that face_detector takes: blue, green and red, in OpenCV's order."""

DETECTOR_WIDTHS: tuple[int, ...] = (32, 64, 96, 96)
"""Features of face_detector at strides 4, 8, 16 and 32."""

DETECTOR_UNITS: tuple[int, ...] = (1, 2, 2, 1)
"""Residual units of face_detector at these strides."""

DETECTOR_STRIDES: tuple[int, ...] = (8, 16, 32)
"""Pixels from one place to the next in the three maps that face_detector looks for faces in."""

DETECTOR_OUTPUTS = 15
"""What face_detector says of a place: a score, four numbers of the box, and x and y of five landmarks."""
