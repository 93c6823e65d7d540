"""Adversarial models, one a file."""

from fastgen.models.adversarial.base import AdversarialModel
from fastgen.models.adversarial.began import BEGAN, BEGANConfig
from fastgen.models.adversarial.conditional_gan import ConditionalGAN, ConditionalGANConfig
from fastgen.models.adversarial.cyclegan import CycleGAN, CycleGANConfig
from fastgen.models.adversarial.dcgan import DCGAN, DCGANConfig
from fastgen.models.adversarial.gan import GAN, GANConfig
from fastgen.models.adversarial.image_to_image import ImageToImage, ImageToImageConfig
from fastgen.models.adversarial.infogan import InfoGAN, InfoGANConfig
from fastgen.models.adversarial.lsgan import LSGAN
from fastgen.models.adversarial.progressive_gan import ProgressiveGAN, ProgressiveGANConfig
from fastgen.models.adversarial.style import StyleModel
from fastgen.models.adversarial.stylegan import StyleGAN, StyleGANConfig
from fastgen.models.adversarial.stylegan2 import StyleGAN2, StyleGAN2Config
from fastgen.models.adversarial.translation import TranslationModel
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
    "CycleGAN",
    "CycleGANConfig",
    "DCGANConfig",
    "GANConfig",
    "ImageToImage",
    "ImageToImageConfig",
    "InfoGAN",
    "InfoGANConfig",
    "ProgressiveGAN",
    "ProgressiveGANConfig",
    "StyleGAN",
    "StyleGAN2",
    "StyleGAN2Config",
    "StyleGANConfig",
    "StyleModel",
    "TranslationModel",
    "WGANGPConfig",
]
