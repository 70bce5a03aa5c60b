"""Network addresses: which there are, and how they are shown without the passwords in them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from faceflax.errors import FaceflaxError

SCHEMES: tuple[str, ...] = ("http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")
"""The protocols that streams are read by."""

_SECRET = re.compile(r"([?&;][^=&;#]*(?:auth|cred|key|pass|pw|secret|session|sig|token|user)[^=&;#]*=)[^&;#]*", re.I)


def is_address(source: str) -> bool:
    """Tells an address from a path.

    Example:
        >>> is_address("rtsp://camera/1"), is_address("a:b.mp4")
        (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def masked(address: str) -> str:
    """Returns an address without user, password and whatever else opens it, to be shown and written.

    Example:
        >>> masked("rtsp://me:secret@camera/1?token=abc&size=2")
        'rtsp://***@camera/1?token=***&size=2'
    """
    if not is_address(address):
        return address
    without = re.sub(r"^([^/]*//)[^/?#]*@", r"\1***@", address)
    return _SECRET.sub(r"\1***", without)


def local_path(field: str, address: str) -> Path | None:
    """Returns the path that a ``file://`` address is of, or None for one of the network.

    Raises:
        FaceflaxError: an unknown protocol, or the file of another machine.

    Example:
        >>> local_path("source", "file:///videos/a%20b.mp4").as_posix()
        '/videos/a b.mp4'
    """
    parts = urlsplit(address)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise FaceflaxError(field, address, "is a file of another machine", "give a path")
        return Path(unquote(parts.path, errors="surrogateescape"))
    if parts.scheme not in SCHEMES:
        raise FaceflaxError(field, masked(address), "has an unknown protocol", f"choose one of: {', '.join(SCHEMES)}")
    return None
