"""Variables of the original TensorFlow checkpoint, against a direct evaluation in its own conventions.

The network below is written like the original: channels last, variables made where they are first needed and numbered
in the order of the calls. It makes the names of the checkpoint, so the numbering is not taken from the converter.
"""

import numpy as np
import pytest
import torch

from fastgen.convert import load_pixelcnnpp_openai
from fastgen.models import PixelCNNPP


class Original:
    """PixelCNN++ on arrays [N, H, W, C], with variables in a dict; missing ones are drawn at random."""

    def __init__(self, n_resnet, n_filters, n_params, n_classes=0, seed=0):
        self.q, self.f, self.p, self.n_classes = n_resnet, n_filters, n_params, n_classes
        self.random = np.random.default_rng(seed)
        self.variables = {}

    def scope(self, kind):
        self.counts[kind] = self.counts.get(kind, -1) + 1
        return f"model/{kind}_{self.counts[kind]}"

    def get(self, name, shape, low=-0.5, high=0.5):
        if name not in self.variables:
            self.variables[name] = self.random.uniform(low, high, shape)
        return self.variables[name]

    def parameters(self, kind, v_shape, outputs):
        scope = self.scope(kind)
        return (
            self.get(f"{scope}/V", v_shape),
            self.get(f"{scope}/g", (outputs,), 0.5, 1.5),
            self.get(f"{scope}/b", (outputs,)),
        )

    def conv2d(self, x, outputs, kernel, stride):
        """A "valid" convolution; every output channel of V is normalised over rows, columns and inputs."""
        kh, kw = kernel
        v, g, b = self.parameters("conv2d", (kh, kw, x.shape[3], outputs), outputs)
        weight = g * v / np.sqrt((v**2).sum((0, 1, 2)))
        height, width = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
        y = np.zeros((len(x), height, width, outputs))
        for a in range(kh):
            for c in range(kw):
                y += (
                    x[:, a : a + stride * height : stride, c : c + stride * width : stride][:, :height, :width]
                    @ weight[a, c]
                )
        return y + b

    def deconv2d(self, x, outputs, kernel):
        """Transpose of a "valid" convolution of stride 2; V is [rows, columns, outputs, inputs]."""
        kh, kw = kernel
        n, height, width, inputs = x.shape
        v, g, b = self.parameters("deconv2d", (kh, kw, outputs, inputs), outputs)
        weight = g[:, None] * v / np.sqrt((v**2).sum((0, 1, 3)))[:, None]
        y = np.zeros((n, 2 * height + kh - 1, 2 * width + kw - 1, outputs))
        for i in range(height):
            for j in range(width):
                for a in range(kh):
                    for c in range(kw):
                        y[:, 2 * i + a, 2 * j + c] += x[:, i, j] @ weight[a, c].T
        return y + b

    def dense(self, x, outputs):
        v, g, b = self.parameters("dense", (x.shape[3], outputs), outputs)
        return x @ (g * v / np.sqrt((v**2).sum(0))) + b

    def down(self, x, outputs, kernel=(2, 3), stride=1):
        side = (kernel[1] - 1) // 2
        return self.conv2d(np.pad(x, ((0, 0), (kernel[0] - 1, 0), (side, side), (0, 0))), outputs, kernel, stride)

    def down_right(self, x, outputs, kernel=(2, 2), stride=1):
        return self.conv2d(np.pad(x, ((0, 0), (kernel[0] - 1, 0), (kernel[1] - 1, 0), (0, 0))), outputs, kernel, stride)

    def down_transposed(self, x):
        return self.deconv2d(x, self.f, (2, 3))[:, :-1, 1:-1]

    def down_right_transposed(self, x):
        return self.deconv2d(x, self.f, (2, 2))[:, :-1, :-1]

    def resnet(self, x, conv, one_hot, skip=None):
        h = conv(concat_elu(x), self.f)
        if skip is not None:
            h = h + self.dense(concat_elu(skip), self.f)
        h = conv(concat_elu(h), 2 * self.f)
        if one_hot is not None:
            h = (
                h
                + (one_hot @ self.get(f"{self.scope('conditional_weights')}/hw", (self.n_classes, 2 * self.f)))[
                    :, None, None
                ]
            )
        return x + h[..., : self.f] / (1 + np.exp(-h[..., self.f :]))

    def __call__(self, x, labels=None):
        self.counts = {}
        one_hot = np.eye(self.n_classes)[labels] if self.n_classes else None
        x = np.concatenate((x, np.ones_like(x[..., :1])), 3)
        us = [shift(self.down(x, self.f), 1)]
        uls = [shift(self.down(x, self.f, (1, 3)), 1) + shift(self.down_right(x, self.f, (2, 1)), 2)]
        for level in range(3):
            for _ in range(self.q):
                us.append(self.resnet(us[-1], self.down, one_hot))
                uls.append(self.resnet(uls[-1], self.down_right, one_hot, us[-1]))
            if level < 2:
                us.append(self.down(us[-1], self.f, stride=2))
                uls.append(self.down_right(uls[-1], self.f, stride=2))
        u, ul = us.pop(), uls.pop()
        for level in range(3):
            for _ in range(self.q + (level > 0)):
                u = self.resnet(u, self.down, one_hot, us.pop())
                ul = self.resnet(ul, self.down_right, one_hot, np.concatenate((u, uls.pop()), 3))
            if level < 2:
                u, ul = self.down_transposed(u), self.down_right_transposed(ul)
        assert not us
        assert not uls
        return self.dense(elu(ul), self.p)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def concat_elu(x):
    return elu(np.concatenate((x, -x), 3))


