"""MADE: an autoencoder whose masks leave each output only the inputs before it.

Germain, Gregor, Murray, Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation,
https://arxiv.org/abs/1502.03509. Every unit k has a degree m(k), the number of values that it may see at most. Inputs
have their places in the order of the values, hidden units a degree drawn between the smallest one below them and D - 1,
and a weight is kept (section 4, equations 8, 9 and 12)

    from a unit k' to a hidden unit k   where m(k) >= m(k'),
    from a unit k' to output d          where d > m(k'),

the direct connections from input to output included, which then form a strictly lower triangle. One set of weights
serves many sets of degrees (section 4.3) and many orders of the values (section 4.2), of which training takes one of
each a step. Those of one order are averaged value by value; orders are averaged as distributions of whole images,

    p(x) = 1 / n sum over orders o of p_o(x),

a mixture whose images are drawn by choosing an order first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.likelihoods import Bernoulli, Categorical, Likelihood
from fastgen.models.autoregressive.base import as_likelihood, parameter_groups
from fastgen.models.autoregressive.flat import FlatModel, check_flat_options

ORDERS = ("natural", "random")
SEED_OF_ORDERS = 0xD1B54A32D192ED03  # added to a seed, so that the choice of an order shares no noise with pixels


@dataclass(frozen=True)
class MADEConfig:
    """Options of MADE; by default two hidden layers for binary images, in raster order.

    Attributes:
        image_channels: C.
        hidden: units of every hidden layer.
        order: "natural", the raster, or "random", a permutation of the pixels (the channels of one follow each other).
        n_masks: sets of hidden degrees of each order. In training each step takes one of them at random, which makes
            the weights agnostic of the connectivity (section 4.3); otherwise a conditional is the average of theirs.
        n_orders: random orders. In training each step takes one of them at random, which makes the weights agnostic of
            the order (section 4.2); otherwise the model is the mixture of theirs, in equal parts.
        direct: connections from the input to the output.
        mask_seed: decides the orders and the degrees.
        likelihood: distribution of a pixel (or the config of one); by default Bernoulli.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    hidden: Sequence[int] = (500, 500)
    order: Literal["natural", "random"] = "natural"
    n_masks: int = 1
    _: KW_ONLY
    n_orders: int = 1
    direct: bool = False
    mask_seed: int = 0
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_flat_options("MADE", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Bernoulli(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "hidden", tuple(int(n) for n in self.hidden))
        if self.order not in ORDERS:
            raise unknown_name("order of MADE", str(self.order), ORDERS)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"MADE: hidden must name at least one layer of at least 1 unit; got {self.hidden}")
        if self.n_masks < 1 or not 0 <= self.mask_seed < 2**32:
            raise ValueError(
                f"MADE: n_masks must be at least 1 and mask_seed in [0, 2^32); got n_masks={self.n_masks}, "
                f"mask_seed={self.mask_seed}"
            )
        if self.n_orders < 1 or (self.n_orders > 1 and self.order == "natural"):
            raise ValueError(
                f"MADE: n_orders must be at least 1, and 1 for the natural order, of which there is one; got "
                f'n_orders={self.n_orders} with order="{self.order}"; set order="random"'
            )
        if self.n_masks > 1 and not isinstance(likelihood, (Bernoulli, Categorical)):
            raise ValueError(
                f"MADE: probabilities of several masks are averaged for Bernoulli and Categorical only; got "
                f"n_masks={self.n_masks} with {type(likelihood).__name__}; set n_masks=1"
            )


