"""Still and animated images, read with Pillow: any format and depth becomes uint8 BGR in sRGB, upright and opaque."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, ImageCms, UnidentifiedImageError
from PIL import Image as Pillow

from faceflax.errors import FaceflaxError, said
from faceflax.faces.frame import Image
from faceflax.media.kinds import HEAD, kind_of, not_media, read_head
from faceflax.opencv import cv2

if TYPE_CHECKING:  # only annotations need it
    from PIL.ImageFile import ImageFile

BACKGROUND: tuple[int, int, int] = (255, 255, 255)
"""BGR of what is seen through transparent pixels: white, as on a page."""

MOST_PIXELS = 2**28
"""Images with more pixels are refused before any is decoded: they would need gigabytes."""

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "HEIF", "JPEG2000", "PPM")
_ANIMATED = {"AVIF", "GIF", "PNG", "WEBP"}
_SUBFILE_TYPE = 254  # tag of a TIFF file's pages; its lowest bit is set where one is another's smaller copy
_SHORTEST, _USUAL = 10, 100  # milliseconds; browsers show an animation's image for the second where it says less
# Flips and turns by the EXIF orientation, as OpenCV's code for a turn and axis for a flip after it.
_TURNS: dict[int, tuple[int | None, int | None]] = {
    2: (None, 1),
    3: (cv2.ROTATE_180, None),
    4: (None, 0),
    5: (cv2.ROTATE_90_CLOCKWISE, 1),
    6: (cv2.ROTATE_90_CLOCKWISE, None),
    7: (cv2.ROTATE_90_COUNTERCLOCKWISE, 1),
    8: (cv2.ROTATE_90_COUNTERCLOCKWISE, None),
}


class Reduced(NamedTuple):
    """An image that may have been read smaller than it is.

    Attributes:
        image: uint8 ``[height, width, 3]`` BGR.
        scale: how many of the file's pixels one of its pixels is, in x and in y; 1 where it was not reduced.
    """

    image: Image
    scale: tuple[float, float]


def read_image(
    file: Path | bytes | BinaryIO,
    *,
    field: str = "source",
    name: Path | None = None,
    longest: int | None = None,
    background: tuple[int, int, int] = BACKGROUND,
) -> Reduced:
    """Reads a still image, or the first image of an animated one.

    It is turned as its EXIF record says, its colours are converted from its colour profile to sRGB, and transparent
    pixels show ``background``.

    Args:
        file: its path, its encoded bytes, or an open file.
        field: what the caller names it by, for the error.
        name: its path for the error, where ``file`` is not one.
        longest: reduce it to this many pixels on its longer side. A JPEG is then decoded at an eighth, a quarter or
            half of its size where that is enough, which is many times faster.
        background: BGR.

    Raises:
        FaceflaxError: it is not an image, not whole, or has more than :data:`MOST_PIXELS` pixels.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> encoded = io.BytesIO()
        >>> Image.new("RGB", (40, 20), "red").save(encoded, "PNG")
        >>> read_image(encoded.getvalue()).image[0, 0]
        array([  0,   0, 255], dtype=uint8)
    """
    with open_image(file, field=field, name=name) as picture:
        return decode(picture, field, _path(file, name), longest=longest, background=background)


def read_pages(
    file: Path | BinaryIO, *, field: str = "source", name: Path | None = None, longest: int | None = None
) -> Iterator[Reduced]:
    """Yields the pages of a TIFF file, without those that are another one's smaller copy; of others the one image.

    Args:
        file: its path, or an open file.
        field: what the caller names it by, for the error.
        name: its path for the error, where ``file`` is not one.
        longest: see :func:`read_image`.

    Raises:
        FaceflaxError: as :func:`read_image`; the pages before a damaged one have been yielded.
    """
    path = _path(file, name)
    with open_image(file, field=field, name=name) as picture:
        yield decode(picture, field, path, longest=longest)
        index = 0
        while picture.format == "TIFF":
            index += 1
            try:
                picture.seek(index)
                smaller = getattr(picture, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & 1
            except EOFError:
                return
            except Exception as error:  # a damaged file makes Pillow raise almost anything
                raise not_media(field, path, f" from its page {index + 1} on ({said(error)})", "image") from None
            if not smaller:
                _check_size(picture, field, path)
                yield decode(picture, field, path, longest=longest)


@contextmanager
def open_image(
    file: Path | bytes | BinaryIO, *, field: str = "source", name: Path | None = None
) -> Iterator[ImageFile]:
    """Opens an image, of which nothing is decoded yet, for the time of the block.

    Raises:
        FaceflaxError: it is not an image, or has more than :data:`MOST_PIXELS` pixels.
    """
    path = _path(file, name)
    with ExitStack() as stack:
        if isinstance(file, Path):
            read_head(field, file)
            file = stack.enter_context(open(file, "rb"))
        elif isinstance(file, bytes):
            file = io.BytesIO(file)
        picture = _identify(file)
        if picture is None:
            raise not_media(field, path)
        _check_size(picture, field, path)
        yield picture


def is_animated(picture: ImageFile) -> bool:
    """Tells whether an open image has several images that are shown one after the other."""
    return picture.format in _ANIMATED and bool(getattr(picture, "is_animated", False))


def may_be_animated(head: bytes) -> bool:
    """Tells by a file's first bytes whether it is worth to ask :func:`is_animation`."""
    return (
        head.startswith(b"GIF8")
        or (head.startswith(b"\x89PNG") and b"acTL" in head)
        or (head[8:16] == b"WEBPVP8X" and bool(head[20] & 2))
        or head[4:12] == b"ftypavis"
    )