def shift(x, axis):
    """One step down (axis 1) or right (axis 2), zeros first."""
    y = np.zeros_like(x)
    if axis == 1:
        y[:, 1:] = x[:, :-1]
    else:
        y[:, :, 1:] = x[:, :, :-1]
    return y


def original(q=1, f=3, n_mix=2, n_classes=0, channels=3, size=(4, 8), n=2):
    """An original network with random variables, an image, labels and its logits [N, P, H, W]."""
    net = Original(q, f, n_mix * {1: 3, 3: 10}[channels], n_classes)
    x = np.random.default_rng(7).integers(0, 256, (n, *size, channels))
    labels = np.arange(n) % n_classes if n_classes else None
    logits = net(x / 127.5 - 1, labels)
    return (
        net.variables,
        torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.uint8),
        labels,
        torch.tensor(logits.transpose(0, 3, 1, 2)),
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"n_classes": 3, "n": 3}, {"q": 2, "f": 2, "size": (8, 4)}, {"channels": 1, "n_mix": 1}],
    ids=str,
)
def test_same_logits_as_the_original(options):
    variables, x, labels, want = original(**options)
    model = load_pixelcnnpp_openai(variables)
    config = model.config
    assert config["n_resnet"] == options.get("q", 1)
    assert config["n_filters"] == options.get("f", 3)
    assert config["n_mix"] == options.get("n_mix", 2)
    assert model.n_classes == options.get("n_classes", 0)
    assert model.image_channels == options.get("channels", 3)
    assert config["dropout_kind"] == "element"
    assert not model.training
    got = model(x, labels)
    assert got.dtype == torch.float64
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_numbers_of_the_published_network():
    """Five resnets: 135 convolutions, 50 dense layers, 4 transposed ones, numbered as published."""
    variables, x, labels, want = original(q=5, f=1, n_mix=1, n_classes=2, size=(4, 4))
    scopes = {key.rsplit("/", 1)[0] for key in variables}
    count = {
        kind: sum(kind in scope for scope in scopes) for kind in ("/conv2d_", "/dense_", "/deconv2d_", "conditional")
    }
    assert count == {"/conv2d_": 135, "/dense_": 50, "/deconv2d_": 4, "conditional": 64}
    model = load_pixelcnnpp_openai(variables)
    torch.testing.assert_close(model(x, labels), want, rtol=1e-10, atol=1e-10)


def test_averages_are_preferred(tmp_path):
    variables, x, labels, want = original(n_classes=2)
    both = {f"{key}/ExponentialMovingAverage": array for key, array in variables.items()}
    both |= {key: array + 1.0 for key, array in variables.items()}
    np.savez(tmp_path / "both.npz", **both)
    np.savez(tmp_path / "averages.npz", **{k: v for k, v in both.items() if k.endswith("Average")})
    np.savez(tmp_path / "plain.npz", **{f"{key}:0": array for key, array in variables.items()})
    random = torch.get_rng_state()
    for path in tmp_path.iterdir():
        torch.testing.assert_close(load_pixelcnnpp_openai(path)(x, labels), want, rtol=1e-11, atol=1e-11)
    assert torch.equal(torch.get_rng_state(), random)
    single = load_pixelcnnpp_openai({key: array.astype(np.float32) for key, array in variables.items()})
    assert next(single.parameters()).dtype == torch.float32


def test_transposed_weights_keep_training_as_they_are():
    """Baked weights are a fixed point: loading gives ||v|| = g, so v and W are the same numbers."""
    model = load_pixelcnnpp_openai(original()[0])
    for layer in (*model.upsize_u, *model.upsize_ul):
        torch.testing.assert_close(layer.weight, layer.weight_v.detach())


def test_lists_what_is_missing_superfluous_or_misshapen():
    variables, *_ = original(n_classes=2)
    broken = dict(variables)
    del broken["model/conditional_weights_3/hw"]
    broken["beta1_power"] = np.zeros(())
    broken["model/deconv2d_1/V"] = np.zeros((2, 3, 3, 3))
    with pytest.raises(ValueError) as error:
        load_pixelcnnpp_openai(broken)
    for part in (
        "missing model/conditional_weights_3/hw",
        "superfluous beta1_power",
        "model/deconv2d_1/V (2, 3, 3, 3) instead of (2, 2, 3, 3)",
    ):
        assert part in str(error.value)
    averages = {f"{key}/ExponentialMovingAverage": array for key, array in variables.items()}
    with pytest.raises(ValueError, match="superfluous beta1_power"):
        load_pixelcnnpp_openai({**averages, **variables, "beta1_power": np.zeros(())})
    del averages["model/dense_0/g/ExponentialMovingAverage"]
    with pytest.raises(ValueError, match="missing model/dense_0/g/ExponentialMovingAverage"):
        load_pixelcnnpp_openai(averages | variables)


def test_refuses_what_is_no_such_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"model/conv2d_0/V.*got w"):
        load_pixelcnnpp_openai({"w": np.zeros(3)})
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        load_pixelcnnpp_openai(tmp_path / "nowhere.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.save(tmp_path / "single.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", w=np.array([{}], dtype=object))
    for name in ("broken.npz", "single.npy", "objects.npz"):
        with pytest.raises(ValueError, match=r"\.npz file of plain arrays"):
            load_pixelcnnpp_openai(tmp_path / name)


def test_the_likelihood_can_be_the_published_one():
    assert load_pixelcnnpp_openai(original()[0], tails="pixelcnn++").config["tails"] == "pixelcnn++"
    assert load_pixelcnnpp_openai(original()[0]).config["tails"] == PixelCNNPP.config_class().tails == "exact"
