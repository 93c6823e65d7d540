"""Models that the engine has never heard of, written as a user would write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture, Likelihood


def randomize(model: nn.Module) -> nn.Module:
    """Weights away from their symmetric start, in float64."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


class Causal(nn.Module):
    """The smallest causal network: a strictly causal first layer, then `rest` on its features."""

    def __init__(self, rest: Callable[[Causal, Tensor], Tensor], channels: int = 3, **layers: nn.Module) -> None:
        super().__init__()
        self.likelihood: Likelihood = DiscretizedLogisticMixture(channels, n_mix=2)
        self.first = nn.Conv2d(channels, 8, (2, 3))
        self.rest = rest
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.Conv2d(8, self.likelihood.n_params, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rows above only."""
        return self.head(self.rest(self, self.first(F.pad(x[:, :, :-1], (1, 1, 2, 0)))))


class Beside(Causal):
    """As Causal, with features that also see the pixel to the left, so that nothing is known a row ahead."""

    def __init__(self, rest: Callable[[Causal, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__(rest, **layers)
        self.beside = nn.Conv2d(3, 8, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Rows above and columns to the left."""
        above = self.first(F.pad(x[:, :, :-1], (1, 1, 2, 0)))
        return self.head(self.rest(self, above + self.beside(F.pad(x[:, :, :, :-1], (2, 0)))))


def left(x: Tensor, by: int = 1) -> Tensor:
    return F.pad(x, (by, 0))[:, :, :, : x.shape[3]]


def user_models() -> dict[str, nn.Module]:
    """One model for every kind of thing that people write."""
    conv = nn.Conv2d
    pointwise = {
        "elu": F.elu, "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu, "gelu": F.gelu,
        "leaky": lambda x: F.leaky_relu(x, 0.3), "softplus": F.softplus, "exp": lambda x: torch.exp(0.1 * x),
        "elu2": lambda x: F.elu(x, 0.5), "neg": lambda x: -x, "affine": lambda x: 3 - 2 * x / 1.5 + 1,
        "concat_elu": lambda x: F.elu(torch.cat((x[:, :4], -x[:, :4]), 1)),
        "chunks": lambda x: torch.cat(x.chunk(4, 1)[::-1], 1) * x,
        "glu": lambda x: torch.cat((F.glu(x, 1), x[:, :4]), 1),
    }  # fmt: skip
    models: dict[str, nn.Module] = {
        f"pointwise {name}": Causal(lambda m, x, f=function: m.then(f(x)), then=conv(8, 8, 1))
        for name, function in pointwise.items()
    }
    models |= {
        "left taps": Causal(lambda m, x: m.then(F.pad(x, (2, 0, 1, 0))), then=conv(8, 8, (2, 3))),
        "dilated": Causal(lambda m, x: m.then(F.pad(x, (4, 0, 6, 0))), then=conv(8, 8, 3, dilation=(3, 2))),
        "grouped": Causal(lambda m, x: m.then(F.pad(x, (1, 0, 1, 0))), then=conv(8, 8, 2, groups=4)),
        "batch norm": Causal(lambda m, x: m.then(F.relu(m.norm(x))), norm=nn.BatchNorm2d(8), then=conv(8, 8, 1)),
        "in place": Causal(lambda m, x: m.then(m.act(x)).relu_(), act=nn.ReLU(inplace=True), then=conv(8, 8, 1)),
        "linear": Causal(lambda m, x: m.then(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), then=nn.Linear(8, 8)),
        "shifts": Causal(lambda m, x: left(x) + F.pad(torch.sigmoid(x), (0, 0, 2, 0))[:, :, :-2] * left(x, 3)),
        "scaled": Causal(lambda m, x: m.then(x) * m.gain - x, then=conv(8, 8, 1)),
        "position": Causal(lambda m, x: m.then(F.relu(x + m.position)), then=conv(8, 8, 1)),
        "dead layer": Causal(lambda m, x: x + m.then(x), then=conv(8, 8, 1)),
        "stride 2": Causal(
            lambda m, x: x + m.up(F.elu(m.down(F.pad(x, (1, 0, 1, 0)))))[:, :, : x.shape[2], : x.shape[3]],
            down=conv(8, 6, 2, stride=2), up=nn.ConvTranspose2d(6, 8, 2, stride=2),
        ),
        "stride 3": Causal(
            lambda m, x: x + m.up(F.elu(m.down(F.pad(x, (2, 0, 2, 0)))))[:, :, : x.shape[2], : x.shape[3]],
            down=conv(8, 6, 3, stride=3), up=nn.ConvTranspose2d(6, 8, 3, stride=3),
        ),
        "late rows": Causal(  # a first layer on rows that are complete only when the next one starts
            lambda m, x: F.pad(m.then(F.relu(m.wide(x))), (0, 0, 1, 0))[:, :, : x.shape[2]],
            wide=conv(8, 8, (2, 3), padding=(1, 1)), then=conv(8, 8, 1),
        ),
        "crop then pad": Causal(
            lambda m, x: m.then(F.pad(F.relu(x)[:, :, :, :-2], (2, 1, 1, 0))), then=conv(8, 8, 2)
        ),
        "gated residual": Beside(lambda m, x: x + torch.tanh(x) * torch.sigmoid(-x)),
        "gate of sums": Beside(lambda m, x: m.then(x) + x * torch.sigmoid(x) + x * torch.tanh(x), then=conv(8, 8, 1)),
        "gates alone": Beside(lambda m, x: x * torch.sigmoid(x) + torch.exp(-x) * torch.tanh(x) + m.constant),
        "gate seen later": Beside(lambda m, x: x + left(torch.tanh(x) * torch.sigmoid(x))),
        "gate seen twice": Beside(lambda m, x: (g := x * torch.sigmoid(x)) + m.then(g), then=conv(8, 8, 1)),
        "half a gate": Beside(
            lambda m, x: torch.cat((x[:, :4] + (g := x * torch.sigmoid(x))[:, 4:], g[:, :4] + x[:, 4:]), 1)
        ),
    }  # fmt: skip
    models["gates alone"].constant = nn.Parameter(torch.randn(1, 8, 1, 1))
    two_outputs = conv(8, 2 * models["scaled"].likelihood.n_params, 1)
    gate_last = models["gate last"] = Beside(lambda m, x: F.glu(m.then(x), 1), then=two_outputs)
    gate_last.head = nn.Identity()
    scaled, position = models["scaled"], models["position"]
    scaled.gain = nn.Parameter(torch.randn(1, 8, 1, 1))
    position.position = nn.Parameter(torch.randn(1, 8, 7, 6))
    nn.init.zeros_(models["dead layer"].then.weight)
    return models


class ShiftAtTheEnd(nn.Module):
    """Nothing is strictly causal until the last line moves the parameters one pixel on."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Categorical(channels=1, levels=4)
        self.a, self.b, self.c = nn.Conv2d(1, 8, (2, 2)), nn.Conv2d(8, 8, (1, 3)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features see the pixel itself, parameters do not."""
        h = torch.relu(self.a(F.pad(x, (1, 0, 1, 0))))
        h = h + torch.tanh(self.b(F.pad(h, (2, 0))))
        return left(self.c(h))


class ChannelByChannel(nn.Module):
    """Colour c of a pixel sees colours below c of it, through weights that are zero elsewhere."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.likelihood = Categorical(channels=channels, levels=4)
        self.past = nn.Conv2d(channels, 4 * channels, (2, 2))
        self.inside = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.mix = nn.Conv2d(4 * channels, 4 * channels, 1)
        group = torch.arange(4 * channels) // 4
        self.register_buffer("strict", (torch.arange(channels)[None] < group[:, None]).double()[:, :, None, None])
        self.register_buffer("same", (group[None] <= group[:, None]).double()[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Masked weights, computed on the fly."""
        h = left(self.past(F.pad(x, (1, 0, 1, 0)))) + F.conv2d(x, self.inside.weight * self.strict)
        h = F.elu(torch.cat((h, -h), 1))
        weight = torch.cat((self.mix.weight * self.same, self.mix.weight.flip(2) * self.same * 0.5), 1)
        return F.conv2d(h, weight, self.mix.bias)


USER_MODELS = user_models()
USER_MODELS["shift at the end"] = ShiftAtTheEnd()
USER_MODELS["channel by channel"] = ChannelByChannel()


@pytest.fixture(params=USER_MODELS)
def user_model(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the models in turn."""
    return (
        randomize(USER_MODELS[request.param]) if request.param != "dead layer" else USER_MODELS[request.param].double()
    )


@pytest.fixture
def causal_model() -> type[Causal]:
    """The class, for models of a test's own."""
    return Causal


@pytest.fixture
def random_weights() -> Callable[[nn.Module], nn.Module]:
    """`randomize`."""
    return randomize
