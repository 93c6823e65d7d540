"""WaveNet: a stack of dilated causal convolutions over time, gated, with residual and skip connections.

van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior, Kavukcuoglu 2016, WaveNet: A Generative
Model for Raw Audio, https://arxiv.org/abs/1609.03499. The first convolution reads the samples before the one that is
predicted, every layer gates a dilated convolution (equation 2, conditioned as in section 2.5) and adds to the next
layer's input and to the sum of skips (figure 4), and two 1x1 layers give the distribution of the sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.functional import gated_activation
from fastgen.likelihoods import Categorical, Likelihood
from fastgen.models.autoregressive.base import AutoregressiveModel, as_likelihood, parameter_groups
from fastgen.nn import CausalConv1d, channel_groups

ENCODINGS = ("mu-law", "linear")
UPSAMPLINGS = ("transposed", "repeat")


@dataclass(frozen=True)
class WaveNetConfig:
    """Options of WaveNet; the defaults are a small model of 16 kHz audio in 256 mu-law levels.

    Attributes:
        channels: C.
        n_blocks: how often the sequence of dilations is gone through.
        n_filters: channels between the layers, and of each half of the gates.
        n_classes: labels that it is conditioned on; 0 for none.
        dilations: of the layers of a block.
        kernel_size: taps of the dilated convolutions.
        skip_filters: channels of the skips.
        head_filters: width of the 1x1 layer before the output.
        global_features: length of a vector that it is conditioned on; 0 for none.
        local_features: channels of a slower sequence that it is conditioned on; 0 for none.
        upsample_factors: by how much each step of upsampling lengthens that sequence; their product is the samples
            per feature.
        upsampling: "transposed" convolutions that start as linear interpolation and are learned, or "repeat".
        likelihood: distribution of a sample (or the config of one); by default 256-way categorical per channel. Audio
            of 16 bits takes DiscretizedLogisticMixture(1, bits=16) with encoding="linear".
        encoding: what the levels are, for those who make or hear them: "mu-law" (companded) or "linear".
        sample_rate: samples a second, for those who hear them; None where the signal is no sound.
        scale: (offset, gain) of each channel where a value is offset + gain times the signal; None for sound.
        length: T it is trained on.
    """

    channels: int = 1
    n_blocks: int = 3
    n_filters: int = 64
    n_classes: int = 0
    _: KW_ONLY
    dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    kernel_size: int = 2
    skip_filters: int = 256
    head_filters: int = 256
    global_features: int = 0
    local_features: int = 0
    upsample_factors: Sequence[int] = ()
    upsampling: str = "transposed"
    likelihood: Likelihood | Mapping[str, Any] | None = None
    encoding: str = "mu-law"
    sample_rate: int | None = 16_000
    scale: Sequence[Sequence[float]] | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        for key in ("dilations", "upsample_factors"):
            object.__setattr__(self, key, tuple(int(n) for n in getattr(self, key)))
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple((float(offset), float(gain)) for offset, gain in self.scale))
        self._check_sizes()
        likelihood = as_likelihood(self.likelihood, Categorical(self.channels))
        object.__setattr__(self, "likelihood", likelihood)
        widths = (self.n_filters, self.skip_filters, self.head_filters)
        widest_need = 1 if likelihood.coupled else self.channels
        if min(widths) < widest_need:
            raise ValueError(
                f"WaveNet: n_filters, skip_filters and head_filters must be at least {widest_need} (one a channel); "
                f"got {widths}"
            )
        if bool(self.local_features) != bool(self.upsample_factors):
            raise ValueError(
                f"WaveNet: local_features and upsample_factors go together; got {self.local_features} and "
                f"{self.upsample_factors}; give the samples per feature, for example upsample_factors=(16, 16)"
            )
        if self.upsampling not in UPSAMPLINGS or self.encoding not in ENCODINGS:
            raise ValueError(
                f"WaveNet: upsampling must be one of {', '.join(UPSAMPLINGS)} and encoding one of "
                f"{', '.join(ENCODINGS)}; got {self.upsampling!r} and {self.encoding!r}"
            )
        if self.scale is not None and len(self.scale) != self.channels:
            raise ValueError(f"WaveNet: scale must hold {self.channels} pairs (offset, gain); got {self.scale}")

    def _check_sizes(self) -> None:
        counts = {
            **{key: getattr(self, key) for key in ("channels", "n_blocks", "kernel_size", "sample_rate", "length")},
            "dilations": min(self.dilations, default=0),
            "upsample_factors": min(self.upsample_factors, default=1),
        }
        for key, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"WaveNet: {key} must be at least 1; got {getattr(self, key)}")
        for key in ("n_classes", "global_features", "local_features"):
            if getattr(self, key) < 0:
                raise ValueError(f"WaveNet: {key} must not be negative; got {getattr(self, key)}; 0 is none")


@dataclass(frozen=True)
class WaveNetConditions:
    """What N signals are conditioned on, checked: labels [N], vectors [N, G], features [N, F, T_cond] or None."""

    labels: Tensor | None
    vectors: Tensor | None
    features: Tensor | None

    def __getitem__(self, part: slice) -> WaveNetConditions:
        """Take some of the signals."""
        return WaveNetConditions(*(None if t is None else t[part] for t in (self.labels, self.vectors, self.features)))


class ChannelMaskedConv1d(CausalConv1d):
    """A causal convolution whose newest tap lets a group of outputs see earlier groups of inputs, or its own too.

    The past is seen whole. So channels that are drawn one after another each see the earlier ones of their sample.

    Shapes: x [N, Ci, T] -> [N, Co, T].
    """

    mask: Tensor

    def __init__(
        self, in_groups: Sequence[int], out_groups: Sequence[int], kernel_size: int, dilation: int = 1, *, own: bool
    ) -> None:
        super().__init__(len(in_groups), len(out_groups), kernel_size, dilation=dilation)
        source, target = torch.tensor(list(in_groups)), torch.tensor(list(out_groups))[:, None]
        mask = torch.ones_like(self.weight, dtype=torch.bool)
        mask[:, :, -1] = source <= target if own else source < target
        self.register_buffer("mask", mask, persistent=False)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight * self.mask, bias)


def causal_conv(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int, groups: int, halves: int = 1
) -> CausalConv1d:
    """A convolution over the present and the past, masked where there are groups; `halves` runs of outputs have all."""
    if groups == 1:
        return CausalConv1d(in_channels, out_channels, kernel_size, dilation=dilation)
    out_groups = channel_groups(out_channels // halves, groups) * halves
    return ChannelMaskedConv1d(channel_groups(in_channels, groups), out_groups, kernel_size, dilation, own=True)


class ResidualLayer(nn.Module):
    """z = tanh(W_a * h + V_a y) s(W_b * h + V_b y); h + W_r z goes on to the next layer, W_s z to the skips."""

    def __init__(self, config: WaveNetConfig, dilation: int, groups: int, *, last: bool) -> None:
        super().__init__()
        width = config.n_filters
        self.conv = causal_conv(width, 2 * width, config.kernel_size, dilation, groups, halves=2)
        self.local = nn.Conv1d(config.local_features, 2 * width, 1, bias=False) if config.local_features else None
        self.skip = causal_conv(width, config.skip_filters, 1, 1, groups)
        self.residual = None if last else causal_conv(width, width, 1, 1, groups)  # of the last, nobody hears

    def forward(self, h: Tensor, offset: Tensor | None, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shapes: h [N, R, T], offset [N, 2R] of the gates, features [N, F, T] -> h [N, R, T], skip [N, S, T]."""
        gates = self.conv(h)
        if self.local is not None:
            gates = gates + self.local(features)
        z = gated_activation(gates, bias=offset)
        return h if self.residual is None else h + self.residual(z), self.skip(z)


