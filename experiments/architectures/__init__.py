"""Networks that experiments compare and no shipped weights use; importing this makes them known by name."""

from __future__ import annotations

from faceflax import models

__all__: list[str] = []

models.register("mini_xception_se", "experiments.architectures.variants:MiniXceptionSE")
models.register("tang_cnn", "experiments.architectures.tang_cnn:TangCNN")
