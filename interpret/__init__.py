"""Attribution: which pixels of an image a network's response depends on.

Pure functions of ``(model, variables, images, target)``; see :mod:`interpret.attribution`. Names are imported on first
use, so that the commands answer ``--help`` at once.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interpret.adapters import wrap
    from interpret.attention import attention_relevance, attention_rollout
    from interpret.cam import (
        ablation_cam,
        eigen_cam,
        grad_cam,
        grad_cam_plus_plus,
        guided_grad_cam,
        hires_cam,
        layer_cam,
        score_cam,
        x_grad_cam,
    )
    from interpret.coalitions import feature_ablation, kernel_shap, lime, shapley_sampling, superpixels
    from interpret.combinators import smooth_grad, smooth_grad_squared, var_grad
    from interpret.concepts import tcav
    from interpret.deeplift import deep_lift, deep_lift_shap
    from interpret.examples import nearest_activations, tracin
    from interpret.extremal import extremal_perturbation
    from interpret.full_gradient import full_grad
    from interpret.global_sensitivity import hsic, sobol
    from interpret.gradients import deconvnet, gradient, gradient_x_input, guided_backprop, integrated_gradients
    from interpret.layers import internal_influence, layer_conductance, layer_integrated_gradients
    from interpret.lrp import attn_lrp, lrp_alpha_beta, lrp_composite, lrp_epsilon
    from interpret.maximisation import activation_maximisation, feature_visualisation
    from interpret.methods import METHODS
    from interpret.overlay import Explainer, explainer
    from interpret.paths import blur_integrated_gradients, expected_gradients, guided_integrated_gradients
    from interpret.perturbation import occlusion, rise
    from interpret.subject import Subject
    from interpret.targets import Channel, Difference, Layer, Neuron

__faceflax__ = True  # tells this package from InterpretML, which has the same import name

_HOMES = {
    "interpret.adapters": ("wrap",),
    "interpret.attention": (
        "attention_relevance",
        "attention_rollout",
    ),
    "interpret.cam": (
        "ablation_cam",
        "eigen_cam",
        "grad_cam",
        "grad_cam_plus_plus",
        "guided_grad_cam",
        "hires_cam",
        "layer_cam",
        "score_cam",
        "x_grad_cam",
    ),
    "interpret.coalitions": (
        "feature_ablation",
        "kernel_shap",
        "lime",
        "shapley_sampling",
        "superpixels",
    ),
    "interpret.combinators": (
        "smooth_grad",
        "smooth_grad_squared",
        "var_grad",
    ),
    "interpret.concepts": ("tcav",),
    "interpret.deeplift": (
        "deep_lift",
        "deep_lift_shap",
    ),
    "interpret.examples": (
        "nearest_activations",
        "tracin",
    ),
    "interpret.extremal": ("extremal_perturbation",),
    "interpret.full_gradient": ("full_grad",),
    "interpret.global_sensitivity": (
        "hsic",
        "sobol",
    ),
    "interpret.gradients": (
        "deconvnet",
        "gradient",
        "gradient_x_input",
        "guided_backprop",
        "integrated_gradients",
    ),
    "interpret.layers": (
        "internal_influence",
        "layer_conductance",
        "layer_integrated_gradients",
    ),
    "interpret.lrp": (
        "attn_lrp",
        "lrp_alpha_beta",
        "lrp_composite",
        "lrp_epsilon",
    ),
    "interpret.maximisation": (
        "activation_maximisation",
        "feature_visualisation",
    ),
    "interpret.methods": ("METHODS",),
    "interpret.overlay": (
        "Explainer",
        "explainer",
    ),
    "interpret.paths": (
        "blur_integrated_gradients",
        "expected_gradients",
        "guided_integrated_gradients",
    ),
    "interpret.perturbation": (
        "occlusion",
        "rise",
    ),
    "interpret.subject": ("Subject",),
    "interpret.targets": (
        "Channel",
        "Difference",
        "Layer",
        "Neuron",
    ),
}

__all__ = [
    "METHODS",
    "Channel",
    "Difference",
    "Explainer",
    "Layer",
    "Neuron",
    "Subject",
    "ablation_cam",
    "activation_maximisation",
    "attention_relevance",
    "attention_rollout",
    "attn_lrp",
    "blur_integrated_gradients",
    "deconvnet",
    "deep_lift",
    "deep_lift_shap",
    "eigen_cam",
    "expected_gradients",
    "explainer",
    "extremal_perturbation",
    "feature_ablation",
    "feature_visualisation",
    "full_grad",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_x_input",
    "guided_backprop",
    "guided_grad_cam",
    "guided_integrated_gradients",
    "hires_cam",
    "hsic",
    "integrated_gradients",
    "internal_influence",
    "kernel_shap",
    "layer_cam",
    "layer_conductance",
    "layer_integrated_gradients",
    "lime",
    "lrp_alpha_beta",
    "lrp_composite",
    "lrp_epsilon",
    "nearest_activations",
    "occlusion",
    "rise",
    "score_cam",
    "shapley_sampling",
    "smooth_grad",
    "smooth_grad_squared",
    "sobol",
    "superpixels",
    "tcav",
    "tracin",
    "var_grad",
    "wrap",
    "x_grad_cam",
]


def _check_files(names: set[str]) -> None:
    """Says so where InterpretML, which is installed into the same folder, or its removal has changed what is in it.

    Args:
        names: of the files and folders beside this one.

    Raises:
        ImportError: files of this package are missing.
    """
    remedy = "keep them in separate environments: pip uninstall interpret interpret-core, then "
    remedy += "pip install --force-reinstall --no-deps faceflax"
    missing = [file for home in _HOMES if (file := f"{home.removeprefix('interpret.')}.py") not in names]
    if missing:
        raise ImportError(f"faceflax's package interpret has lost {', '.join(missing)}; {remedy}")
    if "glassbox" in names:
        warnings.warn(
            "InterpretML is installed in the folder of faceflax's package interpret, so that import interpret is "
            f"faceflax's and InterpretML cannot be used here; {remedy}",
            stacklevel=3,
        )


_check_files({path.name for path in Path(__file__).parent.iterdir()})


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'interpret' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
