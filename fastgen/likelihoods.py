"""Likelihoods of a pixel, or of a sample in time: one protocol for every explicit-density model.

A likelihood has no weights. It reads `n_params` numbers per pixel, tells the log-probability of the pixel's levels, and
draws levels from `n_draws` uniforms: a pure function, so that whoever owns the noise owns the sample.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.functional import dmol_log_prob, dmol_sample


def level_dtype(levels: int) -> torch.dtype:
    """The dtype of whole numbers in 0..levels - 1: uint8 where they fit, else int32."""
    return torch.uint8 if levels <= 256 else torch.int32


def levels_to_signal(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Signal 2k / (levels - 1) - 1 of level k, rounded once.

    Shapes: any. Dtypes: uint8 or any integer -> `dtype`, in [-1, 1]. Gradient order: none.
    """
    half = (levels - 1) / 2
    return (x.to(dtype) - half) / half


def signal_to_levels(x: Tensor, levels: int) -> Tensor:
    """Level nearest to the signal x: round((x + 1) (levels - 1) / 2), clamped to 0..levels - 1.

    Shapes: any. Dtypes: float -> uint8, or int32 for more than 256 levels; half precision is computed in float32.
    Gradient order: none.
    """
    half = (levels - 1) / 2
    return (_working(x) * half + half).round_().clamp_(0, levels - 1).to(level_dtype(levels))


class Likelihood(abc.ABC):
    """p(x | params) of the C channels of a pixel.

    Attributes:
        channels: C.
        levels: number of levels of a channel; level k is the signal 2k / (levels - 1) - 1.
        n_params: P, parameters per pixel.
        n_draws: U, uniforms that one draw of a pixel takes.
        coupled: whether a draw needs all channels' parameters at once. If False the channels are independent given
            their parameters, and `channel(c)` tells which parameters and uniforms are channel c's.
    """

    channels: int
    levels: int
    coupled: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def n_params(self) -> int:
        """Parameters per pixel."""

    @property
    def n_draws(self) -> int:
        """Uniforms per draw."""
        return self.channels

    @property
    def config(self) -> dict[str, Any]:
        """The options, ready for JSON; `likelihood_from_config` builds an equal likelihood."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    @abc.abstractmethod
    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Nats, summed over the channels: log p(x | params).

        Shapes: x [N, C, H, W], params [N, P, H, W] -> [N, H, W]; in time x [N, C, T], params [N, P, T] -> [N, T].
        Dtypes: x levels (uint8; int32 for more than 256 of them) or float in [-1, 1]; computed and returned in float64
            for float64 params, else float32.
        Gradient order: with respect to params at least first; none with respect to x, save where stated.
        Raises: ValueError, TypeError for shapes and dtypes that do not fit; on the CPU ValueError for levels out of
            range and for float x that is NaN or outside [-1, 1] (on CUDA x is not read, as that would stall it).
        """

    @abc.abstractmethod
    def sample(self, params: Tensor, uniforms: Tensor, *, temperature: float = 1.0) -> Tensor:
        """A draw in [-1, 1], on the grid of levels, as a function of uniform noise.

        Shapes: params [N, P, *spatial], uniforms [N, U, *spatial] -> [N, C, *spatial]; spatial may be empty.
        Dtypes: uniforms float32 in [0, 1); the result has the dtype of params, the arithmetic at least float32.
        Gradient order: none.
        `temperature` >= 0 divides logits and multiplies scales; 0 is the mode.
        Raises: ValueError for shapes or a temperature that do not fit.
        """

    def channel(self, c: int) -> tuple[Likelihood, slice, slice]:
        """The likelihood of channel c alone, and its slices of the parameters and of the uniforms.

        Raises: ValueError for a likelihood that draws all channels together.
        """
        raise ValueError(
            f"{type(self).__name__}: its channels are drawn together (coupled=True); got channel({c}); draw all with "
            "sample"
        )


