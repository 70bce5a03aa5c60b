"""The real-time loop: threaded stages, the overlay and the window's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.live.loop import Summary, run
    from faceflax.live.overlay import SaliencyOverlay

__all__ = ["SaliencyOverlay", "Summary", "run"]

__getattr__, __dir__ = attach(__name__, {"loop": ["Summary", "run"], "overlay": ["SaliencyOverlay"]})
