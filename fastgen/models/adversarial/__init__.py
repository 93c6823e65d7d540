"""Adversarial models, one a file."""

from fastgen.models.adversarial.base import AdversarialModel
from fastgen.models.adversarial.began import BEGAN, BEGANConfig
from fastgen.models.adversarial.conditional_gan import ConditionalGAN, ConditionalGANConfig
from fastgen.models.adversarial.dcgan import DCGAN, DCGANConfig
from fastgen.models.adversarial.gan import GAN, GANConfig
from fastgen.models.adversarial.infogan import InfoGAN, InfoGANConfig
from fastgen.models.adversarial.lsgan import LSGAN
from fastgen.models.adversarial.wgan import WGAN
from fastgen.models.adversarial.wgangp import WGANGP, WGANGPConfig

__all__ = [
    "BEGAN",
    "DCGAN",
    "GAN",
    "LSGAN",
    "WGAN",
    "WGANGP",
    "AdversarialModel",
    "BEGANConfig",
    "ConditionalGAN",
    "ConditionalGANConfig",
    "DCGANConfig",
    "GANConfig",
    "InfoGAN",
    "InfoGANConfig",
    "WGANGPConfig",
]
