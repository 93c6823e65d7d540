"""Bias, activation, gain and clamp in one pass, with a second derivative."""

from fastgen.kernels.bias_act.api import bias_act
from fastgen.kernels.bias_act.reference import ACTIVATIONS, Activation, bias_act_reference

__all__ = ["ACTIVATIONS", "Activation", "bias_act", "bias_act_reference"]