def is_animation(file: Path | BinaryIO) -> bool:
    """Tells whether a file is an image with several images that are shown one after the other."""
    try:
        with open_image(file) as picture:
            return is_animated(picture)
    except FaceflaxError:
        return False


def decode(
    picture: ImageFile,
    field: str,
    path: Path,
    *,
    longest: int | None = None,
    background: tuple[int, int, int] = BACKGROUND,
) -> Reduced:
    """Decodes an open image; see :func:`read_image`."""
    size = picture.size
    try:
        if longest is not None and picture.format in ("JPEG", "MPO") and max(size) > longest:
            picture.draft(None, (_share(size[0], longest, max(size)), _share(size[1], longest, max(size))))
        picture.load()
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        image = _upright(_to_bgr(picture, background), orientation)
    except MemoryError:
        raise FaceflaxError(field, path, "needs more memory than there is", "reduce it") from None
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise not_media(field, path, f" ({said(error)})", "image") from None
    if orientation in (5, 6, 7, 8):
        size = size[::-1]
    if longest is not None and max(image.shape[:2]) > longest:
        shrink = longest / max(image.shape[:2])
        inner = tuple(max(1, round(side * shrink)) for side in image.shape[1::-1])
        image = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    return Reduced(image, (size[0] / image.shape[1], size[1] / image.shape[0]))


def animation(picture: ImageFile, field: str, path: Path) -> Iterator[tuple[Image, float]]:
    """Yields the images of an open animated one, composed, and when each is shown, in seconds.

    Raises:
        FaceflaxError: it is damaged; what was before that has been yielded.
    """
    time, index = 0.0, 0
    while True:
        try:
            picture.seek(index)
            picture.load()
            shown = float(picture.info.get("duration") or 0)
            image = _to_bgr(picture, BACKGROUND)
        except EOFError:
            return
        except Exception as error:
            raise not_media(field, path, f" behind its first {index} images ({said(error)})", "image") from None
        yield image, time
        time += (shown if shown > _SHORTEST else _USUAL) / 1000
        index += 1


