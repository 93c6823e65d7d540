"""The discretized logistic mixture likelihood of PixelCNN++: log-probability and draws."""

from fastgen.kernels.dmol.api import dmol_log_prob, dmol_sample
from fastgen.kernels.dmol.conditional import dmol_conditional
from fastgen.kernels.dmol.reference import dmol_log_prob_reference, dmol_sample_reference

__all__ = [
    "dmol_conditional",
    "dmol_log_prob",
    "dmol_log_prob_reference",
    "dmol_sample",
    "dmol_sample_reference",
]
