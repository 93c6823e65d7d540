"""Recipes in the settings of the papers: their data, networks, optimisers and budgets, as far as a recipe says them.

`NAME-DATA` is the recipe NAME of the paper's size. None has been run here: they take GPUs for hours to weeks.
`expected` is the paper's figure and `source` says where it stands; a summary says what differs from the paper or was
not to be found there. For all of them: two levels come from a threshold at 128, where the papers draw them at random;
a tenth of the training images is held out (`fastgen eval RUN --split test` gives the papers' figures); data that begins
with "./" is a folder to be filled, or another one by `--data`; the loss is in nats per dimension, which Adam and
RMSProp do not see. Where a paper averages no weights, `ema_decay` is 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fastgen.training.recipes.recipe import Recipe

_PIXEL_RNN = (
    "van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759"
)
_GATED = (
    "van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, https://arxiv.org/abs/1606.05328"
)
_URIA = "Uria et al. 2016, Neural Autoregressive Distribution Estimation, https://arxiv.org/abs/1605.02226"
_BURDA = "Burda, Grosse, Salakhutdinov 2016, Importance Weighted Autoencoders, https://arxiv.org/abs/1509.00519"
_STYLEGAN = "Karras, Laine, Aila 2019, A Style-Based Generator Architecture, https://arxiv.org/abs/1812.04948"
_BINARY = {"name": "Bernoulli", "channels": 1}


def _paper(**fields: Any) -> Recipe:
    """A long run: measured, written and logged seldom, its weights not averaged unless the paper does."""
    seldom = {"eval_interval": 5_000, "checkpoint_interval": 5_000, "log_interval": 100, "ema_decay": 0.0}
    return Recipe(**{**seldom, **fields})


# -- autoregressive models

_FVSBN = _paper(
    name="fvsbn-mnist",
    summary="FVSBN of binarised MNIST; Adam where the source has SGD with a rate from a grid",
    expected="97.45 nats",
    source=f"{_URIA}, results on binarised MNIST",
    data="mnist",
    levels=2,
    model="FVSBN",
    batch_size=100,
    steps=100_000,
    lr=1e-3,
)

_NADE = dataclasses.replace(
    _FVSBN,
    name="nade-mnist",
    summary="NADE of binarised MNIST, 500 hidden units; Adam where the source has SGD with a rate from a grid",
    expected="88.33 nats",
    model="NADE",
    config={"n_hidden": 500},
)

_MADE = dataclasses.replace(
    _FVSBN,
    name="made-mnist",
    summary="MADE of binarised MNIST, two layers of 8,000 units, 32 masks; Adam at 1e-3 for its Adagrad at 0.01",
    expected="86.64 nats",
    source="Germain et al. 2015, MADE, https://arxiv.org/abs/1502.03509, results on binarised MNIST with 32 masks; "
    "settings: the authors' https://github.com/mgermain/MADE",
    model="MADE",
    config={"hidden": [8000, 8000], "n_masks": 32},
    steps=160_000,  # 300 passes
)

_DIAGONAL_MNIST = _paper(
    name="diagonal_bilstm-mnist",
    summary="PixelRNN of binarised MNIST, 7 layers of 16 units, Diagonal BiLSTM; rate and budget are not in the paper",
    expected="79.20 nats",
    source=f"{_PIXEL_RNN}, table 4",
    data="mnist",
    levels=2,
    model="PixelRNN",
    config={"layer": "diagonal_bilstm", "n_layers": 7, "n_filters": 16, "head_filters": 32, "likelihood": _BINARY},
    batch_size=16,
    steps=300_000,
    optimizer="rmsprop",
    betas=(0.9, 0.99),
    lr=1e-3,
)

_ROW_MNIST = dataclasses.replace(
    _DIAGONAL_MNIST,
    name="row_lstm-mnist",
    summary="PixelRNN of binarised MNIST, Row LSTM; as many layers as the Diagonal BiLSTM, the paper does not say",
    expected="80.54 nats",
    config={**_DIAGONAL_MNIST.config, "layer": "row_lstm"},
)

_PIXELCNN_MNIST = dataclasses.replace(
    _DIAGONAL_MNIST,
    name="pixelcnn-mnist",
    summary="PixelCNN of binarised MNIST; width 16 as the PixelRNN of digits, the paper does not say",
    expected="81.30 nats",
    model="PixelCNN",
    config={"n_blocks": 15, "n_filters": 16, "head_filters": 32, "likelihood": _BINARY},
)

_DIAGONAL = dataclasses.replace(
    _DIAGONAL_MNIST,
    name="diagonal_bilstm-cifar10",
    summary="PixelRNN of CIFAR-10, 12 layers of 128 units, Diagonal BiLSTM; rate and budget are not in the paper",
    expected="3.00 bits/dim",
    source=f"{_PIXEL_RNN}, table 5",
    data="cifar10",
    levels=256,
    config={"layer": "diagonal_bilstm", "n_layers": 12, "n_filters": 128, "head_filters": 1024},
)

_ROW = dataclasses.replace(
    _DIAGONAL,
    name="row_lstm-cifar10",
    summary="PixelRNN of CIFAR-10, 12 layers of 128 units, Row LSTM; rate and budget are not in the paper",
    expected="3.07 bits/dim",
    config={**_DIAGONAL.config, "layer": "row_lstm"},
)

_PIXELCNN = dataclasses.replace(
    _DIAGONAL,
    name="pixelcnn-cifar10",
    summary="PixelCNN of CIFAR-10, 15 blocks of 128; rate and budget are not in the paper",
    expected="3.14 bits/dim",
    model="PixelCNN",
    config={"n_blocks": 15, "n_filters": 128, "head_filters": 1024},
)

_MULTISCALE = dataclasses.replace(
    _DIAGONAL,
    name="multiscale-imagenet64",
    summary="multi-scale model of ImageNet, 32x32 to 64x64; gated convolutions of the widths of the paper's Row "
    "LSTMs; rate and budget are not in the paper",
    expected="",
    source=f"{_PIXEL_RNN}, section 3.5; it reports samples, no likelihood",
    data="imagenet64",
    model="MultiScalePixelCNN",
    config={"factors": [2], "n_layers": [12, 4], "n_filters": [384, 512]},
    batch_size=32,
    lr=3e-4,
)

_GATED_IMAGENET = _paper(
    name="gated_pixelcnn-imagenet32",
    summary="Gated PixelCNN of ImageNet at 32x32, 20 layers of 384 filters, 5x5; optimiser and rate are not in the "
    "paper",
    expected="3.83 bits/dim",
    source=f"{_GATED}, table 2",
    data="imagenet32",
    model="GatedPixelCNN",
    config={"n_layers": 20, "n_filters": 384, "kernel_size": 5},
    batch_size=128,
    steps=200_000,
    optimizer="rmsprop",
    betas=(0.9, 0.99),
    lr=3e-4,
)

_GATED_CIFAR10 = dataclasses.replace(
    _GATED_IMAGENET,
    name="gated_pixelcnn-cifar10",
    summary="Gated PixelCNN of CIFAR-10; size and budget are not in the paper: 15 layers of 128 filters",
    expected="3.03 bits/dim",
    source=f"{_GATED}, table 1",
    data="cifar10",
    config={"n_layers": 15, "n_filters": 128, "kernel_size": 5},
)

_PIXELCNNPP = _paper(
    name="pixelcnnpp-cifar10",
    summary="PixelCNN++ of CIFAR-10, 5 resnets of 160 filters; the authors report five days on eight GPUs",
    expected="2.92 bits/dim",
    source="Salimans, Karpathy, Chen, Kingma 2017, PixelCNN++, https://arxiv.org/abs/1701.05517, table 1; settings: "
    "the authors' https://github.com/openai/pixel-cnn",
    data="cifar10",
    model="PixelCNNPP",
    config={"n_resnet": 5, "n_filters": 160, "n_mix": 10, "dropout": 0.5},
    batch_size=128,  # eight GPUs of 16 images
    steps=400_000,
    lr=1e-3,
    betas=(0.95, 0.9995),
    schedule="exponential",
    lr_decay=0.999995,
    ema_decay=0.9995,
    init_from_data=True,
    eval_interval=2_000,
    checkpoint_interval=2_000,
)

_PIXELSNAIL = dataclasses.replace(
    _PIXELCNNPP,
    name="pixelsnail-cifar10",
    summary="PixelSNAIL of CIFAR-10, 12 blocks of 256 filters; budget and number of GPUs (8 of 8 images) are not given",
    expected="2.85 bits/dim",
    source="Chen, Mishra, Rohaninejad, Abbeel 2018, PixelSNAIL, https://arxiv.org/abs/1712.09763, results on "
    "CIFAR-10; settings: the authors' https://github.com/neocxi/pixelsnail-public",
    model="PixelSNAIL",
    config={"n_blocks": 12, "n_resnet": 4, "n_filters": 256, "key_channels": 16, "value_channels": 128, "dropout": 0.5},
    batch_size=64,
    steps=800_000,
    lr_decay=0.999998,
)

_IMAGE_GPT = _paper(
    name="image_gpt-imagenet32",
    summary="Image GPT (iGPT-S) of ImageNet at 32x32; 512 colours as 8 levels of each channel, where the paper has "
    "the clusters of k-means, and so three tokens a pixel for its one",
    source="Chen et al. 2020, Generative Pretraining from Pixels, https://proceedings.mlr.press/v119/chen20s.html: it "
    "reports how well its features classify",
    data="imagenet32",
    levels=8,
    model="ImageGPT",
    config={
        "n_layers": 24,
        "n_features": 512,
        "n_heads": 8,
        "likelihood": {"name": "Categorical", "channels": 3, "levels": 8},
    },
    batch_size=128,
    steps=1_000_000,
    lr=3e-3,
    betas=(0.9, 0.95),
    warmup_steps=10_000,  # a pass
    schedule="cosine",
)

_COLORIZATION = _paper(
    name="colorization-cifar10",
    summary="colours of CIFAR-10 given gray images; the paper draws chrominance alone, by a PixelCNN++: width, batch "
    "and optimiser of the same order",
    source="Royer, Kolesnikov, Lampert 2017, Probabilistic Image Colorization, https://arxiv.org/abs/1705.04258",
    data="cifar10",
    model="Colorization",
    config={
        "n_layers": 15,
        "n_filters": 160,
        "cond_filters": 160,
        "cond_layers": 4,
        "likelihood": {"name": "DiscretizedLogisticMixture", "channels": 3, "n_mix": 10},
    },
    batch_size=64,
    steps=200_000,
    lr=1e-3,
    schedule="exponential",
    lr_decay=0.99999,
    ema_decay=0.9995,
)

_SUPER_RESOLUTION = _paper(
    name="super_resolution-celeba",
    summary="faces of CelebA from 8x8 to 32x32, 20 gated layers of 32 filters; plain convolutions read the small "
    "image, in the paper residual ones",
    source="Dahl, Norouzi, Shlens 2017, Pixel Recursive Super Resolution, https://arxiv.org/abs/1702.00783",
    data="celeba",
    size=32,
    model="SuperResolution",
    config={"n_layers": 20, "n_filters": 32, "cond_scale": 4, "cond_filters": 32, "cond_layers": 18},
    batch_size=32,
    steps=2_000_000,
    optimizer="rmsprop",
    betas=(0.9, 0.95),
    lr=4e-4,
    schedule="exponential",
    lr_decay=0.5 ** (1 / 500_000),
)

_WAVENET = _paper(
    name="wavenet-vctk",
    summary="WaveNet of 109 speakers at 16 kHz, a receptive field of 320 ms (the paper's is about 300), a folder of "
    "recordings for each; widths and optimiser are not in the paper: those of github.com/ibab/tensorflow-wavenet",
    source="van den Oord et al. 2016, WaveNet, https://arxiv.org/abs/1609.03499, section 3.1: it is judged by "
    "listeners",
    data="./vctk",
    size=20_000,
    model="WaveNet",
    config={"n_blocks": 5, "n_filters": 32, "skip_filters": 512, "head_filters": 512, "sample_rate": 16_000},
    conditional=True,
    batch_size=5,
    steps=200_000,
    lr=1e-3,
)

# -- autoencoders

_AUTOENCODER = _paper(
    name="autoencoder-mnist",
    summary="autoencoder of MNIST, 784-1000-500-250-30; Adam from random weights, where the paper pretrains with "
    "restricted Boltzmann machines and follows conjugate gradients",
    expected="squared error of 3.00 an image in [0, 1]",
    source="Hinton, Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural Networks, "
    "https://www.science.org/doi/10.1126/science.1127647, figure 2",
    data="mnist",
    model="Autoencoder",
    config={"latent_dim": 30, "hidden": [1000, 500, 250], "activation": "sigmoid"},
    batch_size=100,
    steps=250_000,
    lr=1e-3,
)

_CONV_AUTOENCODER = dataclasses.replace(
    _AUTOENCODER,
    name="conv_autoencoder-mnist",
    summary="convolutional autoencoder of MNIST, 100, 150 and 200 maps and 300 units; trained whole by Adam, with "
    "strides, where the paper stacks layers with max pooling",
    expected="",
    source="Masci, Meier, Ciresan, Schmidhuber 2011, Stacked Convolutional Auto-Encoders, "
    "https://link.springer.com/chapter/10.1007/978-3-642-21735-7_7: it reports how well its features classify",
    model="ConvAutoencoder",
    config={"latent_dim": 300, "n_filters": [100, 150, 200], "hidden": 300, "activation": "tanh"},
)

_DENOISING = dataclasses.replace(
    _AUTOENCODER,
    name="denoising_autoencoder-mnist",
    summary="denoising autoencoder of MNIST, one layer of 1,000 sigmoids, a quarter of the values black; Adam for its "
    "SGD, and one layer of its stack of three",
    expected="",
    source="Vincent et al. 2010, Stacked Denoising Autoencoders, https://jmlr.org/papers/v11/vincent10a.html: it "
    "reports how well its features classify",
    model="DenoisingAutoencoder",
    config={
        "latent_dim": 1000,
        "hidden": [],
        "code_activation": "sigmoid",
        "corruption": "masking",
        "noise": 0.25,
    },
)

_VAE = _paper(
    name="vae-mnist",
    summary="VAE of binarised MNIST with 50 latents, in the comparison of Burda et al., whose rate falls to a tenth "
    "over 3,280 passes in 8 steps; here at every step",
    expected="86.76 nats",
    source="Kingma, Welling 2014, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114; setting and "
    f"figure (a bound of 5,000 draws): {_BURDA}, table 1",
    data="mnist",
    levels=2,
    model="VAE",
    config={"latent_dim": 50, "hidden": [200, 200], "activation": "tanh"},
    batch_size=20,
    steps=8_856_000,
    lr=1e-3,
    schedule="exponential",
    lr_decay=0.1 ** (1 / 8_856_000),
    eval_interval=100_000,
    checkpoint_interval=10_000,
    log_interval=1_000,
)

_IWAE = dataclasses.replace(
    _VAE,
    name="iwae-mnist",
    summary="IWAE of binarised MNIST with 50 latents and 50 samples; its rate falls to a tenth over 3,280 passes in 8 "
    "steps, here at every step",
    expected="84.78 nats",
    source=f"{_BURDA}, table 1 (a bound of 5,000 draws)",
    model="IWAE",
    config={**_VAE.config, "n_samples": 50, "gradient": "iwae"},
)

_CONV_VAE = _paper(
    name="conv_vae-mnist",
    summary="convolutional VAE of binarised MNIST, 16, 32 and 32 maps, 300 units, 32 latents, softplus; rate and "
    "budget are ours",
    source="Salimans, Kingma, Welling 2015, Markov Chain Monte Carlo and Variational Inference, "
    "https://arxiv.org/abs/1410.6460, whose networks these are",
    data="mnist",
    levels=2,
    model="ConvVAE",
    config={
        "latent_dim": 32,
        "n_filters": [16, 32, 32],
        "hidden": 300,
        "activation": "softplus",
        "likelihood": _BINARY,
    },
    batch_size=100,
    steps=500_000,
    lr=1e-3,
)

_CONDITIONAL_VAE = dataclasses.replace(
    _CONV_VAE,
    name="conditional_vae-mnist",
    summary="VAE of binarised MNIST given its class; the paper gives a quadrant of the image: sizes and rate of "
    "Kingma et al. 2014 (M2), which gives the class",
    source="Sohn, Lee, Yan 2015, Learning Structured Output Representation using Deep Conditional Generative Models, "
    "https://papers.nips.cc/paper/5775; Kingma et al. 2014, https://arxiv.org/abs/1406.5298",
    model="ConditionalVAE",
    config={"latent_dim": 50, "hidden": [500], "activation": "softplus"},
    conditional=True,
    lr=3e-4,
)

_BETA_VAE = _paper(
    name="beta_vae-celeba",
    summary="beta-VAE of CelebA at 64x64, 32 latents, beta 250; kernels of 3x3 for its 4x4; batch and budget are not "
    "in the paper",
    source="Higgins et al. 2017, beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl, table of architectures: it is "
    "judged by its latents",
    data="celeba",
    size=64,
    model="BetaVAE",
    config={
        "latent_dim": 32,
        "n_filters": [32, 32, 64, 64],
        "hidden": 256,
        "beta": 250.0,
        "likelihood": {"name": "Gaussian", "channels": 3, "std": 1.0},
    },
    batch_size=64,
    steps=500_000,
    lr=1e-4,
)

_VQVAE = _paper(
    name="vqvae-cifar10",
    summary="VQ-VAE of CIFAR-10, 8x8 codes of 512 entries, 250,000 steps of the autoencoder and as many of the prior; "
    "the prior's size is not in the paper",
    expected="4.67 bits/dim",
    source="van den Oord, Vinyals, Kavukcuoglu 2017, Neural Discrete Representation Learning, "
    "https://arxiv.org/abs/1711.00937, section 4.1",
    data="cifar10",
    model="VQVAE",
    config={
        "n_filters": 256,
        "n_codes": 512,
        "code_dim": 64,
        "residual_filters": 256,
        "ema": False,
        "commitment": 0.25,
        "prior": {"model": "GatedPixelCNN", "n_layers": 15, "n_filters": 128, "kernel_size": 5},
        "prior_from": 0.5,
    },
    batch_size=128,
    steps=500_000,
    lr=2e-4,
)

_VQVAE2 = _paper(
    name="vqvae2-imagenet256",
    summary="VQ-VAE-2 of ImageNet at 256x256 by class, 32x32 and 64x64 codes, 2.2 million steps of the autoencoder "
    "and as many of the priors, in batches of 128 (its priors: 1,024 and 512); rate of the reimplementations",
    source="Razavi, van den Oord, Vinyals 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2, "
    "https://arxiv.org/abs/1906.00446, appendix A",
    data="./imagenet",
    size=256,
    model="VQVAE2",
    config={
        "n_filters": 128,
        "n_codes": 512,
        "code_dim": 64,
        "residual_filters": 64,
        "commitment": 0.25,
        "top_prior": {
            "model": "PixelSNAIL",
            "n_blocks": 4,
            "n_resnet": 5,
            "n_filters": 512,
            "key_channels": 128,
            "value_channels": 512,
            "n_heads": 8,
            "dropout": 0.1,
        },
        "bottom_prior": {
            "model": "GatedPixelCNN",
            "n_layers": 20,
            "n_filters": 512,
            "kernel_size": 5,
            "cond_filters": 512,
            "cond_layers": 20,
        },
        "prior_from": 0.5,
    },
    conditional=True,
    batch_size=128,
    steps=4_414_888,
    lr=3e-4,
)

_ADVERSARIAL_AUTOENCODER = _paper(
    name="adversarial_autoencoder-mnist",
    summary="adversarial autoencoder of MNIST, two layers of 1,000 units, 8 Gaussian latents; Adam for its SGD, whose "
    "rates hold for a scale of the loss that it does not give",
    expected="340 nats by a Parzen window of 10,000 samples",
    source="Makhzani et al. 2015, Adversarial Autoencoders, https://arxiv.org/abs/1511.05644, table 1",
    data="mnist",
    model="AdversarialAutoencoder",
    config={"latent_dim": 8, "hidden": [1000, 1000], "discriminator_hidden": [1000, 1000]},
    batch_size=100,
    steps=540_000,  # 1,000 passes
    lr=2e-4,
    betas=(0.5, 0.999),
)

_PIXELVAE = _paper(
    name="pixelvae-mnist",
    summary="Gated PixelVAE of binarised MNIST, 16 latents, 12 layers of 16 filters; an upsampling network, where the "
    "paper's best adds a linear map of the latents to every layer",
    expected="79.66 nats",
    source="Gulrajani et al. 2016, PixelVAE, https://arxiv.org/abs/1611.05013, table 1 (the bound; 79.02 by "
    "importance samples); settings: the authors' https://github.com/igul222/PixelVAE",
    data="mnist",
    levels=2,
    model="PixelVAE",
    config={
        "latent_dim": 16,
        "n_filters": [32, 64, 64],
        "n_layers": 13,
        "pixel_filters": 16,
        "kernel_size": 5,
        "first_kernel_size": 7,
        "head_filters": 16,
        "kl_warmup": 0.05,
    },
    batch_size=100,
    steps=200_000,
    lr=1e-3,
)

_VDVAE = _paper(
    name="vdvae-cifar10",
    summary="VDVAE of CIFAR-10, 43 layers of latents, 39 million weights",
    expected="2.87 bits/dim",
    source="Child 2021, Very Deep VAEs, https://arxiv.org/abs/2011.10650, results on CIFAR-10; settings: the author's "
    "https://github.com/openai/vdvae",
    data="cifar10",
    model="VDVAE",
    config={
        "n_filters": 384,
        "latent_channels": 16,
        "scales": [1, 2, 4, 8, 32],
        "encoder_blocks": [12, 7, 7, 4, 3],  # the author's blocks that change the scale included
        "decoder_blocks": [22, 11, 6, 3, 1],
    },
    batch_size=32,  # two GPUs of 16 images
    steps=1_100_000,
    optimizer="adamw",
    lr=2e-4,
    betas=(0.9, 0.9),
    weight_decay=0.01,
    warmup_steps=100,
    ema_decay=0.9999,
    clip_norm=200.0,
    skip_norm=400.0,
)

# -- adversarial models

_GAN = _paper(
    name="gan-mnist",
    summary="GAN of MNIST, dense, 1,200 units twice, dropout; leaky ReLUs for its ReLUs and maxout, Gaussian codes, a "
    "momentum that stays",
    expected="225 nats by a Parzen window of its samples",
    source="Goodfellow et al. 2014, Generative Adversarial Nets, https://arxiv.org/abs/1406.2661, table 1; settings: "
    "the authors' https://github.com/goodfeli/adversarial",
    data="mnist",
    model="GAN",
    config={"latent_dim": 100, "hidden": [1200, 1200], "dropout": 0.5},
    adversarial={"betas_generator": [0.5, 0.999], "betas_discriminator": [0.5, 0.999]},
    batch_size=100,
    steps=270_000,  # 500 passes
    optimizer="sgd",
    lr=0.1,
    schedule="exponential",
    lr_decay=1 / 1.000004,
)

_DCGAN = _paper(
    name="dcgan-lsun",
    summary="DCGAN of LSUN bedrooms at 64x64, five passes; kernels of 4x4 for its 5x5, Gaussian codes",
    source="Radford, Metz, Chintala 2016, Unsupervised Representation Learning with DCGANs, "
    "https://arxiv.org/abs/1511.06434: it is judged by its samples and features",
    data="./lsun-bedroom",
    size=64,
    model="DCGAN",
    config={"latent_dim": 100, "n_filters": [128, 256, 512, 1024]},
    batch_size=128,
    steps=118_000,
    lr=2e-4,
)

_LSGAN = dataclasses.replace(
    _DCGAN,
    name="lsgan-lsun",
    summary="LSGAN of LSUN bedrooms at 112x112, 1,024 latents; the networks of DCGAN, budget not in the paper",
    source="Mao et al. 2017, Least Squares Generative Adversarial Networks, https://arxiv.org/abs/1611.04076: it is "
    "judged by its samples",
    size=112,
    model="LSGAN",
    config={"latent_dim": 1024, "n_filters": [64, 128, 256, 512]},
    batch_size=64,
    lr=1e-3,
)

_WGAN = dataclasses.replace(
    _DCGAN,
    name="wgan-lsun",
    summary="WGAN of LSUN bedrooms at 64x64, RMSProp, weights clipped to 0.01; budget not in the paper",
    source="Arjovsky, Chintala, Bottou 2017, Wasserstein GAN, https://arxiv.org/abs/1701.07875, algorithm 1; widths: "
    "the authors' https://github.com/martinarjovsky/WassersteinGAN",
    model="WGAN",
    config={"latent_dim": 100, "n_filters": [64, 128, 256, 512]},
    batch_size=64,
    steps=200_000,
    optimizer="rmsprop",
    lr=5e-5,
)

_WGANGP = _paper(
    name="wgangp-cifar10",
    summary="WGAN-GP of CIFAR-10 with the authors' convolutional networks (not the residual ones of their best score)",
    source="Gulrajani et al. 2017, Improved Training of Wasserstein GANs, https://arxiv.org/abs/1704.00028, section "
    "5.3; settings: the authors' https://github.com/igul222/improved_wgan_training",
    data="cifar10",
    model="WGANGP",
    config={"latent_dim": 128, "n_filters": [128, 256, 512], "discriminator_norm": "none"},
    adversarial={
        "d_steps": 5,
        "gradient_penalty": 10.0,
        "betas_generator": [0.5, 0.9],
        "betas_discriminator": [0.5, 0.9],
    },
    batch_size=64,
    steps=200_000,
    lr=1e-4,
)

_CONDITIONAL_GAN = _paper(
    name="conditional_gan-mnist",
    summary="GAN of MNIST given its class, the label beside code and image; convolutions and Adam for its dense "
    "maxout layers and SGD, so its figure does not apply",
    source="Mirza, Osindero 2014, Conditional Generative Adversarial Nets, https://arxiv.org/abs/1411.1784",
    data="mnist",
    model="ConditionalGAN",
    config={"latent_dim": 100, "n_filters": [64, 128], "conditioning": "concatenation"},
    adversarial={"loss": "non_saturating"},
    conditional=True,
    batch_size=100,
    steps=54_000,
    lr=2e-4,
)

_INFOGAN = _paper(
    name="infogan-mnist",
    summary="InfoGAN of MNIST, 62 noises, ten values and two continuous latents; one dense layer less in each network",
    source="Chen et al. 2016, InfoGAN, https://arxiv.org/abs/1606.03657, appendix C.1; settings: the authors' "
    "https://github.com/openai/InfoGAN",
    data="mnist",
    model="InfoGAN",
    config={"latent_dim": 62, "n_filters": [64, 128], "hidden": 128, "categorical": [10], "n_continuous": 2},
    adversarial={"lr_generator": 5.0},
    batch_size=128,
    steps=5_000,
    eval_interval=1_000,
    lr=2e-4,
)

_BEGAN = _paper(
    name="began-celeba",
    summary="BEGAN of CelebA at 64x64, 64 latents, widths 128, 256 and 384; the paper has faces of its own, two "
    "convolutions at each scale, and halves the rate when it stalls; budget not in the paper",
    source="Berthelot, Schumm, Metz 2017, BEGAN, https://arxiv.org/abs/1703.10717: it is judged by its samples",
    data="celeba",
    size=64,
    model="BEGAN",
    config={"latent_dim": 64, "n_filters": [128, 256, 384], "hidden": 128, "gamma": 0.5, "k_lr": 0.001},
    batch_size=16,
    steps=300_000,
    lr=1e-4,
)

_PROGRESSIVE = _paper(
    name="progressive_gan-celebahq",
    summary="Progressive GAN of CelebA-HQ at 1024x1024, 12 million images; a batch of 16 at all resolutions, where "
    "the paper's falls to 3",
    expected="FID 7.79",
    source="Karras, Aila, Laine, Lehtinen 2018, Progressive Growing of GANs, https://arxiv.org/abs/1710.10196; "
    f"figure: {_STYLEGAN}, table 1, row A",
    data="./celeba-hq",
    size=1024,
    model="ProgressiveGAN",
    config={"latent_dim": 512, "n_filters": [16, 32, 64, 128, 256, 512, 512, 512, 512]},
    batch_size=16,
    steps=750_000,
    lr=1e-3,
    ema_decay=0.999,
)

_STYLEGAN_FFHQ = _paper(
    name="stylegan-ffhq",
    summary="StyleGAN of FFHQ at 1024x1024, grown, 25 million images; a batch of 32 and one rate at all resolutions, "
    "and no bilinear start at 8x8",
    expected="FID 4.40",
    source=f"{_STYLEGAN}, table 1, row F; settings: the authors' https://github.com/NVlabs/stylegan",
    data="./ffhq",
    size=1024,
    model="StyleGAN",
    config={
        "latent_dim": 512,
        "w_dim": 512,
        "n_filters": [16, 32, 64, 128, 256, 512, 512, 512, 512],
        "progressive": True,
    },
    batch_size=32,
    steps=781_250,
    lr=3e-3,
    ema_decay=0.5 ** (32 / 10_000),  # half of it after 10,000 images
)

_STYLEGAN2 = dataclasses.replace(
    _STYLEGAN_FFHQ,
    name="stylegan2-ffhq",
    summary="StyleGAN2 of FFHQ at 1024x1024, large networks (configuration F), 25 million images",
    expected="FID 2.84",
    source="Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, "
    "https://arxiv.org/abs/1912.04958, table 1, row F; settings: the authors' https://github.com/NVlabs/stylegan2",
    model="StyleGAN2",
    config={"latent_dim": 512, "w_dim": 512, "n_filters": [32, 64, 128, 256, 512, 512, 512, 512, 512]},
    lr=2e-3,
)

_IMAGE_TO_IMAGE = _paper(
    name="image_to_image-facades",
    summary="pix2pix of 400 facades from labels, U-Net of eight scales, patches of 70x70, 200 passes; its random "
    "crops, and the halved loss of the discriminator, which Adam does not see, are left out",
    source="Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks, "
    "https://arxiv.org/abs/1611.07004, section 6: facades are judged by people",
    data="./facades",
    size=256,
    model="ImageToImage",
    config={
        "n_filters": [64, 128, 256, 512, 512, 512, 512, 512],
        "discriminator_filters": [64, 128, 256],
        "direction": "b_to_a",
    },
    batch_size=1,
    steps=80_000,
    lr=2e-4,
)

_CYCLEGAN = _paper(
    name="cyclegan-horse2zebra",
    summary="CycleGAN of horses and zebras at 256x256, 9 residual blocks, 200 passes, the second hundred with a "
    "falling rate; its random crops are left out",
    source="Zhu, Park, Isola, Efros 2017, Unpaired Image-to-Image Translation, https://arxiv.org/abs/1703.10593: "
    "horses and zebras are judged by their looks",
    data="./horse2zebra",
    size=256,
    model="CycleGAN",
    config={"n_filters": 64, "n_blocks": 9},
    batch_size=1,
    steps=266_800,
    lr=2e-4,
    schedule="linear",
    lr_hold=0.5,
)

# -- energies

_ENERGY = _paper(
    name="energy-cifar10",
    summary="energy of CIFAR-10, 60 Langevin steps of persistent chains, spectral norm; three convolutions for its "
    "residual network, so its figures (FID 40.58, inception score 6.02) do not apply",
    source="Du, Mordatch 2019, Implicit Generation and Modeling with Energy-Based Models, "
    "https://arxiv.org/abs/1903.08689; settings: the authors' https://github.com/openai/ebm_code_release",
    data="cifar10",
    model="EnergyModel",
    config={
        "n_filters": 128,
        "spectral_norm": True,
        "n_steps": 60,
        # in [-1, 1] what in the paper's [0, 1] is a step of 10, clipped gradients of 0.01 and noise of 0.005
        "step_size": 80.0,
        "gradient_clip": 0.005,
        "temperature": 0.01 / 80.0**0.5,
        "buffer_size": 10_000,
        "restart": 0.05,
        "energy_penalty": 1.0,
    },
    batch_size=128,
    steps=100_000,
    lr=1e-4,
    betas=(0.0, 0.999),
)

RECIPES: tuple[Recipe, ...] = (
    _FVSBN, _NADE, _MADE, _ROW_MNIST, _DIAGONAL_MNIST, _PIXELCNN_MNIST, _ROW, _DIAGONAL, _PIXELCNN, _GATED_CIFAR10,
    _GATED_IMAGENET, _PIXELCNNPP, _MULTISCALE, _COLORIZATION, _SUPER_RESOLUTION, _PIXELSNAIL, _IMAGE_GPT, _WAVENET,
    _AUTOENCODER, _CONV_AUTOENCODER, _DENOISING, _VAE, _CONV_VAE, _CONDITIONAL_VAE, _BETA_VAE, _IWAE, _VQVAE, _VQVAE2,
    _ADVERSARIAL_AUTOENCODER, _PIXELVAE, _VDVAE, _GAN, _DCGAN, _LSGAN, _WGAN, _WGANGP, _CONDITIONAL_GAN, _INFOGAN,
    _BEGAN, _PROGRESSIVE, _STYLEGAN_FFHQ, _STYLEGAN2, _IMAGE_TO_IMAGE, _CYCLEGAN, _ENERGY,
)  # fmt: skip
