"""Images of every kind, made by the test with Pillow; what they should look like is computed apart from the reader."""

import io
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageOps

from faceflax.errors import FaceflaxError
from faceflax.media import demo, images
from faceflax.media.sources import open_source

pillow_heif.register_heif_opener()


def noise(size=(20, 30)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photograph():
    return Image.fromarray(demo.photograph()[..., ::-1])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("HEIF", "a.heic"), ("AVIF", "a.avif"), ("GIF", "a.gif"), ("WEBP", "a.webp"), ("JPEG", "a.jfif")),
        *(("JPEG", "a.jpe"), ("JPEG", "photo.mp4"), ("PNG", "photo.jpg"), ("JPEG2000", "a.jp2"), ("PPM", "no suffix")),
        *(("TIFF", "a.tif"), ("BMP", "a.dib")),
    ],
)
def test_the_content_tells_the_kind(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(encoded(photograph(), kind))
    source = open_source(str(path))
    (frame,) = source.frames
    assert (source.kind, frame.name, frame.shape) == ("image", name, (600, 512, 3))
    assert np.abs(frame.image.astype(int) - demo.photograph()).mean() < (12 if kind == "GIF" else 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("longest", [None, 15])
def test_the_orientation_is_that_of_the_exif_record(orientation, longest):
    exif = Image.Exif()
    exif[0x112] = orientation
    content = encoded(Image.fromarray(noise()), "PNG", exif=exif)
    image, scale = images.read_image(content, longest=longest)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))[..., ::-1]
    if longest is None:
        np.testing.assert_array_equal(image, expected)
    assert image.shape[0] * scale[1] == expected.shape[0]
    assert image.shape[1] * scale[0] == expected.shape[1]
    np.testing.assert_allclose(image.mean((0, 1)), expected.mean((0, 1)), atol=1)


