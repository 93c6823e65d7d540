"""Multi-scale PixelCNN: a small image first, then networks that each draw the larger image around the pixels given.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759, section
3.5, with Gated PixelCNN for its PixelRNN. An unconditional network models the image that is left of every f-th pixel of
every f-th row. A conditional one models the larger image; a deconvolution enlarges the small one to a feature map, and
1x1 convolutions of it bias every layer. The pixels of the small image are pixels of the large one and are not drawn
again, so

    p(x) = p(x_small) product over the other pixels in raster order of p(x_i | x_<i, x_small)

is a normalised likelihood of the large image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fastgen.likelihoods import Categorical, Likelihood
from fastgen.models.autoregressive.base import AutoregressiveModel, as_likelihood, check_image_options
from fastgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN

SEED_STEP = 0x9E3779B97F4A7C15  # odd, so that the seeds of 2^64 scales differ
NETWORK_OPTIONS = (
    "image_channels", "kernel_size", "n_classes", "first_kernel_size", "head_filters", "cond_filters", "cond_layers",
)  # fmt: skip


@dataclass(frozen=True)
class MultiScalePixelCNNConfig:
    """Options of the multi-scale PixelCNN.

    Attributes:
        image_channels: C.
        factors: by how much each conditional network enlarges height and width, the smallest first.
        n_layers: gated layers of the networks, one number for all or one for each, the smallest image's first.
        n_filters: channels of either stack, likewise.
        kernel_size: k of the k x k (vertical) and 1 x k (horizontal) convolutions.
        n_classes: labels that all networks are conditioned on; 0 for none.
        first_kernel_size: k of the first layer.
        head_filters: width of the 1x1 layer before the output.
        cond_filters: channels of the networks that enlarge the small images.
        cond_layers: their 3x3 convolutions before the deconvolution.
        likelihood: distribution of a pixel (or the config of one); by default 256-way categorical per channel.
        image_size: (H, W) it is trained on; the product of the factors divides both.
    """

    image_channels: int = 3
    factors: Sequence[int] = (2,)
    n_layers: int | Sequence[int] = 12
    n_filters: int | Sequence[int] = 96
    kernel_size: int = 5
    n_classes: int = 0
    _: KW_ONLY
    first_kernel_size: int = 7
    head_filters: int = 128
    cond_filters: int = 64
    cond_layers: int = 3
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = check_image_options("MultiScalePixelCNN", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Categorical(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "factors", tuple(int(f) for f in self.factors))
        if not self.factors or min(self.factors) < 2:
            raise ValueError(
                f"MultiScalePixelCNN: factors must name at least one, at least 2 each; got {self.factors}; for a "
                "single scale use GatedPixelCNN"
            )
        for key in ("n_layers", "n_filters"):
            value = getattr(self, key)
            each = (value,) * self.n_scales if isinstance(value, int) else tuple(int(n) for n in value)
            if len(each) != self.n_scales:
                raise ValueError(
                    f"MultiScalePixelCNN: {key} must be one number or {self.n_scales}, one a scale, the smallest "
                    f"first; got {value}"
                )
            object.__setattr__(self, key, each)
        if size is not None:
            check_divides(math.prod(self.factors), size)

    @property
    def n_scales(self) -> int:
        """The number of networks."""
        return 1 + len(self.factors)


class MultiScalePixelCNN(AutoregressiveModel):
    """Gated PixelCNNs from a small image to a large one; options as in `MultiScalePixelCNNConfig`.

    The order of the pixels is scale after scale, and at each scale the raster: `sample` draws so, with a network a
    scale, and `fastgen.sample`, which visits one network in one raster, does not serve this model.

    Shapes: x [N, C, H, W], cond [N] labels or None -> [N, likelihood.n_params, H, W].
    """

    config_class = MultiScalePixelCNNConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = MultiScalePixelCNNConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        assert not isinstance(config.n_layers, int) and not isinstance(config.n_filters, int)
        super().__init__(config, config.likelihood, config.n_classes)
        self.factors = tuple(config.factors)
        shared = {key: getattr(config, key) for key in NETWORK_OPTIONS}
        self.scales = nn.ModuleList()
        """The networks, that of the smallest image first."""
        for scale, (n_layers, n_filters) in enumerate(zip(config.n_layers, config.n_filters)):
            if scale:
                shared |= {"cond_channels": config.image_channels, "cond_scale": self.factors[scale - 1]}
            self.scales.append(
                GatedPixelCNN(n_layers=n_layers, n_filters=n_filters, likelihood=self.likelihood, **shared)
            )

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The images of all scales, the smallest first and x last: every f-th pixel of every f-th row of x.

        Shapes: x [N, C, H, W] -> [N, C, H / f, W / f], f the product of the factors above the scale.

        Raises:
            ValueError: the product of all factors does not divide H and W.
        """
        check_divides(math.prod(self.factors), tuple(x.shape[2:]))
        images = [x]
        for factor in reversed(self.factors):
            images.insert(0, images[0][:, :, ::factor, ::factor])
        return images

    def forward(self, x: Tensor, cond: Any = None) -> Tensor:
        """Parameters of the likelihood at every pixel, each from the network of the smallest image that has it.

        Shapes: x [N, C, H, W], cond [N] -> [N, P, H, W].
        """
        images = self.pyramid(self.prepare_image(x))
        labels = self.prepare_cond(cond, x.shape[0])
        params: Tensor = self.scales[0](images[0], labels)
        for network, factor, small, image in zip(self.scales[1:], self.factors, images, images[1:]):
            larger = network(image, self.conditions(small, labels)).clone()
            larger[:, :, ::factor, ::factor] = params
            params = larger
        return params

    def conditions(self, small: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """What the network of the next scale is conditioned on: the image of this one, and the labels if there are."""
        return {"map": small} if labels is None else {"map": small, "labels": labels}

    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        shape: tuple[int, int, int] | None = None,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        cond: Any = None,
        return_log_prob: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draw n images scale by scale, each larger one around the pixels of the smaller one.

        Scale k, the smallest image's being 0, takes the noise of `fastgen.sample` for seed + k 0x9E3779B97F4A7C15
        modulo 2^64. So the noise of no two scales is the same, and image k of a seed is the same at any batch size (up
        to the rounding of the convolutions that read the smaller images, which PyTorch does by batch).

        Shapes: result uint8 levels [n, C, H, W]; `shape` (C, H, W) is by default that of the images it was trained on;
            `given` and `mask` as in `fastgen.sample`, [n or 1, C, H, W] and [n or 1, 1 or C, H, W], and the pixels that
            a smaller image has are kept when it is drawn already; with `return_log_prob` also `log_prob` of the images.
        The other options are those of `fastgen.sample`: temperature, method, batch_size, first_image, progress.

        Raises:
            ValueError: as `fastgen.sample`; `prepared`, which holds one network.
        """
        from fastgen.sampling import sample

        if options.get("prepared") is not None:
            raise ValueError("MultiScalePixelCNN.sample: `prepared` holds one network of several; leave it out")
        shape = self._shape(shape, given)
        check_divides(math.prod(self.factors), shape[1:])
        for name, image in (("given", given), ("mask", mask)):
            if image is not None and (image.dim() != 4 or tuple(image.shape[2:]) != tuple(shape[1:])):
                raise ValueError(
                    f"MultiScalePixelCNN.sample: {name} must be of the images' size, {shape[1]} x {shape[2]}; got "
                    f"{list(image.shape)}"
                )
        labels = self.prepare_cond(cond, n)
        kept = [None] * len(self.scales) if given is None else self.pyramid(given)
        masks = [None] * len(self.scales) if mask is None else self.pyramid(mask)
        image = torch.empty(0)
        for scale, network in enumerate(self.scales):
            below = math.prod(self.factors[scale:])
            options["shape"] = (shape[0], shape[1] // below, shape[2] // below)
            known, where = kept[scale], masks[scale]
            conditions: Any = labels
            if scale:
                conditions = self.conditions(image, labels)
                known, where = _around(image, self.factors[scale - 1], known, where)
            seed_of_scale = (seed + scale * SEED_STEP) % 2**64
            image = sample(network, n, seed=seed_of_scale, given=known, mask=where, cond=conditions, **options)
        return (image, self.log_prob(image, cond)) if return_log_prob else image

    @property
    def pixel_order(self) -> NoReturn:
        """`fastgen.sample` asks for it; there is none that one network could be visited in.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "MultiScalePixelCNN: fastgen.sample visits one network in one raster, and this model has "
            f"{len(self.scales)}; got the whole model; use model.sample(n, ...), or one of model.scales"
        )

    def _shape(self, shape: tuple[int, int, int] | None, given: Tensor | None) -> tuple[int, int, int]:
        if shape is None and self.image_size is not None:
            return (self.image_channels, *self.image_size)
        if shape is None and given is not None and given.dim() == 4:
            return (self.image_channels, given.shape[2], given.shape[3])
        if shape is None or len(shape) != 3:
            raise ValueError(
                f"MultiScalePixelCNN.sample: shape must be (C, H, W), as the model knows no image size; got {shape}"
            )
        return shape


def _around(small: Tensor, factor: int, given: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The larger image with the pixels of the small one and those given besides, and where they are."""
    n, channels, height, width = small.shape
    image = small.new_zeros(n, channels, factor * height, factor * width)
    where = torch.zeros(n, channels, *image.shape[2:], dtype=torch.bool, device=small.device)
    if given is not None and mask is not None:
        image, where = given.to(image.device).expand_as(image).clone(), mask.to(image.device).expand_as(where).clone()
    image[:, :, ::factor, ::factor] = small
    where[:, :, ::factor, ::factor] = True
    return image, where


def check_divides(factor: int, size: tuple[int, ...]) -> None:
    """Check that an image of `size` = (H, W) has a smallest image.

    Raises:
        ValueError: the product of the factors does not divide both.
    """
    if any(side % factor for side in size):
        raise ValueError(
            f"MultiScalePixelCNN: the product of the factors must divide H and W; got {factor} and "
            f"{' x '.join(map(str, size))}; crop or pad the images, or take other factors"
        )
