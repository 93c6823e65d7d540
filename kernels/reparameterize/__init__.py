"""The reparameterised draw of a diagonal Gaussian and its KL divergence from the standard normal, in one pass."""

from fastgen.kernels.reparameterize.api import reparameterize
from fastgen.kernels.reparameterize.reference import normal_noise, reparameterize_reference

__all__ = ["normal_noise", "reparameterize", "reparameterize_reference"]