def _check_pair(likelihood: Likelihood, x: Tensor, params: Tensor) -> None:
    """The shapes and dtypes that `log_prob` takes."""
    name, c, p = type(likelihood).__name__, likelihood.channels, likelihood.n_params
    if x.dim() not in (3, 4) or x.shape[1] != c:
        axes = "T" if x.dim() == 3 else "H, W"
        raise ValueError(f"{name}: x must be [N, {c}, {axes}]; got {list(x.shape)}; match channels to the image")
    if (
        params.dim() != x.dim()
        or params.shape[1] != p
        or params.shape[0] != x.shape[0]
        or params.shape[2:] != x.shape[2:]
    ):
        raise ValueError(
            f"{name}: params must be {[x.shape[0], p, *x.shape[2:]]}; got {list(params.shape)}; the model must return "
            f"{p} a pixel for {likelihood.config}"
        )
    if not params.is_floating_point():
        raise TypeError(f"{name}: params must be floating point; got {params.dtype}; convert with .float()")
    wanted = level_dtype(likelihood.levels)
    if x.dtype != wanted and not x.is_floating_point():
        kind = str(wanted).removeprefix("torch.")
        raise TypeError(f"{name}: x must be {kind} levels or float in [-1, 1]; got {x.dtype}; convert it")


def _check_range(likelihood: Likelihood, x: Tensor) -> None:
    """The values that `log_prob` takes, where reading them does not stall a device."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not x.numel():
        return
    name, top = type(likelihood).__name__, likelihood.levels
    if x.dtype == torch.uint8 and top == 256:
        return
    low, high = (value.item() for value in torch.aminmax(x))
    if not x.is_floating_point():
        if low < 0 or high >= top:
            raise ValueError(
                f"{name}: levels must be in 0..{top - 1}; got {high if high >= top else low}; requantise x to {top} "
                "levels"
            )
        return
    if not (low >= -1 - _SLACK and high <= 1 + _SLACK):  # false for NaN too
        raise ValueError(
            f"{name}: float x must lie in [-1, 1]; got {low:.4g}..{high:.4g}; scale levels k to 2k/(levels-1) - 1"
        )


_SLACK = 1e-4  # rounding of the scaling to [-1, 1]


def _check_draw(likelihood: Likelihood, params: Tensor, uniforms: Tensor, temperature: float) -> None:
    """What `sample` takes; it runs once a pixel, so this looks at no values."""
    shape = params.shape
    if (
        shape[1:2] != (likelihood.n_params,)
        or uniforms.shape[1:2] != (likelihood.n_draws,)
        or uniforms.shape[:1] != shape[:1]
        or uniforms.shape[2:] != shape[2:]
    ):
        raise ValueError(
            f"{type(likelihood).__name__}: params must be [N, {likelihood.n_params}, *spatial] and uniforms "
            f"[N, {likelihood.n_draws}, *spatial]; got {list(shape)} and {list(uniforms.shape)}"
        )
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"{type(likelihood).__name__}: temperature must be finite and at least 0, the mode; got {temperature}"
        )


def _working(params: Tensor) -> Tensor:
    return params if params.dtype == torch.float64 else params.float()


@dataclass(frozen=True)
class DiscretizedLogisticMixture(Likelihood):
    """Mixture of discretized logistics, the means of later channels shifted linearly by earlier ones.

    Layout: see `fastgen.functional.dmol_log_prob`. Draws: uniform 0 picks the mixture, uniforms 1..C the channels.
    More than 8 bits (audio has 16) have int32 levels, and a smallest log-scale of -7 - (bits - 8) ln 2 instead of -7.
    Source: Salimans et al., "PixelCNN++", ICLR 2017.
    """

    channels: int = 3
    n_mix: int = 10
    bits: int = 8
    tails: str = "exact"
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.channels < 1 or self.n_mix < 1 or not 1 <= self.bits <= 16:
            raise ValueError(
                f"DiscretizedLogisticMixture: channels and n_mix must be at least 1, bits in 1..16; got "
                f"channels={self.channels}, n_mix={self.n_mix}, bits={self.bits}"
            )
        if self.tails not in ("exact", "pixelcnn++"):
            raise unknown_name("kind of tails", self.tails, ("exact", "pixelcnn++"))

    @property
    def levels(self) -> int:  # type: ignore[override]
        """Levels per channel, 2^bits."""
        return 2**self.bits

    @property
    def n_params(self) -> int:
        """M (1 + 2C + C(C-1)/2)."""
        c = self.channels
        return self.n_mix * (1 + 2 * c + c * (c - 1) // 2)

    @property
    def n_draws(self) -> int:
        """One for the mixture, one for each channel."""
        return 1 + self.channels

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Nats, summed over the channels; see `Likelihood.log_prob` and `fastgen.functional.dmol_log_prob`."""
        _check_pair(self, x, params)  # the op checks the values
        if x.dtype == torch.int32:
            _check_range(self, x)
            # float64, as float32 would move the edges of 16-bit bins by a hundredth of their width
            x = levels_to_signal(x, self.levels, torch.float32 if x.device.type == "mps" else torch.float64)
        if x.dim() == 4:
            return dmol_log_prob(x, params, bits=self.bits, tails=self.tails)
        # the op wants rows: a signal is one of them
        return dmol_log_prob(x.unsqueeze(2), params.unsqueeze(2), bits=self.bits, tails=self.tails).squeeze(1)

    def sample(self, params: Tensor, uniforms: Tensor, *, temperature: float | Sequence[float] = 1.0) -> Tensor:
        """A joint draw, with one temperature or one a channel; see `Likelihood.sample` and `dmol_sample`."""
        if params.shape[1:2] != (self.n_params,):  # the op does not know the number of mixtures
            _check_draw(self, params, uniforms, 1.0)
        return dmol_sample(params, uniforms, channels=self.channels, bits=self.bits, temperature=temperature)


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Softmax over the levels of each channel: P = C L, the logit of level l of channel c at c L + l.

    Draws: uniform c by the inverse cumulative distribution of channel c. More than 256 levels, as the codes of a large
    codebook, are int32.
    """

    channels: int = 3
    levels: int = 256

    def __post_init__(self) -> None:
        if self.channels < 1 or not 2 <= self.levels <= 2**16:
            raise ValueError(
                f"Categorical: channels must be at least 1, levels in 2..65536; got channels={self.channels}, "
                f"levels={self.levels}"
            )

    @property
    def n_params(self) -> int:
        """C L."""
        return self.channels * self.levels

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Nats: sum over channels of logit of the level minus log-sum-exp; see `Likelihood.log_prob`.

        Gradient order: first.
        """
        _check_pair(self, x, params)
        _check_range(self, x)
        levels = (signal_to_levels(x, self.levels) if x.is_floating_point() else x).long()
        logits = params.unflatten(1, (self.channels, self.levels))
        if torch.compiler.is_compiling():  # which fuses what follows by itself
            logits = _working(logits)
            picked = logits.gather(2, levels.unsqueeze(2)).squeeze(2)
            return (picked - logits.logsumexp(2)).sum(1)
        terms: Tensor = _LogSoftmaxAt.apply(logits, levels)
        return terms.sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, *, temperature: float = 1.0) -> Tensor:
        """A draw of every channel; see `Likelihood.sample`."""
        _check_draw(self, params, uniforms, temperature)
        logits = _working(params).unflatten(1, (self.channels, self.levels))
        if temperature == 0:
            level = logits.argmax(2)
        else:
            weights = logits - logits.amax(2, keepdim=True)
            if temperature != 1:
                weights /= temperature
            cumulative = weights.exp_().cumsum(2)
            # relative to the sum, so that a level of weight 0 is never drawn
            level = (cumulative[:, :, :-1] <= uniforms.unsqueeze(2) * cumulative[:, :, -1:]).sum(2)
        return levels_to_signal(level, self.levels, params.dtype)

    def channel(self, c: int) -> tuple[Likelihood, slice, slice]:
        """Channel c's logits are one run of L."""
        return Categorical(1, self.levels), slice(c * self.levels, (c + 1) * self.levels), slice(c, c + 1)