class Upsample(nn.Module):
    """A slower sequence at the rate of the samples, by repetition or by learned transposed convolutions.

    Shapes: [N, F, T_cond] -> [N, F, T_cond * product of the factors].
    """

    def __init__(self, features: int, factors: Sequence[int], *, learned: bool) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.steps = nn.ModuleList()
        for factor in self.factors if learned else ():
            step = nn.ConvTranspose1d(features, features, 2 * factor, factor, bias=False)
            # linear interpolation between the centres of the features
            ramp = (torch.arange(2 * factor) + (1.0 if factor % 2 else 0.5)) / factor
            with torch.no_grad():
                step.weight.copy_(torch.eye(features)[:, :, None] * (1 - (1 - ramp).abs()))
            self.steps.append(step)

    def forward(self, y: Tensor) -> Tensor:
        """Lengthen."""
        if not len(self.steps):
            return y.repeat_interleave(math.prod(self.factors), 2)
        for step, factor in zip(self.steps, self.factors):
            length, first = y.shape[2] * factor, factor // 2
            # the neighbours of the ends are the ends themselves
            edges = F.pad(y, (1, 1), mode="replicate")
            y = step(edges)[:, :, factor + first : factor + first + length]
        return y


class WaveNet(AutoregressiveModel):
    """WaveNet for signals of any number of channels, with any likelihood; options as in `WaveNetConfig`.

    With a coupled likelihood the channels of a sample are drawn together, else one after another.

    Shapes: x [N, C, T], cond as in `prepare_cond` -> [N, likelihood.n_params, T].
    """

    config_class = WaveNetConfig
    axes = ("T",)

    def __init__(self, *args: Any, **options: Any) -> None:
        config = WaveNetConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood, config.n_classes)
        channels, width = config.channels, config.n_filters
        groups = 1 if self.likelihood.coupled else channels
        dilations = config.n_blocks * tuple(config.dilations)
        self.receptive_field = config.kernel_size + (config.kernel_size - 1) * sum(dilations)
        """Number of earlier samples that the parameters of a sample see."""
        self.length, self.sample_rate = config.length, config.sample_rate
        self.encoding, self.scale = config.encoding, config.scale

        # the gates' offsets of all layers in one table and in one product
        offsets = len(dilations) * 2 * width
        self.class_embedding = nn.Embedding(config.n_classes, offsets) if config.n_classes else None
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, 0.0, 0.1)
        self.vector_projection = (
            nn.Linear(config.global_features, offsets, bias=False) if config.global_features else None
        )
        self.upsample = (
            Upsample(config.local_features, config.upsample_factors, learned=config.upsampling == "transposed")
            if config.local_features
            else None
        )

        self.conv_in: CausalConv1d
        if groups == 1:
            self.conv_in = CausalConv1d(channels, width, config.kernel_size, strict=True)
        else:  # earlier samples whole, and of the present one the earlier channels
            self.conv_in = ChannelMaskedConv1d(
                range(channels), channel_groups(width, groups), config.kernel_size + 1, own=False
            )
        self.layers = nn.ModuleList(
            ResidualLayer(config, dilation, groups, last=index == len(dilations) - 1)
            for index, dilation in enumerate(dilations)
        )
        self.head = causal_conv(config.skip_filters, config.head_filters, 1, 1, groups)
        n_params = self.likelihood.n_params
        if groups == 1:
            self.conv_out = CausalConv1d(config.head_filters, n_params, 1)
        else:
            head_groups = channel_groups(config.head_filters, groups)
            self.conv_out = ChannelMaskedConv1d(head_groups, parameter_groups(self.likelihood), 1, own=True)

    @property
    def channels(self) -> int:
        """C."""
        return int(self._options.channels)

    @property
    def size(self) -> tuple[int, ...] | None:
        """(T,) that the model was trained on, or None; other lengths work too."""
        return None if self._options.length is None else (self._options.length,)

    def forward(self, x: Tensor, cond: Any = None) -> Tensor:
        """Parameters of the likelihood at every sample. Shapes: [N, C, T] -> [N, P, T]."""
        x = self.prepare_input(x)
        given = self.prepare_cond(cond, x.shape[0])
        offsets = self._offsets(given)
        features = self._features(given, x.shape[2])
        h = self.conv_in(x)
        skips = []
        for layer, offset in zip(self.layers, offsets):
            h, skip = layer(h, offset, features)
            skips.append(skip)
        h = self.head(F.relu(sum(skips[1:], start=skips[0])))
        return self.conv_out(F.relu(h))

    def sample(self, n: int, *, seed: int = 0, length: int | None = None, **options: Any) -> Tensor:
        """Draw n signals of `length` samples: `fastgen.sample(self, n, shape=(C, length), seed=seed, **options)`.

        Shapes: levels [n, C, length], by default of the length that the model was trained on.
        """
        if options.get("shape") is None and options.get("prepared") is None:
            length = self.length if length is None else length
            if length is None:
                raise ValueError("WaveNet.sample: the model knows no length; got length=None; pass length=16000, say")
            options["shape"] = (self.channels, length)
        elif length is not None:
            raise ValueError("WaveNet.sample: length, shape and prepared exclude each other; got two; pass one")
        return super().sample(n, seed=seed, **options)

    def prepare_cond(self, cond: Any, n: int) -> WaveNetConditions | None:
        """Check what n signals are conditioned on.

        A mapping with the keys "labels" ([n] labels, or one for all), "vector" ([n, G], or [G] for all) and "local"
        ([n, F, T_cond] or [F, T_cond] for all, T_cond = ceil(T / samples per feature)), as far as the model was built
        with them; or the bare value where it was built with one of them only.

        Raises:
            TypeError: labels that are not integers, features that are not floating point.
            ValueError: something missing or superfluous, another shape, a label out of range.
        """
        given: WaveNetConditions | None = cond if isinstance(cond, WaveNetConditions) else None
        if cond is not None and given is None:
            values = self._named(cond)
            labels = values.get("labels")
            given = WaveNetConditions(
                None if labels is None else super().prepare_cond(labels, n),
                self._floats("vector", values.get("vector"), (n, self._options.global_features)),
                self._floats("local", values.get("local"), (n, self._options.local_features, None)),
            )
        parts = {} if given is None else {"labels": given.labels, "vector": given.vectors, "local": given.features}
        got = [kind for kind, value in parts.items() if value is not None]
        wanted = self._kinds()
        if got != wanted:
            raise ValueError(
                f"WaveNet: cond must hold {' and '.join(wanted) or 'nothing'}, as the model was built; got "
                f"{' and '.join(got) or 'nothing'}"
            )
        return given

    def _kinds(self) -> list[str]:
        options = self._options
        sizes = {"labels": options.n_classes, "vector": options.global_features, "local": options.local_features}
        return [kind for kind, size in sizes.items() if size]

    def _named(self, cond: Any) -> dict[str, Any]:
        kinds = self._kinds()
        if not isinstance(cond, Mapping):
            if len(kinds) != 1:
                raise ValueError(
                    f"WaveNet: cond must be a mapping of {' and '.join(kinds) or 'nothing (None)'}, as the model was "
                    f"built; got {type(cond).__name__}"
                )
            return {kinds[0]: cond}
        unknown = sorted(set(cond) - set(kinds))
        if unknown:
            raise ValueError(
                f"WaveNet: cond must hold {' and '.join(kinds) or 'nothing'}; got {', '.join(unknown)} too"
            )
        return dict(cond)

    def _floats(self, kind: str, value: Any, shape: tuple[int | None, ...]) -> Tensor | None:
        """Features in the model's dtype, of `shape` (None is any length); the same for all if they lack its first."""
        if value is None:
            return None
        features = torch.as_tensor(value)
        if not features.is_floating_point():
            raise TypeError(f"WaveNet: cond {kind} must be floating point; got {features.dtype}; use .float()")
        if features.dim() == len(shape) - 1:
            features = features.expand(shape[0] or 0, *features.shape)
        if features.dim() != len(shape) or any(b not in (None, a) for a, b in zip(features.shape, shape)):
            layout = ", ".join("T_cond" if size is None else str(size) for size in shape)
            raise ValueError(f"WaveNet: cond {kind} must be [{layout}]; got {list(features.shape)}")
        return features.to(next(self.parameters()))

    def _offsets(self, given: WaveNetConditions | None) -> Sequence[Tensor | None]:
        """What labels and vectors add to the gates of each layer, [N, 2R], or None."""
        total: Tensor | None = None
        if self.class_embedding is not None and given is not None:
            total = self.class_embedding(given.labels)
        if self.vector_projection is not None and given is not None:
            projected = self.vector_projection(given.vectors)
            total = projected if total is None else total + projected
        return [None] * len(self.layers) if total is None else total.chunk(len(self.layers), 1)

    def _features(self, given: WaveNetConditions | None, length: int) -> Tensor | None:
        """The local features at every sample, [N, F, T], or None."""
        if self.upsample is None or given is None or given.features is None:
            return None
        per_feature = math.prod(self._options.upsample_factors)
        wanted = -(-length // per_feature)
        if given.features.shape[2] != wanted:
            raise ValueError(
                f"WaveNet: {length} samples at {per_feature} a feature need {wanted} features; got "
                f"{given.features.shape[2]}; cut or pad cond"
            )
        y: Tensor = self.upsample(given.features)
        return y[:, :, :length]
