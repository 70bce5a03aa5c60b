"""The attribution methods by name."""

from __future__ import annotations

from interpret.attention import attention_relevance, attention_rollout
from interpret.attribution import Method
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
from interpret.coalitions import feature_ablation, kernel_shap, lime, shapley_sampling
from interpret.combinators import smooth_grad, smooth_grad_squared, var_grad
from interpret.deeplift import deep_lift, deep_lift_shap
from interpret.extremal import extremal_perturbation
from interpret.full_gradient import full_grad
from interpret.global_sensitivity import hsic, sobol
from interpret.gradients import deconvnet, gradient, gradient_x_input, guided_backprop, integrated_gradients
from interpret.lrp import attn_lrp, lrp_alpha_beta, lrp_epsilon, lrp_preset
from interpret.paths import blur_integrated_gradients, expected_gradients, guided_integrated_gradients
from interpret.perturbation import occlusion, rise

METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "integrated_gradients": integrated_gradients,
    "expected_gradients": expected_gradients,
    "guided_integrated_gradients": guided_integrated_gradients,
    "blur_integrated_gradients": blur_integrated_gradients,
    "smooth_grad": smooth_grad(gradient),
    "smooth_grad_squared": smooth_grad_squared(gradient),
    "var_grad": var_grad(gradient),
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
    "full_grad": full_grad,
    "deep_lift": deep_lift,
    "deep_lift_shap": deep_lift_shap,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "guided_grad_cam": guided_grad_cam,
    "layer_cam": layer_cam,
    "hires_cam": hires_cam,
    "x_grad_cam": x_grad_cam,
    "eigen_cam": eigen_cam,
    "score_cam": score_cam,
    "ablation_cam": ablation_cam,
    "lrp_epsilon": lrp_epsilon,
    "lrp_alpha_beta": lrp_alpha_beta,
    "lrp_z_plus": lrp_preset("lrp_z_plus", convolution="z_plus", dense="z_plus", first=None),
    "lrp_gamma": lrp_preset("lrp_gamma", convolution="gamma", dense="epsilon", first=None),
    "lrp_epsilon_plus": lrp_preset("lrp_epsilon_plus", convolution="z_plus", dense="epsilon", first=None),
    "lrp_epsilon_plus_flat": lrp_preset("lrp_epsilon_plus_flat", convolution="z_plus", dense="epsilon", first="flat"),
    "lrp_w_squared": lrp_preset("lrp_w_squared", convolution="z_plus", dense="epsilon", first="w_squared"),
    "attn_lrp": attn_lrp,
    "attention_rollout": attention_rollout,
    "attention_relevance": attention_relevance,
    "occlusion": occlusion,
    "rise": rise,
    "feature_ablation": feature_ablation,
    "shapley_sampling": shapley_sampling,
    "kernel_shap": kernel_shap,
    "lime": lime,
    "sobol": sobol,
    "hsic": hsic,
    "extremal_perturbation": extremal_perturbation,
}
"""Every method as ``method(model, variables, images, target=None, *, layer="last_conv")``, with its own defaults."""

CAMS = frozenset(
    {
        *("grad_cam", "grad_cam_plus_plus", "guided_grad_cam", "layer_cam", "hires_cam", "x_grad_cam", "eigen_cam"),
        *("score_cam", "ablation_cam"),
    }
)
"""The methods whose map is of a layer with rows and columns."""

ATTENTION = frozenset({"attention_rollout", "attention_relevance"})
"""The methods that need self-attention; convolutional networks have none."""

UNSIGNED = frozenset(
    {
        *("smooth_grad_squared", "var_grad", "full_grad", "attention_rollout", "attention_relevance"),
        *("sobol", "hsic", "extremal_perturbation"),
        *(CAMS - {"guided_grad_cam"}),
    }
)
"""The methods whose maps are zero or positive."""
