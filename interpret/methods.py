"""The attribution methods by name."""

from __future__ import annotations

from interpret.attribution import Method
from interpret.cam import grad_cam, grad_cam_plus_plus, guided_grad_cam, layer_cam
from interpret.combinators import smooth_grad, var_grad
from interpret.gradients import deconvnet, gradient, gradient_x_input, guided_backprop, integrated_gradients
from interpret.lrp import lrp_alpha_beta, lrp_epsilon
from interpret.perturbation import occlusion, rise

METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "integrated_gradients": integrated_gradients,
    "smooth_grad": smooth_grad(gradient),
    "var_grad": var_grad(gradient),
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "guided_grad_cam": guided_grad_cam,
    "layer_cam": layer_cam,
    "lrp_epsilon": lrp_epsilon,
    "lrp_alpha_beta": lrp_alpha_beta,
    "occlusion": occlusion,
    "rise": rise,
}
"""Every method as ``method(model, variables, images, target=None, *, layer="last_conv")``, with its own defaults."""

UNSIGNED = frozenset({"grad_cam", "grad_cam_plus_plus", "layer_cam", "var_grad"})
"""The methods whose maps are zero or positive."""