def encode(image: Image, suffix: str) -> bytes:
    """Encodes an image; nothing but its pixels goes into the file.

    Args:
        image: uint8 ``[height, width, 3]`` BGR.
        suffix: of :data:`faceflax.media.kinds.IMAGE_SUFFIXES`.

    Raises:
        ValueError: another suffix, or a size that the format does not have.
    """
    formats: dict[str, tuple[str, dict[str, Any]]] = {
        ".bmp": ("BMP", {}),
        ".jpeg": ("JPEG", {"quality": 95}),
        ".jpg": ("JPEG", {"quality": 95}),
        ".png": ("PNG", {"compress_level": 3}),
        ".tif": ("TIFF", {"compression": "tiff_lzw"}),
        ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
        ".webp": ("WEBP", {"quality": 90}),
    }
    if suffix.lower() not in formats:
        raise ValueError(f"its suffix is none of {', '.join(formats)}")
    name, options = formats[suffix.lower()]
    file = io.BytesIO()
    try:
        Pillow.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).save(file, name, **options)
    except OSError as error:  # WebP ends at 16383 pixels, JPEG at 65535
        raise ValueError(f"{name} cannot hold it: {said(error)}") from None
    return file.getvalue()


def _check_size(picture: PIL.Image.Image, field: str, path: Path) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        problem = f"has {picture.width} x {picture.height} pixels, more than can be read"
        raise FaceflaxError(field, path, problem, f"reduce it to at most {MOST_PIXELS / 1e6:.0f} megapixels")


def _share(side: int, longest: int, longer: int) -> int:
    return math.ceil(side * longest / longer)


def _path(file: Path | bytes | BinaryIO, name: Path | None) -> Path:
    return file if isinstance(file, Path) else name or Path("image")


def _identify(file: BinaryIO) -> ImageFile | None:
    """Opens an image with one of the formats that decode by themselves: others start programs, as PostScript does.

    Pillow's own door warns and stops at sizes that phones' photographs have.
    """
    _register()
    start = file.tell()
    head = file.read(HEAD)
    if kind_of(head) != "image":
        return None
    for name in _FORMATS:
        if name not in Pillow.OPEN:
            continue
        factory, accept = Pillow.OPEN[name]
        accepted = accept is None or accept(head[:16])
        if not accepted or isinstance(accepted, str):
            continue
        file.seek(start)
        try:
            picture: ImageFile = factory(file, "")
        except (SyntaxError, UnidentifiedImageError):  # Pillow's word for another format
            continue
        except Exception:  # a damaged header makes Pillow raise almost anything
            return None
        return picture
    return None


@functools.cache
def _register() -> None:
    import pillow_heif

    Pillow.init()
    pillow_heif.register_heif_opener()


def _to_bgr(picture: PIL.Image.Image, background: tuple[int, int, int]) -> Image:
    mode = picture.mode
    if mode == "F":
        raise ValueError("it holds real numbers, whose black and white nobody knows")
    if mode == "I" or mode.startswith("I;16"):  # grey, of 16 bits
        grey = np.asarray(picture)
        return cv2.cvtColor((grey.clip(0, 65535) / 257 + 0.5).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    profile = picture.info.get("icc_profile")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        if profile:
            rgba = _to_srgb(rgba, profile, "RGBA")
        pixels = np.asarray(rgba)
        bgr: np.ndarray = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGR)
        alpha: np.ndarray = pixels[..., 3:].astype(np.float32) / 255
        return (bgr * alpha + np.array(background, np.float32) * (1 - alpha) + 0.5).astype(np.uint8)
    if mode in ("P", "1"):
        picture = picture.convert("RGB" if mode == "P" else "L")
    if profile:
        picture = _to_srgb(picture, profile, "RGB")
    if picture.mode == "L":
        return cv2.cvtColor(np.asarray(picture), cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)


def _to_srgb(picture: PIL.Image.Image, profile: bytes, mode: Literal["RGB", "RGBA"]) -> PIL.Image.Image:
    """Converts colours from a profile; a damaged one, or one for other channels, counts as none, as in browsers."""
    transform = _transform(profile, picture.mode, mode)
    if transform is None:
        return picture
    return ImageCms.applyTransform(picture, transform) or picture


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str, target: str) -> ImageCms.ImageCmsTransform | None:
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(given):
            return None
        return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, target)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _upright(image: Image, orientation: object) -> Image:
    turn, flip = _TURNS.get(orientation, (None, None)) if isinstance(orientation, int) else (None, None)
    if turn is not None:
        image = cv2.rotate(image, turn)
    return image if flip is None else cv2.flip(image, flip)
