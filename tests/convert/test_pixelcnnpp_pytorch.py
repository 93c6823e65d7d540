"""Checkpoints of the PyTorch port, against a direct evaluation of its state dict by its own names and rules."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fastgen.convert import load_pixelcnnpp_pytorch, to_pixelcnnpp_pytorch
from fastgen.models import PixelCNNPP


def port_keys(q, f, channels, n_params):
    """Names and shapes of the port's weights: what stands in its checkpoints for q resnets and f filters."""
    shapes = {}

    def conv(name, out, inputs, kh, kw):
        shapes[f"{name}.weight_g"] = (out, 1, 1, 1)
        shapes[f"{name}.weight_v"] = (out, inputs, kh, kw)
        shapes[f"{name}.bias"] = (out,)

    def deconv(name, kh, kw):
        shapes[f"{name}.weight_g"] = (f, 1, 1, 1)
        shapes[f"{name}.weight_v"] = (f, f, kh, kw)
        shapes[f"{name}.bias"] = (f,)

    def nin(name, out, inputs):
        shapes[f"{name}.weight_g"], shapes[f"{name}.weight_v"], shapes[f"{name}.bias"] = (out, 1), (out, inputs), (out,)

    def resnet(name, kh, kw, skip):
        conv(f"{name}.conv_input.conv", f, 2 * f, kh, kw)
        conv(f"{name}.conv_out.conv", 2 * f, 2 * f, kh, kw)
        if skip:
            nin(f"{name}.nin_skip.lin_a", f, 2 * skip * f)

    conv("u_init.conv", f, channels + 1, 2, 3)
    conv("ul_init.0.conv", f, channels + 1, 1, 3)
    conv("ul_init.1.conv", f, channels + 1, 2, 1)
    for i in range(3):
        for k in range(q):
            resnet(f"up_layers.{i}.u_stream.{k}", 2, 3, 0)
            resnet(f"up_layers.{i}.ul_stream.{k}", 2, 2, 1)
        for k in range([q, q + 1, q + 1][i]):
            resnet(f"down_layers.{i}.u_stream.{k}", 2, 3, 1)
            resnet(f"down_layers.{i}.ul_stream.{k}", 2, 2, 2)
    for i in range(2):
        conv(f"downsize_u_stream.{i}.conv", f, f, 2, 3)
        conv(f"downsize_ul_stream.{i}.conv", f, f, 2, 2)
        deconv(f"upsize_u_stream.{i}.deconv", 2, 3)
        deconv(f"upsize_ul_stream.{i}.deconv", 2, 2)
    nin("nin_out.lin_a", n_params, f)
    return shapes


def random_port(q, f, channels, n_params, dtype=torch.float64):
    torch.manual_seed(1)
    state = {}
    for key, shape in port_keys(q, f, channels, n_params).items():
        state[key] = torch.rand(shape, dtype=dtype) + 0.5 if key.endswith("_g") else torch.randn(shape, dtype=dtype) / 3
    return state


def port_forward(w, x, q):
    """The port's network on x [N, C, H, W] in [-1, 1], from its state dict."""

    def weight(name):
        v, g = w[f"{name}.weight_v"], w[f"{name}.weight_g"]
        return g * v / v.flatten(1).norm(dim=1).reshape(g.shape)

    def concat_elu(x):
        return F.elu(torch.cat([x, -x], 1))

    def down(name, x, stride=1):  # pad the width on both sides, the height above
        kernel = weight(f"{name}.conv")
        side = (kernel.shape[3] - 1) // 2
        return F.conv2d(F.pad(x, (side, side, kernel.shape[2] - 1, 0)), kernel, w[f"{name}.conv.bias"], stride)

    def down_right(name, x, stride=1):  # pad the left and above
        kernel = weight(f"{name}.conv")
        padded = F.pad(x, (kernel.shape[3] - 1, 0, kernel.shape[2] - 1, 0))
        return F.conv2d(padded, kernel, w[f"{name}.conv.bias"], stride)

    def up(name, x, centred):
        kernel = weight(f"{name}.deconv")
        y = F.conv_transpose2d(x, kernel, w[f"{name}.deconv.bias"], 2, output_padding=1)
        left = (kernel.shape[3] - 1) // 2 if centred else 0
        return y[:, :, : 2 * x.shape[2], left : left + 2 * x.shape[3]]

    def nin(name, x):
        return F.linear(x.permute(0, 2, 3, 1), weight(name), w[f"{name}.bias"]).permute(0, 3, 1, 2)

    def resnet(name, conv, x, a=None):
        h = conv(f"{name}.conv_input", concat_elu(x))
        if a is not None:
            h = h + nin(f"{name}.nin_skip.lin_a", concat_elu(a))
        a, b = conv(f"{name}.conv_out", concat_elu(h)).chunk(2, 1)
        return x + a * torch.sigmoid(b)

    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    first = down("u_init", x)
    zero_row, zero_column = torch.zeros_like(first[:, :, :1]), torch.zeros_like(first[:, :, :, :1])
    us = [torch.cat([zero_row, first[:, :, :-1]], 2)]
    above, left = down("ul_init.0", x), down_right("ul_init.1", x)
    uls = [torch.cat([zero_row, above[:, :, :-1]], 2) + torch.cat([zero_column, left[:, :, :, :-1]], 3)]
    for i in range(3):
        for k in range(q):
            us.append(resnet(f"up_layers.{i}.u_stream.{k}", down, us[-1]))
            uls.append(resnet(f"up_layers.{i}.ul_stream.{k}", down_right, uls[-1], us[-1]))
        if i < 2:
            us.append(down(f"downsize_u_stream.{i}", us[-1], 2))
            uls.append(down_right(f"downsize_ul_stream.{i}", uls[-1], 2))
    u, ul = us.pop(), uls.pop()
    for i in range(3):
        for k in range([q, q + 1, q + 1][i]):
            u = resnet(f"down_layers.{i}.u_stream.{k}", down, u, us.pop())
            skip = torch.cat([u, uls.pop()], 1)
            ul = resnet(f"down_layers.{i}.ul_stream.{k}", down_right, ul, skip)
        if i < 2:
            u, ul = up(f"upsize_u_stream.{i}", u, True), up(f"upsize_ul_stream.{i}", ul, False)
    assert not us
    assert not uls
    return nin("nin_out.lin_a", F.elu(ul))


