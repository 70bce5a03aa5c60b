"""Short videos that the tests make with PyAV."""

from fractions import Fraction

import av
import numpy as np

CODECS = {".avi": "mjpeg", ".webm": "libvpx-vp9"}


def levels(count):
    """Grey of each frame: thirty shades, dark to bright, again and again."""
    return 30 + 7 * (np.arange(count) % 30)


def write_clip(
    path, count=30, size=(64, 48), *, times=None, setup=None, options=None, tone=False, pictures=None, rate=10
):
    """Writes plain frames, ten a second, or at ``times`` in seconds; ``tone`` adds as long a sound."""
    codec = CODECS.get(path.suffix, "libx264")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if setup is not None:
            setup(stream)
        sound = None
        if tone:
            sound = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000, layout="mono")
        for index, level in enumerate(levels(count)):
            plain = np.full((size[1], size[0], 3), level, np.uint8)
            image = plain if pictures is None else pictures[index]
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[index]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            samples = np.sin(2 * np.pi * 440 / 48000 * np.arange(4800 * count)).astype(np.float32)
            for index, part in enumerate(np.split(samples, count * 5)):
                frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48000, 960 * index, Fraction(1, 48000)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path
