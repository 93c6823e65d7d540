"""A step of Langevin dynamics on images: gradient, noise and clamp in one pass, the same bits on every device."""

from fastgen.kernels.langevin.api import langevin_step
from fastgen.kernels.langevin.reference import langevin_noise, langevin_step_reference

__all__ = ["langevin_noise", "langevin_step", "langevin_step_reference"]
