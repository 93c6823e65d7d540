"""A model's last 1x1 convolution and the likelihood of its outputs in one, so that the parameters never exist whole."""

from fastgen.kernels.output_head.api import categorical_head_log_prob, dmol_head_log_prob
from fastgen.kernels.output_head.reference import (
    categorical_head_log_prob_reference,
    dmol_head_log_prob_reference,
)

__all__ = [
    "categorical_head_log_prob",
    "categorical_head_log_prob_reference",
    "dmol_head_log_prob",
    "dmol_head_log_prob_reference",
]