def swapped_profile():
    """A profile in which what is called red is what sRGB calls green, made of sRGB's own."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(content[128:132], "big")
    entries = {bytes(content[i : i + 4]): i for i in range(132, 132 + 12 * count, 12)}
    red, green = (entries[name] for name in (b"rXYZ", b"gXYZ"))
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    text = entries[b"desc"]
    start = int.from_bytes(content[text + 4 : text + 8], "big")
    size = int.from_bytes(content[text + 8 : text + 12], "big")
    part = bytes(content[start : start + size])
    content[start : start + size] = part.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_colour_profile_is_applied(kind):
    picture = Image.new("RGB", (16, 16), (200, 60, 60))
    options = {} if kind == "PNG" else {"quality": 100}
    plain = images.read_image(encoded(picture, kind, **options)).image
    swapped = images.read_image(encoded(picture, kind, icc_profile=swapped_profile(), **options)).image
    np.testing.assert_allclose(plain.mean((0, 1)), [60, 60, 200], atol=3)
    np.testing.assert_allclose(swapped.mean((0, 1)), [60, 200, 60], atol=4)


def test_a_damaged_profile_counts_as_none():
    picture = Image.new("RGB", (16, 16), (200, 60, 60))
    image = images.read_image(encoded(picture, "PNG", icc_profile=b"no profile")).image
    np.testing.assert_array_equal(image[0, 0], [60, 60, 200])


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", [0, 0, 255]),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", [0, 0, 255]),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", [255, 255, 255]),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "WEBP", [127, 127, 255]),
        (Image.new("LA", (8, 8), (0, 51)), "PNG", [204, 204, 204]),
        (Image.new("1", (8, 8), 1), "TIFF", [255, 255, 255]),
        (Image.new("P", (8, 8), 0), "PNG", [0, 0, 0]),
        (Image.fromarray(np.full((8, 8), 70 * 257, np.uint16)), "PNG", [70, 70, 70]),
        (Image.fromarray(np.full((8, 8), 70 * 257, np.uint16)), "TIFF", [70, 70, 70]),
    ],
)
def test_every_mode_becomes_opaque_bgr(picture, kind, expected):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = images.read_image(encoded(picture, kind, **options)).image
    assert (image.dtype, image.shape) == (np.uint8, (8, 8, 3))
    np.testing.assert_allclose(image[4, 4], expected, atol=2)


def test_the_background_is_the_callers():
    content = encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG")
    np.testing.assert_array_equal(images.read_image(content, background=(1, 2, 3)).image[0, 0], [1, 2, 3])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "HEIF"])
@pytest.mark.parametrize("longest", [2000, 600, 150, 64])
def test_reduced_it_is_the_same_picture_and_says_how_much_smaller(kind, longest):
    photo = photograph()
    image, scale = images.read_image(encoded(photo, kind), longest=longest)
    assert max(image.shape) == min(longest, 600)
    np.testing.assert_allclose(scale, (512 / image.shape[1], 600 / image.shape[0]))
    expected = np.asarray(photo.resize(image.shape[1::-1], Image.Resampling.BOX))[..., ::-1]
    assert np.abs(image.astype(int) - expected).mean() < 6


def test_a_jpeg_is_decoded_no_larger_than_needed(monkeypatch):
    sizes = []
    to_bgr = images._to_bgr
    monkeypatch.setattr(
        images, "_to_bgr", lambda picture, ground: sizes.append(picture.size) or to_bgr(picture, ground)
    )
    content = encoded(Image.new("RGB", (4000, 3000)), "JPEG")
    images.read_image(content, longest=1000)
    images.read_image(content, longest=1001)
    assert sizes == [(1000, 750), (2000, 1500)]


def test_animations_are_videos_with_their_own_times(tmp_path):
    pictures = [Image.new("RGB", (32, 32), (level, level, level)) for level in (0, 80, 160, 240)]
    for kind, name, tolerance in (("GIF", "a.gif", 2), ("WEBP", "b.gif", 8), ("PNG", "c.mp4", 0), ("AVIF", "d", 8)):
        path = tmp_path / name
        pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], duration=[100, 300, 50, 40], loop=0)
        source = open_source(str(path))
        frames = list(source.frames)
        assert source.kind == "video"
        np.testing.assert_allclose([frame.time for frame in frames], [0, 0.1, 0.4, 0.45], atol=1e-6)
        np.testing.assert_allclose([frame.image.mean() for frame in frames], [0, 80, 160, 240], atol=tolerance)


def test_an_animation_cut_short_gives_what_is_whole_and_says_so(tmp_path, capsys):
    pictures = [Image.fromarray(noise((64, 64)) // (index + 1)) for index in range(6)]
    path = tmp_path / "a.webp"
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    path.write_bytes(path.read_bytes()[:-6000])
    assert 1 <= len(list(open_source(str(path)).frames)) < 6
    assert "a.webp' cannot be read as an image" in capsys.readouterr().err


def png_header(width, height):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000))
    with pytest.raises(FaceflaxError, match=r"^source: .*bomb\.png' has 60000 x 60000 pixels, more than can be read"):
        open_source(str(path))


def test_a_photograph_of_a_hundred_megapixels_is_read_reduced():
    content = encoded(Image.new("L", (11_600, 8_700), 90), "JPEG")
    image, scale = images.read_image(content, longest=1024)
    assert image.shape == (768, 1024, 3)
    np.testing.assert_allclose(scale, (11_600 / 1024, 8_700 / 768))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "HEIF", "AVIF", "BMP"])
def test_a_file_cut_short_is_named(tmp_path, kind):
    path = tmp_path / "cut.jpg"
    content = encoded(photograph(), kind)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FaceflaxError, match=r"^source: .*cut\.jpg' cannot be read as an image.*is it complete"):
        open_source(str(path))


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_gives_an_image_or_the_one_error(seed):
    rng = np.random.default_rng(seed)
    kind = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "HEIF", "AVIF", "BMP")[seed % 8]
    content = bytearray(encoded(Image.fromarray(noise((40, 40))), kind))
    for place in rng.integers(0, len(content), 12):
        content[place] = rng.integers(0, 256)
    try:
        image = images.read_image(bytes(content)).image
    except FaceflaxError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_what_is_written_is_read_again_and_holds_nothing_but_pixels(tmp_path, suffix):
    image = demo.photograph()[:96, :128]
    content = images.encode(image, suffix)
    np.testing.assert_allclose(images.read_image(content).image.mean((0, 1)), image.mean((0, 1)), atol=2)
    assert not Image.open(io.BytesIO(content)).getexif().get_ifd(0x8825)
    if suffix in (".png", ".bmp", ".tif"):
        np.testing.assert_array_equal(images.read_image(content).image, image)


def test_a_file_of_real_numbers_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(FaceflaxError, match=r"a\.tif' cannot be read as an image \(it holds real numbers"):
        open_source(str(tmp_path / "a.tif"))


def test_the_reader_leaves_pillows_own_limit_alone():
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
