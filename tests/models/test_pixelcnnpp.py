"""PixelCNN++: levels, short-cuts, stem, initialisation."""

import torch

from fastgen.models import PixelCNNPP
from fastgen.nn import Dropout, WeightNormConv2d, initialize_from_data


def images(n, channels, height, width):
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)


def test_paper_model_has_the_published_shape():
    with torch.device("meta"):
        model = PixelCNNPP()
    up, down = [len(level) for level in model.up_u], [len(level) for level in model.down_ul]
    assert up == [5, 5, 5]
    assert down == [6, 6, 5]
    layers = [m for m in model.modules() if isinstance(m, WeightNormConv2d)]
    assert len(layers) == 135 + 50 + 4
    assert model.likelihood.n_params == 100
    assert model.u_init.weight_v.shape == (160, 4, 2, 3)
    assert model.down_ul[0][0].nin_skip.weight_v.shape == (160, 640, 1, 1)


def test_small_recipe_for_digits_has_its_size():
    model = PixelCNNPP(
        1, 1, (24, 32, 48), dropout=0.0, n_classes=10, down_resnets=1, stem=((4, 7), (1, 7), (4, 6)), stem_classes=True
    )
    assert sum(p.numel() for p in model.parameters()) == 561_820
    assert [tuple(b[0].conv_in.weight_v.shape) for b in model.up_u] == [(24, 48, 2, 3), (32, 64, 2, 3), (48, 96, 2, 3)]


def test_first_features_are_zero_on_the_border_not_the_bias(build):
    model, seen = build("PixelCNNPP", 1), {}
    model.up_u[0][0].register_forward_pre_hook(lambda m, args: seen.update(u=args[0]))
    model.up_ul[0][0].register_forward_pre_hook(lambda m, args: seen.update(ul=args[0]))
    model(images(2, 1, 5, 6))
    assert not seen["u"][:, :, 0].any()
    assert (seen["u"][:, :, 1:] != 0).all()
    assert not seen["ul"][:, :, 0, 0].any()
    left = model.ul_init_left.bias
    assert (seen["ul"][:, :, 0, 1:] != 0).all()
    assert (left != 0).all()


def test_stem_classes_offset_both_streams_everywhere(build):
    model, seen = build("PixelCNNPP", 1, n_classes=2, stem_classes=True), {}
    model.up_u[0][0].register_forward_pre_hook(lambda m, args: seen.setdefault("u", []).append(args[0]))
    model.up_ul[0][0].register_forward_pre_hook(lambda m, args: seen.setdefault("ul", []).append(args[0]))
    x = images(2, 1, 5, 6)
    model(x, [0, 1])
    offset = model.stem_embedding.weight.clone()
    with torch.no_grad():
        model.stem_embedding.weight.zero_()
    model(x, [0, 1])
    for shifted, plain in seen.values():
        torch.testing.assert_close(shifted - plain, offset[:, :, None, None].expand_as(plain))


def test_every_parameter_is_used(build):
    model = build("PixelCNNPP", 2, n_resnet=2, n_classes=3, stem_classes=True)
    model.log_prob(images(3, 2, 7, 9), [0, 1, 2]).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_fewer_blocks_down_take_the_latest_shortcuts(build):
    """With one block a level on the way down, the outputs of the last blocks up are the short-cuts that are read."""
    model, seen = build("PixelCNNPP", 1, n_resnet=2, n_filters=(3, 4), down_resnets=1), {}
    model.up_u[0][1].register_forward_hook(lambda m, args, y: seen.update(made=y))
    model.down_u[0][0].register_forward_pre_hook(lambda m, args: seen.update(read=args[1]))
    model(images(1, 1, 6, 6))
    assert torch.equal(seen["made"], seen["read"])


def test_initialisation_from_data_sets_all_pre_activations():
    torch.manual_seed(0)
    model = PixelCNNPP(3, 1, (6, 8), 3, n_classes=2).double()
    x, cond = images(6, 3, 8, 8), torch.arange(6) % 2
    initialize_from_data(model, x, cond)
    failures = []

    def check(layer, args, y):
        mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3), correction=0)
        if mean.abs().max() > 1e-8 or (std - layer.init_scale).abs().max() > 1e-8:
            failures.append(layer)

    hooks = [m.register_forward_hook(check) for m in model.modules() if isinstance(m, WeightNormConv2d)]
    assert len(hooks) > 20
    with torch.no_grad():
        model.eval()(x, cond)
    assert not failures


def test_dropout_per_element_and_per_channel():
    x = images(1, 1, 4, 4)
    for kind, layer in (("element", Dropout), ("channel", torch.nn.Dropout2d)):
        model = PixelCNNPP(1, 1, 4, 2, dropout=0.3, dropout_kind=kind)
        drops = [m for m in model.modules() if type(m) is layer]
        assert len(drops) == 2 * (3 + 5)
        assert {m.p for m in drops} == {0.3}
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_compiles_as_one_graph(build):
    model = build("PixelCNNPP", 1, n_filters=(3, 4))
    x = images(2, 1, 5, 6)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-12, atol=1e-12)  # eager has its own pointwise code