@pytest.mark.parametrize(
    "q, f, channels, n_mix, size", [(1, 3, 3, 2, (8, 12)), (2, 4, 1, 3, (16, 8)), (3, 2, 3, 1, (4, 4))]
)
def test_same_logits_as_the_port(q, f, channels, n_mix, size):
    state = random_port(q, f, channels, n_mix * {3: 10, 1: 3}[channels])
    model = load_pixelcnnpp_pytorch(state)
    assert (model.config["n_resnet"], model.config["n_filters"], model.config["n_mix"]) == (q, f, n_mix)
    assert model.image_channels == channels
    assert not model.training
    assert model.config["dropout_kind"] == "channel"
    x = torch.randint(0, 256, (2, channels, *size), dtype=torch.uint8)
    got = model(x)
    assert got.dtype == torch.float64
    want = port_forward(state, x.double() / 127.5 - 1, q)
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_files_prefixes_and_parametrizations(tmp_path):
    state = random_port(1, 2, 3, 10, torch.float32)
    want = load_pixelcnnpp_pytorch(state).state_dict()
    modern = {
        key.replace(".weight_g", ".parametrizations.weight.original0").replace(
            ".weight_v", ".parametrizations.weight.original1"
        ): tensor
        for key, tensor in state.items()
    }
    torch.save(state, tmp_path / "plain.pth")
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "prefixed.pth")
    save_file(state, tmp_path / "weights.safetensors")
    random = torch.get_rng_state()
    for source in (*sorted(tmp_path.iterdir()), str(tmp_path / "plain.pth"), modern):
        model = load_pixelcnnpp_pytorch(source)
        assert all(torch.equal(want[key], tensor) for key, tensor in model.state_dict().items())
        assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), random)


def test_round_trip_through_the_ports_names():
    state = random_port(2, 3, 3, 20)
    back = to_pixelcnnpp_pytorch(load_pixelcnnpp_pytorch(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_loading_does_not_tie_the_model_to_the_given_tensors():
    state = random_port(1, 2, 1, 3)
    model = load_pixelcnnpp_pytorch(state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert state["u_init.conv.weight_v"].any()
    assert state["nin_out.lin_a.weight_v"].any()


@pytest.mark.parametrize(
    "options",
    [{"n_classes": 2}, {"n_filters": (2, 2, 2)}, {"down_resnets": 1}, {"stem": ((2, 3), (1, 3), (2, 2))}],
    ids=str,
)
def test_the_port_cannot_express_extras(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        to_pixelcnnpp_pytorch(PixelCNNPP(1, 1, **{"n_filters": 2, **options}))


def test_lists_what_is_missing_superfluous_or_misshapen():
    state = random_port(1, 2, 3, 10)
    state["up_layers.1.u_stream.0.extra.bias"] = state.pop("up_layers.1.u_stream.0.conv_out.conv.bias")
    state["down_layers.0.u_stream.0.nin_skip.lin_a.weight_v"] = torch.zeros(2, 9)
    with pytest.raises(ValueError) as error:
        load_pixelcnnpp_pytorch(state)
    for part in (
        "missing up_layers.1.u_stream.0.conv_out.conv.bias",
        "superfluous up_layers.1.u_stream.0.extra.bias",
        "down_layers.0.u_stream.0.nin_skip.lin_a.weight_v (2, 9) instead of (2, 4)",
    ):
        assert part in str(error.value)


def test_refuses_what_is_no_checkpoint_of_the_port(tmp_path):
    with pytest.raises(ValueError, match=r"u_init\.conv\.weight_v.*got conv\.weight"):
        load_pixelcnnpp_pytorch({"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds the state dict"):
        load_pixelcnnpp_pytorch({"state_dict": random_port(1, 2, 3, 10), "epoch": 3})
    with pytest.raises(ValueError, match="multiple of 10"):
        load_pixelcnnpp_pytorch(random_port(1, 2, 3, 12))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_pixelcnnpp_pytorch(tmp_path / "nowhere.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no checkpoint at all")
        with pytest.raises(ValueError, match="must hold a state dict"):
            load_pixelcnnpp_pytorch(tmp_path / name)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pth")  # a pickled object, which is never executed
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_pixelcnnpp_pytorch(tmp_path / "module.pth")
