"""The gates of PixelCNN and the ELU of an input and its negative, with bias, dropout and residual in one pass."""

from fastgen.kernels.gated_activation.api import concat_elu, gated_activation
from fastgen.kernels.gated_activation.reference import concat_elu_reference, gated_activation_reference

__all__ = ["concat_elu", "concat_elu_reference", "gated_activation", "gated_activation_reference"]