class _LogSoftmaxAt(torch.autograd.Function):
    """log softmax(logits)[level] over dimension 2 of [N, C, L, *spatial], with one copy of the logits at the most.

    Plain PyTorch keeps or makes four: 256 levels are the largest tensor of a model.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, levels: Tensor) -> Tensor:
        total = torch.empty(levels.shape, dtype=_working(logits[:0]).dtype, device=logits.device)
        at = torch.empty_like(total)
        for part in _image_slices(logits):
            values = _working(logits[part])
            torch.logsumexp(values, 2, out=total[part])
            at[part] = values.gather(2, levels[part].unsqueeze(2)).squeeze(2)
        ctx.save_for_backward(logits, levels, total)
        return at.sub_(total)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, levels, total = ctx.saved_tensors
        out = torch.empty_like(logits)
        for part in _image_slices(logits):
            weight = grad[part].unsqueeze(2)
            values = torch.sub(_working(logits[part]), total[part].unsqueeze(2)).exp_().mul_(-weight)
            out[part] = values.scatter_add_(2, levels[part].unsqueeze(2), weight)
        return out, None


def _image_slices(logits: Tensor) -> list[slice]:
    """Runs of images of about a million logits."""
    step = max(1, (1 << 20) // max(1, math.prod(logits.shape[1:])))
    return [slice(start, start + step) for start in range(0, logits.shape[0], step)]


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Two levels per channel: P = C, logits of level 1 (signal +1). Draws: level 1 where u < sigmoid(logit)."""

    channels: int = 1
    levels: ClassVar[int] = 2  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"Bernoulli: channels must be at least 1; got {self.channels}")

    @property
    def n_params(self) -> int:
        """C."""
        return self.channels

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Nats: sum over channels of log sigmoid(+-logit); see `Likelihood.log_prob`."""
        _check_pair(self, x, params)
        _check_range(self, x)
        ones = x > 0  # level 1, signal +1
        logits = _working(params)
        return F.logsigmoid(torch.where(ones, logits, -logits)).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, *, temperature: float = 1.0) -> Tensor:
        """A draw of every channel; see `Likelihood.sample`."""
        _check_draw(self, params, uniforms, temperature)
        logits = _working(params)
        ones = logits > 0 if temperature == 0 else uniforms < torch.sigmoid(logits / temperature)
        return ones.to(params.dtype).mul_(2).sub_(1)

    def channel(self, c: int) -> tuple[Likelihood, slice, slice]:
        """Channel c's logit is one number."""
        return Bernoulli(1), slice(c, c + 1), slice(c, c + 1)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Normal density of the signal: P = 2C, C means then C log standard deviations, or P = C means if `std` is fixed.

    Learned log standard deviations below -7 count as -7, as in the logistic mixture, so that nothing is infinite.
    `log_prob` is the log-density of x in [-1, 1], in nats, not the probability of a level. Draws are the quantile of
    the uniform, clamped to [-1, 1] and rounded to the grid of `levels`.
    """

    channels: int = 3
    std: float | None = None
    levels: int = 256

    def __post_init__(self) -> None:
        if self.channels < 1 or not 2 <= self.levels <= 256 or (self.std is not None and not self.std > 0):
            raise ValueError(
                f"Gaussian: channels must be at least 1, levels in 2..256, std positive or None; got "
                f"channels={self.channels}, levels={self.levels}, std={self.std}"
            )

    @property
    def n_params(self) -> int:
        """2C, or C with a fixed standard deviation."""
        return self.channels * (2 if self.std is None else 1)

    def _moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        params = _working(params)
        if self.std is not None:
            return params, params.new_tensor(math.log(self.std))
        mean, log_std = params.chunk(2, 1)
        return mean, log_std.clamp(min=-7.0)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Nats of density: sum over channels of -((x - mean) / std)^2 / 2 - log std - log(2 pi) / 2."""
        _check_pair(self, x, params)
        _check_range(self, x)
        mean, log_std = self._moments(params)
        signal = levels_to_signal(x, self.levels, mean.dtype) if x.dtype == torch.uint8 else x.to(mean.dtype)
        z = (signal - mean) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(1)

    def sample(self, params: Tensor, uniforms: Tensor, *, temperature: float = 1.0) -> Tensor:
        """A draw of every channel; see `Likelihood.sample`."""
        _check_draw(self, params, uniforms, temperature)
        mean, log_std = self._moments(params)
        if temperature != 0:
            # quantile and scale stay finite
            noise = torch.special.ndtri(uniforms.to(mean.dtype).clamp(2.0**-32, 1 - 2.0**-24))
            mean = mean + temperature * torch.exp(log_std.clamp(max=60.0)) * noise
        half = (self.levels - 1) / 2
        level = (mean.clamp(-1, 1) * half + half).round_()
        return level.sub_(half).div_(half).to(params.dtype)

    def channel(self, c: int) -> tuple[Likelihood, slice, slice]:
        """Channel c's mean and log standard deviation."""
        part = slice(c, c + 1) if self.std is not None else slice(c, None, self.channels)
        return Gaussian(1, self.std, self.levels), part, slice(c, c + 1)


_KINDS: dict[str, type[Likelihood]] = {
    kind.__name__: kind for kind in (DiscretizedLogisticMixture, Categorical, Bernoulli, Gaussian)
}


def likelihood_from_config(config: Mapping[str, Any]) -> Likelihood:
    """The likelihood whose `config` this is.

    Raises: ValueError for an unknown name or an unknown option.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in _KINDS:
        raise unknown_name("likelihood", str(name), _KINDS)
    try:
        return _KINDS[name](**options)
    except TypeError as error:
        raise ValueError(f"likelihood_from_config: options of {name} do not fit; got {options}; {error}") from error
