"""Class names and their order. They are *perceived* labels: what annotators saw, not what a person felt or is."""

from __future__ import annotations

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Perceived emotions, in the order of FER-2013 and of every emotion network's logits."""

GENDERS: tuple[str, ...] = ("woman", "man")
"""Perceived gender, in the order of every gender network's logits."""
