"""Models with latent codes, one a file."""

from fastgen.models.autoencoders.adversarial import AdversarialAutoencoder, AdversarialAutoencoderConfig
from fastgen.models.autoencoders.autoencoder import Autoencoder, AutoencoderConfig
from fastgen.models.autoencoders.base import Elbo, LatentModel, Posterior
from fastgen.models.autoencoders.beta_vae import BetaVAE, BetaVAEConfig
from fastgen.models.autoencoders.conditional_vae import ConditionalVAE, ConditionalVAEConfig
from fastgen.models.autoencoders.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from fastgen.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from fastgen.models.autoencoders.denoising_autoencoder import DenoisingAutoencoder, DenoisingAutoencoderConfig
from fastgen.models.autoencoders.iwae import IWAE, IWAEConfig
from fastgen.models.autoencoders.pixelvae import PixelVAE, PixelVAEConfig
from fastgen.models.autoencoders.quantized import QuantizedModel
from fastgen.models.autoencoders.vae import VAE, VAEConfig
from fastgen.models.autoencoders.variational import VariationalModel
from fastgen.models.autoencoders.vdvae import VDVAE, VDVAEConfig
from fastgen.models.autoencoders.vqvae import VQVAE, VQVAEConfig
from fastgen.models.autoencoders.vqvae2 import VQVAE2, VQVAE2Config

__all__ = [
    "IWAE",
    "VAE",
    "VDVAE",
    "VQVAE",
    "VQVAE2",
    "AdversarialAutoencoder",
    "AdversarialAutoencoderConfig",
    "Autoencoder",
    "AutoencoderConfig",
    "BetaVAE",
    "BetaVAEConfig",
    "ConditionalVAE",
    "ConditionalVAEConfig",
    "ConvAutoencoder",
    "ConvAutoencoderConfig",
    "ConvVAE",
    "ConvVAEConfig",
    "DenoisingAutoencoder",
    "DenoisingAutoencoderConfig",
    "Elbo",
    "IWAEConfig",
    "LatentModel",
    "PixelVAE",
    "PixelVAEConfig",
    "Posterior",
    "QuantizedModel",
    "VAEConfig",
    "VDVAEConfig",
    "VQVAE2Config",
    "VQVAEConfig",
    "VariationalModel",
]
