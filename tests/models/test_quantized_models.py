"""VQ-VAE and VQ-VAE-2: the bound against all codes, whose codebook learns when, and priors that are drawn exactly."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen.evaluation import evaluate
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian
from fastgen.models import VQVAE, VQVAE2, GatedPixelCNN, PixelSNAIL

PIXELCNN: dict[str, Any] = {
    "n_layers": 2, "n_filters": 6, "kernel_size": 3, "first_kernel_size": 3, "head_filters": 6, "level_embedding": 4,
}  # fmt: skip
SNAIL: dict[str, Any] = {
    "model": "PixelSNAIL", "n_blocks": 1, "n_resnet": 1, "n_filters": 6, "key_channels": 4, "value_channels": 6,
    "dropout": 0.0, "level_embedding": 4,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "n_filters": 6, "n_codes": 5, "code_dim": 3, "n_residual": 1, "residual_filters": 4, "image_size": (8, 16),
}  # fmt: skip
KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "one level": (VQVAE, {"prior": PIXELCNN}),
    "one level, attention, classes": (VQVAE, {"prior": SNAIL, "n_classes": 3, "factor": 2}),
    "two levels": (VQVAE2, {"top_prior": SNAIL, "bottom_prior": PIXELCNN, "factor": 2}),
    "two levels, classes": (VQVAE2, {"top_prior": PIXELCNN, "bottom_prior": PIXELCNN, "n_classes": 3, "factor": 2}),
}
WITHOUT = {"VQVAE": {"prior": None}, "VQVAE2": {"top_prior": None, "bottom_prior": None}}


def make(kind: str, channels: int = 1, **options: Any) -> Any:
    torch.manual_seed(0)
    model_class, chosen = KINDS[kind]
    model = model_class(channels, **{**SMALL, **chosen, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        for quantizer in model.quantizers:
            quantizer.codebook.copy_(torch.randn(quantizer.codebook.shape))
            if quantizer.ema:
                quantizer.ema_sums.copy_(quantizer.codebook)
    return model.double().eval()


def images(model: Any, n: int, seed: int = 1) -> Tensor:
    shape = (n, model.image_channels, *model.image_size)
    return torch.randint(0, model.levels, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def labels(model: Any, n: int) -> Tensor | None:
    return torch.arange(n) % model.n_classes if model.n_classes else None


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_codes_are_the_nearest_entries_and_decode_as_they_do(kind: str) -> None:
    model = make(kind)
    x = images(model, 3)
    vectors: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: vectors.append(out))
        for layer in ((model.to_vectors,) if isinstance(model, VQVAE) else (model.to_top, model.to_bottom))
    ]
    codes = model.encode(x)
    for hook in hooks:
        hook.remove()
    maps = (codes,) if isinstance(codes, Tensor) else codes
    for quantizer, vector, found, shape in zip(model.quantizers, vectors, maps, model.code_shapes):
        rows = vector.movedim(1, -1)
        nearest = (rows.unsqueeze(-2) - quantizer.codebook).square().sum(-1).argmin(-1)
        assert found.dtype == torch.int64 and torch.equal(found, nearest) and found.shape == (3, *shape)
        assert found.unique().numel() > 1
    assert torch.equal(model.decode(codes), model.decode(model.code(x)))
    assert torch.equal(model.images_of(codes), model.reconstruct(x))
    assert model.code(x).shape == (3, *model.latent_shape)


@torch.no_grad()
def test_the_bound_holds_over_all_codes_and_constants_are_right() -> None:
    """Two places of three entries have nine codes: log p(x) is a sum over them."""
    model = make("one level", n_codes=3, likelihood=Bernoulli(1), image_size=(4, 8))
    x = images(model, 4)
    every = torch.tensor(list(itertools.product(range(3), repeat=2))).view(9, 1, 2)
    prior = model.priors[0]
    log_p_z = prior.log_prob(every.to(torch.uint8).unsqueeze(1))
    torch.testing.assert_close(log_p_z.exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-12, atol=0)
    evidence = torch.stack(
        [(model.log_likelihood(one.expand(9, -1, -1, -1), every) + log_p_z).logsumexp(0) for one in x]
    )
    parts = model.elbo(x)
    chosen = (model.encode(x).flatten(1) * torch.tensor([3, 1])).sum(1)
    torch.testing.assert_close(parts.kl, -log_p_z[chosen])
    params = model.decode(model.encode(x))
    torch.testing.assert_close(parts.reconstruction, model.likelihood.log_prob(x, params).flatten(1).sum(1))
    assert (model.log_prob(x) <= evidence).all() and (evidence - model.log_prob(x)).min() < 3
    uniform = make("one level", n_codes=3, likelihood=Bernoulli(1), image_size=(4, 8), prior=None)
    torch.testing.assert_close(uniform.elbo(x).kl, torch.full((4,), 2 * math.log(3), dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_nats_of_codes_are_those_of_the_priors(kind: str) -> None:
    model = make(kind)
    x, cond = images(model, 3), labels(make(kind), 3)
    maps = [codes.to(torch.uint8).unsqueeze(1) for codes in model.code_maps(x)]
    want = -model.priors[0].log_prob(maps[0], cond)
    if len(maps) == 2:
        top = model.embeddings[1].weight[maps[0][:, 0].long()].permute(0, 3, 1, 2)
        want = want - model.priors[1].log_prob(maps[1], {"map": top} if cond is None else {"map": top, "labels": cond})
    torch.testing.assert_close(model.held_out(x, cond)["code_nats"], want)
    if cond is not None:
        assert not torch.allclose(model.code_nats(model.code_maps(x), (cond + 1) % 3), want)


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("kind", ["one level", "two levels"])
def test_codebooks_learn_in_the_first_phase_and_nowhere_else(kind: str, ema: bool) -> None:
    model = make(kind, ema=ema).train()
    x = images(model, 4)
    before = [quantizer.codebook.detach().clone() for quantizer in model.quantizers]

    def unchanged() -> bool:
        return all(torch.equal(quantizer.codebook, old) for quantizer, old in zip(model.quantizers, before))

    early, late = model.phases()
    assert (early.end, late.begin) == (0.5, 0.5)
    ids = [[id(p) for p in phase.parameters] for phase in (early, late)]
    assert not set(ids[0]) & set(ids[1]) and set(ids[0]) | set(ids[1]) == {id(p) for p in model.parameters()}
    model.encode(x), model.held_out(x), model.reconstruct(x), model.elbo(x)
    late.loss(x, None)["loss"].backward()
    assert unchanged()
    assert all(p.grad is None for p in early.parameters)
    assert not [p.shape for p in late.parameters if p.grad is None]
    early.loss(x, None)["loss"].backward()
    assert unchanged() != ema
    if not ema:
        assert all(quantizer.codebook.grad.any() for quantizer in model.quantizers)
    assert all(p.grad is not None for p in early.parameters)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_codes_are_drawn_as_by_full_forwards(kind: str) -> None:
    model = make(kind)
    n, cond = 4, labels(make(kind), 4)
    naive = model.draw_code_maps(n, seed=3, cond=cond, method="naive")
    assert [tuple(codes.shape[1:]) for codes in naive] == list(model.code_shapes)
    assert all(codes.unique().numel() > 1 for codes in naive)
    for method in ("native", "cached"):
        drawn = model.draw_code_maps(n, seed=3, cond=cond, method=method)
        assert all(torch.equal(a, b) for a, b in zip(drawn, naive))
    pictures = model.sample(n, seed=3, cond=cond)
    assert torch.equal(pictures, model.images_of(naive[0] if len(naive) == 1 else naive))
    assert torch.equal(model.sample(n, seed=3, cond=cond, batch_size=3), pictures)
    part = None if cond is None else cond[2:]
    assert torch.equal(model.sample(2, seed=3, cond=part, first_image=2), pictures[2:])
    assert not all(torch.equal(a, b) for a, b in zip(model.draw_code_maps(n, seed=4, cond=cond), naive))
    # each place from the parameters of the codes before it
    mode = model.draw_code_maps(n, cond=cond, temperature=0.0)[0]
    assert torch.equal(model.priors[0](mode.to(torch.uint8).unsqueeze(1), cond).argmax(1), mode)


def test_a_large_codebook_has_its_prior() -> None:
    """More than 256 codes are int32 levels, on the way into a prior and out of it."""
    model = make("one level", n_codes=300)
    x = images(model, 2)
    maps = model.draw_code_maps(3, seed=1, method="naive")
    assert torch.equal(model.draw_code_maps(3, seed=1)[0], maps[0]) and int(maps[0].max()) > 255
    assert torch.isfinite(model.prior_objective(x)["loss"])
    assert model.code_nats(maps).mean() < 2 * 8 * math.log(300)


@torch.no_grad()
def test_perplexity_is_that_of_all_codes_at_any_batch_size() -> None:
    model = make("two levels, classes")
    x, cond = images(model, 7), labels(model, 7)
    want = {}
    for suffix, codes in zip(("_top", "_bottom"), model.code_maps(x)):
        shares = codes.flatten().bincount(minlength=5) / codes.numel()
        want[f"perplexity{suffix}"] = float(torch.exp(-torch.xlogy(shares, shares).sum()))
    for batch_size in (7, 2):
        found = evaluate(model, x, cond, batch_size=batch_size)
        assert list(found.others)[:2] == ["mse", "code_nats"] and math.isnan(found.nats)
        assert {key: found.others[key] for key in want} == pytest.approx(want)
        signal = model.reconstruct(x).double() / 127.5 - 1  # rounded to levels
        error = (signal - (x.double() / 127.5 - 1)).square().mean()
        assert found.others["mse"] == pytest.approx(float(error), rel=2e-2)


@pytest.mark.parametrize("kind", ["one level", "two levels"])
def test_learns_one_batch_and_then_its_codes(kind: str) -> None:
    torch.manual_seed(0)
    model_class, chosen = KINDS[kind]
    options = {**SMALL, **chosen, "n_filters": 12, "n_codes": 8, "decay": 0.7, "restart_after": 2}
    model = model_class(1, **options)
    i = torch.arange(8)
    stripes = [(i[:, None] * a + torch.arange(16) * b) % 4 < 2 for a, b in ((0, 1), (1, 0), (1, 1), (1, 3))]
    x = (torch.stack(stripes)[:, None] * 255).to(torch.uint8)
    before = evaluate(model, x)
    for phase in model.phases():
        optimiser = torch.optim.Adam(phase.parameters, lr=1e-2)
        for _ in range(40):
            optimiser.zero_grad()
            phase.loss(x, None)["loss"].backward()
            optimiser.step()
    after = evaluate(model, x)
    assert after.others["mse"] < 0.7 * before.others["mse"]
    assert after.others["code_nats"] < 0.8 * before.others["code_nats"]


@pytest.mark.parametrize(
    "likelihood", [Gaussian(3, std=0.5), Gaussian(3), DiscretizedLogisticMixture(3, 2), Categorical(3, 4), Bernoulli(3)]
)
@torch.no_grad()
def test_any_likelihood(likelihood: Any) -> None:
    model = make("two levels", 3, likelihood=likelihood)
    x = images(model, 2)
    want = likelihood.log_prob(x, model.decode(model.encode(x))).flatten(1).sum(1, dtype=torch.float64)
    torch.testing.assert_close(model.elbo(x).reconstruction, want)
    assert math.isfinite(model.objective(x)["loss"])
    drawn = model.sample(2, pixel_temperature=1.0)
    assert drawn.shape == (2, 3, 8, 16) and int(drawn.max()) < model.levels


def test_pictures_between_and_around_codes() -> None:
    model = make("two levels")
    a, b = images(model, 4).split(2)
    path = model.interpolate(a, b, 3)
    assert torch.equal(path[:, 0], model.reconstruct(a)) and torch.equal(path[:, -1], model.reconstruct(b))
    mean, std = model.code_moments()
    top = mean[: 3 * 2 * 4].view(3, 2, 4)
    torch.testing.assert_close(top[:, 1, 2], model.quantizers[0].codebook.mean(0))
    torch.testing.assert_close(std[-1], model.quantizers[1].codebook[:, 2].std(unbiased=False))
    assert model.traverse(5, steps=3, x=a).shape == (2, 3, 1, 8, 16)
    assert model.encoder(model.prepare_input(a)).shape == (2, model.encoder.n_features)


@pytest.mark.parametrize("kind", KINDS)
def test_config_and_weights_survive_a_file(kind: str, tmp_path: Path) -> None:
    model = make(kind, restart_after=7)
    assert type(model).from_config(json.loads(json.dumps(model.config))).config == model.config
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded, cond = fastgen.load(tmp_path / "m.safetensors"), labels(model, 2)
    assert torch.equal(loaded.sample(2, seed=1, cond=cond), model.sample(2, seed=1, cond=cond))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("one level", {"image_size": (8, 18)}, r"strides must divide .*factor=4 and 8 x 18"),
        ("two levels", {"image_size": (6, 8)}, r"strides must divide .*top_factor=2 and 3 x 4"),
        ("one level", {"factor": 3}, "factor must be a power of 2"),
        ("one level", {"n_codes": 1}, r"n_codes must be in 2\.\.65536"),
        ("one level", {"prior_from": 1.0}, "prior_from is a fraction"),
        ("one level", {"image_size": None}, "image_size must be"),
        ("one level", {"likelihood": Bernoulli(3)}, "one of 1 channels"),
        ("one level", {"restart_after": 3, "ema": False}, "needs ema=True"),
        ("one level", {"prior": {"model": "PixelSNAI"}}, "did you mean PixelSNAIL"),
        ("one level", {"prior": {"n_layer": 3}}, "did you mean n_layers"),
        ("one level", {"prior": {"n_classes": 3}}, "n_classes comes from the codes"),
        ("one level", {"prior": {"likelihood": Categorical(1, 6)}}, r"must be Categorical\(1, levels=5\).*'levels': 6"),
        ("two levels", {"bottom_prior": SNAIL}, "must take a map; got PixelSNAIL"),
        ("two levels", {"top_prior": None}, "every level must have a prior or none; got 1"),
    ],
)
def test_refuses_options_that_make_no_model(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **options)


def test_refuses_what_does_not_fit() -> None:
    model = make("one level")
    with pytest.raises(ValueError, match=r"codes must be in 0\.\.4, .*got 5\.\.5; they are of another codebook"):
        model.decode(torch.full((1, 2, 4), 5))
    with pytest.raises(ValueError, match=r"codes must be maps of 2 x 4; got \[1, 4, 2\]"):
        model.images_of(torch.zeros(1, 4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="of the size that the weights are for"):
        model.encode(torch.zeros(1, 1, 4, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the model has none; build it with prior"):
        make("two levels", **WITHOUT["VQVAE2"]).sample(2)
    with pytest.raises(ValueError, match="must hold 2 labels"):
        make("two levels, classes").sample(2)
    for network in (GatedPixelCNN, PixelSNAIL):
        model.priors[0] = network(1, 1, likelihood=Categorical(1, 6))
        for call in (lambda: model.sample(1), lambda: model.held_out(images(model, 1))):
            with pytest.raises(ValueError, match=r"a prior's likelihood must be Categorical\(1, levels=5\)"):
                call()