class MADE(FlatModel):
    """Masked autoencoder for distribution estimation; options as in `MADEConfig`.

    With several masks p(x_d | x_<d) is the mean over the masks of what each gives, all in one order of the values, so
    that `log_prob` is normalised and sampling exact.

    With several orders p(x) is the mean over the orders of p_o(x). Whole images are mixed, and no pixel has parameters
    of its own: in evaluation `forward` and what visits one network in one order (`fastgen.sample`, `prepare`,
    `explain`, `teacher_forced`) refuse the model, and take `component(o)`, p_o, a model of images like any other.
    `log_prob` and `sample` serve the mixture. In training `forward` and `log_prob` are those of one order, drawn anew
    each time, whose mean over steps is the order-agnostic objective.

    Shapes: x [N, C, H, W] -> [N, likelihood.n_params, H, W].
    """

    config_class = MADEConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = MADEConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood)
        self.n_masks, self.n_orders = config.n_masks, config.n_orders
        generator = np.random.RandomState(config.mask_seed)  # its numbers are the same in every version
        widths = (self.n_values, *config.hidden, self.n_pixels * self.likelihood.n_params)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.direct = nn.Linear(widths[0], widths[-1], bias=False) if config.direct else None
        for order in range(config.n_orders):
            pixels = None if config.order == "natural" else generator.permutation(self.n_pixels)
            self.register_buffer(
                f"pixel_order_{order}", None if pixels is None else torch.as_tensor(pixels), persistent=False
            )
            inputs, outputs = self._degrees(pixels)
            for index in range(order * config.n_masks, (order + 1) * config.n_masks):
                degrees = [inputs]
                for width in config.hidden:
                    low, high = int(degrees[-1].min()), max(int(degrees[-1].min()), self.n_values - 1)
                    degrees.append(generator.randint(low, high + 1, width))
                for layer, (below, above) in enumerate(pairwise(map(torch.as_tensor, degrees))):
                    self._add_mask(f"mask_{index}_{layer}", above[:, None] >= below)
                last = torch.as_tensor(degrees[-1])
                self._add_mask(f"mask_{index}_{len(config.hidden)}", torch.as_tensor(outputs)[:, None] > last)
            if config.direct:
                self._add_mask(f"direct_mask_{order}", torch.as_tensor(outputs)[:, None] > torch.as_tensor(inputs))

    @property
    def pixel_order(self) -> Tensor | None:
        """The pixels (row W + column) in the order that they are drawn in, int64 [H W]; None for the raster.

        Raises:
            ValueError: several orders.
        """
        self._check_one_order()
        return self.order(0)

    def _check_one_order(self) -> None:
        if self.n_orders > 1:
            raise ValueError(
                f"MADE: a mixture of {self.n_orders} orders is not drawn in one of them, nor has it parameters of "
                "each pixel; got the whole model; use model.sample and model.log_prob, or an order, model.component(0)"
            )

    def order(self, index: int) -> Tensor | None:
        """The pixels in one of the orders, as in `pixel_order`."""
        order: Tensor | None = getattr(self, f"pixel_order_{index}")
        return order

    def component(self, order: int) -> OrderOfMADE:
        """p_o of the mixture, with the same weights: what `fastgen.sample` draws from and completes.

        Raises:
            ValueError: no such order.
        """
        if not 0 <= order < self.n_orders:
            raise ValueError(f"MADE.component: order must be in 0..{self.n_orders - 1}; got {order}")
        return OrderOfMADE(self, order)

    def _degrees(self, order: npt.NDArray[Any] | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Degree of every value and of every parameter: its place in the order, from 1."""
        place = np.arange(self.n_pixels) if order is None else np.argsort(order)
        channels = np.arange(self.image_channels)
        groups = np.array(parameter_groups(self.likelihood))
        first = 1 + place[:, None] * self.image_channels
        return (first + channels).flatten(), (first + groups).flatten()

    def _add_mask(self, name: str, mask: Tensor) -> None:
        """Keep a mask as 0 and 1; the options say what it is, so that no file has to."""
        self.register_buffer(name, mask.to(torch.get_default_dtype()), persistent=False)

    def _masked(self, layer: nn.Module, name: str, x: Tensor) -> Tensor:
        assert isinstance(layer, nn.Linear)
        mask: Tensor = getattr(self, name)
        return F.linear(x, layer.weight * mask.to(layer.weight.dtype), layer.bias)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W] -> [N, P, H, W].

        Raises:
            ValueError: several orders in evaluation; what `FlatModel` refuses.
        """
        n_networks = self.n_orders * self.n_masks
        if self.training and n_networks > 1:
            return self.unflatten(self._masked_network(self.flatten(x, cond), int(torch.randint(n_networks, ()))))
        self._check_one_order()
        return self.of_order(0, x, cond)

    def of_order(self, order: int, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters that one order gives, all its masks averaged. Shapes: as `forward`."""
        x = self.flatten(x, cond)
        indices = range(order * self.n_masks, (order + 1) * self.n_masks)
        return self.unflatten(self._average([self._masked_network(x, index) for index in indices]))

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Nats: log p(x), of several orders logsumexp over o of log p_o(x), minus log n; in training of one order.

        Shapes, dtypes, gradient order: as `AutoregressiveModel.log_prob`.
        """
        if self.training or self.n_orders == 1:
            return super().log_prob(x, cond)
        each = [self.component(order).log_prob(x, cond) for order in range(self.n_orders)]
        return torch.logsumexp(torch.stack(each), 0) - math.log(self.n_orders)

    def sample(  # type: ignore[override]
        self, n: int, *, seed: int = 0, return_log_prob: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draw n images, uint8 [n, C, H, W]: `fastgen.sample(self, n, seed=seed, **options)`.

        Of several orders each image takes one, by noise that is a function of (seed, image index) and is none of the
        pixels': image k of a seed is the same at any batch size. The images of one order are drawn together. With
        `return_log_prob` also log p of the mixture, which takes a forward for each order.

        Raises:
            ValueError: as `fastgen.sample`; with several orders `given`, as what is given says which orders are the
                likely ones, and their probabilities p(o | given) are sums over all that is not; and `prepared`, which
                holds one order.
        """
        if self.n_orders == 1:
            return super().sample(n, seed=seed, return_log_prob=return_log_prob, **options)
        from fastgen.sampling import sample
        from fastgen.sampling.trace import evaluating

        for name in ("given", "mask", "prepared"):
            if options.get(name) is not None:
                raise ValueError(
                    f"MADE.sample: {name} must be None for a mixture of {self.n_orders} orders; got one; sample from "
                    "one order, fastgen.sample(model.component(0), n, ...)"
                )
        if n < 0:
            raise ValueError(f"MADE.sample: n must not be negative; got {n}")
        self.prepare_cond(options.get("cond"), n)
        device = next(self.parameters()).device
        images = torch.arange(n, device=device) + options.pop("first_image", 0)
        taken = self.orders_of(seed, images)
        drawn: Tensor | None = None
        for order in range(self.n_orders):
            mine = (taken == order).nonzero().flatten()
            part = sample(self.component(order), len(mine), seed=seed, images=images[mine], **options)
            drawn = part.new_empty(n, *part.shape[1:]) if drawn is None else drawn
            drawn[mine] = part
        assert drawn is not None
        if not return_log_prob:
            return drawn
        size = options.get("batch_size") or max(1, n)
        with torch.inference_mode(), evaluating(self):
            return drawn, torch.cat([self.log_prob(x) for x in drawn.split(size)])

    def orders_of(self, seed: int, images: Tensor) -> Tensor:
        """The order that each image of a seed takes, a function of both. Shapes: indices [n] int64 -> [n] int64."""
        from fastgen.sampling.noise import uniforms

        noise = uniforms((seed + SEED_OF_ORDERS) % 2**64, images, 1, 1, 1).flatten()
        return (noise.double() * self.n_orders).long()

    def _masked_network(self, x: Tensor, index: int) -> Tensor:
        """The autoencoder under one set of masks. Shapes: [N, D] -> [N, H W P]."""
        h = x
        for n, layer in enumerate(self.layers):
            h = self._masked(layer, f"mask_{index}_{n}", F.relu(h) if n else h)
        return h if self.direct is None else h + self._masked(self.direct, f"direct_mask_{index // self.n_masks}", x)

    def _average(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits of the mean of the probabilities that these give, up to a constant that no softmax sees."""
        if len(logits) == 1:
            return logits[0]
        if isinstance(self.likelihood, Bernoulli):  # log of the mean of p over the mean of 1 - p
            return _log_sum_exp([-F.softplus(-x) for x in logits]) - _log_sum_exp([-F.softplus(x) for x in logits])
        split = [x.unflatten(1, (-1, self.likelihood.levels)) for x in logits]
        return _log_sum_exp([x - _log_sum_exp(list(x.split(1, 2))) for x in split]).flatten(1)


class OrderOfMADE(FlatModel):
    """p_o of a MADE with several orders: its parameters in order o, which are the mixture's own.

    Shapes: x [N, C, H, W] -> [N, likelihood.n_params, H, W].

    Attributes:
        pixel_order: the pixels in the order that they are drawn in, int64 [H W].
    """

    def __init__(self, model: MADE, order: int) -> None:
        super().__init__(model._options, model.likelihood)
        self.model, self.index = model, order
        self.training = model.training

    @property
    def pixel_order(self) -> Tensor | None:
        """The pixels (row W + column) in the order that they are drawn in, int64 [H W]; None for the raster."""
        return self.model.order(self.index)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W] -> [N, P, H, W]."""
        return self.model.of_order(self.index, x, cond)


def _log_sum_exp(terms: list[Tensor]) -> Tensor:
    """log(sum_k exp(terms_k)), in pairs: log(e^a + e^b) = a + softplus(b - a)."""
    while len(terms) > 1:
        pairs = [a + F.softplus(b - a) for a, b in zip(terms[::2], terms[1::2])]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
