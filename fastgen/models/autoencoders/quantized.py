"""What autoencoders with maps of discrete codes share: codebooks, and autoregressive priors over the codes.

van den Oord, Vinyals, Kavukcuoglu 2017, Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937. The
encoder's vectors take the nearest entries of a codebook, so the posterior is one point z(x), and

    log p(x) = log sum_z p(x | z) p(z) >= log p(x | z(x)) + log p(z(x))                                       (elbo)

Training has two phases (section 3.3): the autoencoder with its codebook, under a uniform p(z), whose divergence is a
constant; then, with both frozen, an autoregressive model of the maps of codes, which is the p(z) to sample from.
"""

from __future__ import annotations

import abc
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._names import unknown_name
from fastgen.likelihoods import Categorical, Likelihood, level_dtype
from fastgen.models.autoencoders.base import Elbo, LatentModel, mean_signal, take
from fastgen.models.autoregressive import AutoregressiveModel, GatedPixelCNN, PixelSNAIL
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.models.base import Phase, Terms, can_read
from fastgen.nn import QuantizerOutput, VectorQuantizer

PRIORS: dict[str, type[AutoregressiveModel]] = {"GatedPixelCNN": GatedPixelCNN, "PixelSNAIL": PixelSNAIL}
"""Models of maps of codes, by name."""
DEFAULT_PRIOR: Mapping[str, Any] = {"model": "GatedPixelCNN"}
SEED_STEP = 0x9E3779B97F4A7C15  # odd, so that the seeds of any two levels differ
LEVEL_EMBEDDING = 32  # channels that a code is read as, if the prior's options do not say


class QuantizedModel(LatentModel):
    """An autoencoder whose code is one map of codebook entries a level, the coarsest level first.

    A subclass builds `encoder` and `decoder`, calls `add_levels`, and writes `quantize` and `decode_entries`. As a
    latent (for `interpolate`, `traverse`, `features`, ...) an image is the entries of all levels in one vector;
    wherever a latent is decoded, codes will do as well.

    Attributes:
        quantizers: the codebooks, one a level.
        priors: the model of each level's map of codes given the levels before it; empty without priors.
        code_shapes: (h, w) of each level's map.
        prior_from: the fraction of the budget at which the autoencoder is done and the priors begin to learn.
    """

    quantizers: nn.ModuleList
    priors: nn.ModuleList
    embeddings: nn.ModuleList
    code_shapes: tuple[tuple[int, int], ...]

    def __init__(
        self, options: Any, likelihood: Likelihood, code_shapes: Sequence[tuple[int, int]], n_classes: int
    ) -> None:
        n_latents = sum(options.code_dim * math.prod(shape) for shape in code_shapes)
        super().__init__(options, likelihood, (n_latents,), n_classes)
        self.code_shapes, self.prior_from = tuple(code_shapes), float(options.prior_from)

    def add_levels(self, priors: Sequence[Mapping[str, Any] | None]) -> None:
        """Build the codebooks and, by their options, the priors."""
        c = self._options
        self.quantizers = nn.ModuleList(
            VectorQuantizer(
                c.n_codes, c.code_dim, ema=c.ema, decay=c.decay, commitment=c.commitment, restart_after=c.restart_after
            )
            for _ in self.code_shapes
        )
        given = [options for options in priors if options is not None]
        if given and len(given) != len(self.code_shapes):
            raise ValueError(
                f"{type(self).__name__}: every level must have a prior or none; got {len(given)} for "
                f"{len(self.code_shapes)} levels"
            )
        self.priors, self.embeddings = nn.ModuleList(), nn.ModuleList()
        for level, options in enumerate(given):
            # codes are names: what a finer level sees of a coarser one is an embedding that its prior learns
            self.embeddings.append(nn.Embedding(c.n_codes, LEVEL_EMBEDDING) if level else nn.Identity())
            scale = self.code_shapes[level][0] // self.code_shapes[level - 1][0] if level else 1
            self.priors.append(self._build_prior(options, self.code_shapes[level], scale if level else 0))

    @abc.abstractmethod
    def quantize(self, x: Tensor, learn: bool) -> list[QuantizerOutput]:
        """Entries, codes, loss and perplexity of every level, each by `look_up` of what the encoder says.

        Shapes: x [N, C, H, W] -> entries [N, D, h, w] (straight-through), codes [N, h, w], two scalars.
        """

    @abc.abstractmethod
    def decode_entries(self, entries: Sequence[Tensor]) -> Tensor:
        """What the head reads of the entries of all levels. Shapes: [N, D, h, w] each -> [N, F, H, W]."""

    def look_up(self, level: int, vectors: Tensor, learn: bool) -> QuantizerOutput:
        """One level of `quantize`. The codebook learns only if told to, whatever mode the model is in; else no loss."""
        quantizer = self._codebooks()[level]
        if learn:
            found: QuantizerOutput = quantizer(vectors)
            return found
        nothing = vectors.new_zeros(())
        return QuantizerOutput(*quantizer.nearest(vectors), nothing, nothing)

    def encode(self, x: Tensor, cond: Any = None) -> Any:
        """Codes of images: a map of them, or where there are several levels a tuple of maps, the coarsest first.

        Shapes: x [N, C, H, W] -> int64 [N, h, w] each.
        """
        maps = self.code_maps(x)
        return maps[0] if len(maps) == 1 else maps

    def code_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Codes of images, a map a level. Shapes: x [N, C, H, W] -> int64 [N, h, w] each."""
        return tuple(level.indices for level in self.quantize(x, learn=False))

    def code(self, x: Tensor, cond: Any = None) -> Tensor:
        """Entries of all levels as one vector. Shapes: x [N, C, H, W] -> [N, sum of D h w]."""
        return flat(level.quantized for level in self.quantize(x, learn=False))

    def check_codes(self, z: Any) -> Any:
        """Check what is to be decoded, entries in one vector or codes, and return it as the vector.

        Raises:
            ValueError: another shape, or a code that the codebook has not.
        """
        if isinstance(z, Tensor) and z.is_floating_point():
            return super().check_codes(z)
        maps = (z,) if isinstance(z, Tensor) else tuple(z)
        name, n_codes = type(self).__name__, self._options.n_codes
        if [tuple(m.shape[1:]) for m in maps] != list(self.code_shapes) or len({m.shape[0] for m in maps}) != 1:
            raise ValueError(
                f"{name}: codes must be maps of {', '.join(f'{h} x {w}' for h, w in self.code_shapes)}; got "
                f"{', '.join(str(list(m.shape)) for m in maps)}; take those of the same model"
            )
        for codes in maps:
            if codes.numel() and can_read(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < n_codes:
                raise ValueError(
                    f"{name}: codes must be in 0..{n_codes - 1}, those of its codebook; got {int(codes.min())}.."
                    f"{int(codes.max())}; they are of another codebook"
                )
        return flat(quantizer.embed(codes) for quantizer, codes in zip(self._codebooks(), maps))

    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """What the head reads. Shapes: z [N, sum of D h w] -> [N, F, H, W]."""
        dim = self._options.code_dim
        parts = z.split([dim * math.prod(shape) for shape in self.code_shapes], 1)
        return self.decode_entries([part.unflatten(1, (dim, *s)) for part, s in zip(parts, self.code_shapes)])

    def phases(self) -> Sequence[Phase]:
        """The autoencoder until `prior_from` of the budget is spent, then the priors over its codes."""
        late = [*self.priors.parameters(), *self.embeddings.parameters()]
        own = {id(parameter) for parameter in late}
        early = [parameter for parameter in self.parameters() if id(parameter) not in own]
        if not late:
            return (Phase("autoencoder", early, self.objective),)
        return (
            Phase("autoencoder", early, self.objective, end=self.prior_from),
            Phase("prior", late, self.prior_objective, begin=self.prior_from),
        )

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-log p(x | z) in nats per dimension and the quantizers' losses; the codebooks learn here and nowhere else.

        Logged: "reconstruction", -log p(x | z) in nats an image, and the perplexity of each level's codes.
        """
        levels = self.quantize(x, learn=True)
        distortion = -self.score(x, self.decode_entries([level.quantized for level in levels])).mean()
        loss = distortion / math.prod(x.shape[1:]) + sum(level.loss for level in levels)
        perplexities = {f"perplexity{s}": level.perplexity for s, level in zip(self._suffixes(), levels)}
        return {"loss": loss, "reconstruction": distortion.detach(), **perplexities}

    def prior_objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-log p(z(x) | cond) in nats a code, with the autoencoder frozen; the divergence is logged, nats an image."""
        with torch.no_grad():
            maps = self.code_maps(x)
        kl = self.code_nats(maps, cond).mean()
        return {"loss": kl / sum(map(math.prod, self.code_shapes)), "kl": kl.detach()}

    def code_nats(self, maps: Sequence[Tensor], cond: Any = None) -> Tensor:
        """-log p(z | cond) by the priors, without them by a uniform prior, h w log K a level. Shapes: -> [N]."""
        n = maps[0].shape[0]
        if not self.priors:
            places = sum(map(math.prod, self.code_shapes))
            return torch.full((n,), places * math.log(self._options.n_codes), dtype=torch.float64).to(maps[0].device)
        labels = self.prepare_cond(cond, n)
        nats: list[Tensor] = []
        for level, prior in enumerate(self._checked_priors()):
            x = maps[level].to(level_dtype(self._options.n_codes)).unsqueeze(1)
            nats.append(-prior.log_prob(x, self._prior_condition(level, maps, labels)))
        return torch.stack(nats).sum(0)

    def elbo(self, x: Tensor, cond: Any = None) -> Elbo:
        """log p(x | z(x)) and -log p(z(x)), the divergence from the prior of a posterior that is one point.

        Shapes: x [N, C, H, W], cond [N] labels or None -> [N] both.
        """
        levels = self.quantize(x, learn=False)
        reconstruction = self.score(x, self.decode_entries([level.quantized for level in levels]))
        return Elbo(reconstruction, self.code_nats([level.indices for level in levels], cond).to(reconstruction))

    def log_prob(self, x: Tensor, cond: Any = None) -> Tensor:
        """A lower bound of log p(x) in nats: that of `elbo`. Shapes: x [N, C, H, W] -> [N]."""
        return self.elbo(x, cond).bound

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """Mean squared error of the decoder's means (signals in [-1, 1]), -log p(z) if there is a prior, and the codes.

        Shapes: -> [N], of codes [N, h, w].
        """
        levels = self.quantize(x, learn=False)
        params = self.head(self.decode_entries([level.quantized for level in levels]))
        error = mean_signal(self.likelihood, params) - self.prepare_input(x)
        figures = {"mse": error.square().flatten(1).mean(1)}
        maps = [level.indices for level in levels]
        if self.priors:
            figures["code_nats"] = self.code_nats(maps, cond)
        return {**figures, **{f"codes{s}": codes for s, codes in zip(self._suffixes(), maps)}}

    def summarize(self, figures: Terms) -> dict[str, float]:
        """Means, and of the codes of all images the perplexity, exp of their entropy: from 1 to K."""
        means = super().summarize({name: values for name, values in figures.items() if not name.startswith("codes")})
        for suffix in self._suffixes():
            shares = torch.bincount(figures[f"codes{suffix}"].flatten().long()).double()
            shares = shares / shares.sum()
            means[f"perplexity{suffix}"] = float(torch.exp(-torch.xlogy(shares, shares).sum()))
        return means

    def code_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the entries, at every place. Shapes: [sum of D h w] both."""
        moments = []
        for find in (lambda t: t.mean(0), lambda t: t.std(0, unbiased=False)):
            each = [find(quantizer.codebook.detach()) for quantizer in self._codebooks()]
            moments.append(flat(e[None, :, None, None].expand(1, -1, *s) for e, s in zip(each, self.code_shapes))[0])
        return moments[0], moments[1]

    @torch.no_grad()
    def draw_code_maps(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        cond: Any = None,
        first_image: int = 0,
        **options: Any,
    ) -> tuple[Tensor, ...]:
        """Codes from the priors, level by level, by `fastgen.sample`, which takes the other options.

        Shapes: cond [n] labels or None -> int64 [n, h, w] a level.

        Raises:
            ValueError: a model without priors, or with one of another codebook.
        """
        from fastgen.sampling import sample

        if not self.priors:
            raise ValueError(
                f"{type(self).__name__}: codes are drawn by a prior; the model has none; build it with prior=..., and "
                "train it past prior_from"
            )
        labels = self.prepare_cond(cond, n)
        maps: list[Tensor] = []
        for level, prior in enumerate(self._checked_priors()):
            drawn = sample(
                prior, n, shape=(1, *self.code_shapes[level]), seed=(seed + (level + 1) * SEED_STEP) % 2**64,
                temperature=temperature, cond=self._prior_condition(level, maps, labels), first_image=first_image,
                **options,
            )  # fmt: skip
            maps.append(drawn.squeeze(1).long())
        return tuple(maps)

    def draw_codes(
        self, n: int, *, seed: int = 0, temperature: float = 1.0, cond: Any = None, first_image: int = 0
    ) -> Tensor:
        """Entries of codes from the priors; see `draw_code_maps`. Shapes: -> [n, sum of D h w]."""
        maps = self.draw_code_maps(n, seed=seed, temperature=temperature, cond=cond, first_image=first_image)
        drawn: Tensor = self.check_codes(maps)
        return drawn

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        pixel_temperature: float = 0.0,
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
        **options: Any,
    ) -> Tensor:
        """Draw codes from the priors and decode them: uint8 levels [n, C, H, W].

        temperature: of the priors; 0 takes the most probable code at every place.
        pixel_temperature: of p(x | z); 0, the default, takes the most probable level of every pixel.
        cond: [n] labels of a class-conditional model.
        batch_size: images drawn and decoded side by side.
        The other options are those of `fastgen.sample`: method, progress.

        Raises:
            ValueError: a model without priors, or arguments that do not fit.
        """
        if n < 0:
            raise ValueError(f"{type(self).__name__}: n must not be negative; got {n}")
        cond, images = self.prepare_cond(cond, n), []
        for start in range(0, max(1, n), batch_size or max(1, n)):
            part = take(cond, start, min(n, start + (batch_size or n)))
            count, first = min(n - start, batch_size or n), first_image + start
            maps = self.draw_code_maps(
                count, seed=seed, temperature=temperature, cond=part, first_image=first, **options
            )
            images.append(self.draw_images(maps, seed=seed, temperature=pixel_temperature, first_image=first))
        return torch.cat(images)

    @torch.no_grad()
    def draw_images(
        self, z: Any, *, seed: int = 0, temperature: float = 1.0, cond: Any = None, first_image: int = 0
    ) -> Tensor:
        """x from p(x | z); see `LatentModel.draw_images`. z may be codes: a map, or a tuple of one a level."""
        z = self.check_codes(z)
        return super().draw_images(z, seed=seed, temperature=temperature, cond=cond, first_image=first_image)

    def _prior_condition(self, level: int, maps: Sequence[Tensor], labels: Tensor | None) -> Any:
        """What the prior of a level is conditioned on: labels, and the codes of the level before."""
        if level == 0:
            return labels
        seen = self.embeddings[level](maps[level - 1]).movedim(-1, 1)
        return {"map": seen} if labels is None else {"map": seen, "labels": labels}

    def _build_prior(self, options: Mapping[str, Any], size: tuple[int, int], map_scale: int) -> AutoregressiveModel:
        """A model of maps of `size` of the codes, given a map `map_scale` times smaller unless that is 0."""
        name, n_codes = type(self).__name__, self._options.n_codes
        chosen = {"level_embedding": LEVEL_EMBEDDING, **options}
        kind = chosen.pop("model", DEFAULT_PRIOR["model"])
        if kind not in PRIORS:
            raise unknown_name("prior", str(kind), PRIORS)
        known = inspect.signature(PRIORS[kind]).parameters
        taken = {"image_channels": 1, "n_classes": self.n_classes, "image_size": size}
        if map_scale:
            taken |= {"cond_channels": LEVEL_EMBEDDING, "cond_scale": map_scale}
        for key in taken:
            if key in chosen:
                raise ValueError(f"{name}: a prior's {key} comes from the codes; got {chosen[key]}; leave it out")
            if key not in known:
                raise ValueError(f"{name}: the prior of a finer level must take a map; got {kind}, which does not")
        for key in chosen:
            if key not in known:
                raise unknown_name(f"{kind} prior option", key, known)
        chosen["likelihood"] = as_likelihood(chosen.get("likelihood"), Categorical(1, n_codes))
        prior = PRIORS[kind](**{**taken, **chosen})
        check_prior(name, prior, n_codes)
        return prior

    def _checked_priors(self) -> list[AutoregressiveModel]:
        """The priors, which somebody may have put there since the model was built."""
        for prior in self.priors:
            check_prior(type(self).__name__, prior, self._options.n_codes)
        return [prior for prior in self.priors if isinstance(prior, AutoregressiveModel)]

    def _codebooks(self) -> list[VectorQuantizer]:
        return [quantizer for quantizer in self.quantizers if isinstance(quantizer, VectorQuantizer)]

    def _suffixes(self) -> tuple[str, ...]:
        """What figures of the levels are told apart by."""
        return ("",) if len(self.code_shapes) == 1 else ("_top", "_bottom")


def flat(entries: Any) -> Tensor:
    """Maps of several levels as one vector an image. Shapes: [N, D, h, w] each -> [N, sum of D h w]."""
    return torch.cat([level.flatten(1) for level in entries], 1)


def check_prior(name: str, prior: nn.Module, n_codes: int) -> None:
    """Check that a prior is one over maps of codes of a codebook of n_codes entries.

    Raises:
        ValueError: it is not.
    """
    likelihood = getattr(prior, "likelihood", None)
    if not isinstance(likelihood, Categorical) or likelihood.channels != 1 or likelihood.levels != n_codes:
        got = likelihood.config if isinstance(likelihood, Likelihood) else type(prior).__name__
        raise ValueError(
            f"{name}: a prior's likelihood must be Categorical(1, levels={n_codes}), one level an entry of the "
            f"codebook; got {got}; train a prior on this model's codes"
        )


def plain_options(prior: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The options of a prior as plain values, ready for JSON."""
    if prior is None:
        return None
    return {key: value.config if isinstance(value, Likelihood) else value for key, value in prior.items()}


def check_quantized_options(
    name: str, n_codes: int, code_dim: int, prior_from: float, widths: Sequence[int], n_residual: int, n_classes: int
) -> None:
    """Check the options that models of codes share and that no part of them checks.

    Raises:
        ValueError: one is out of range.
    """
    if not 2 <= n_codes <= 2**16 or code_dim < 1 or min(widths) < 1 or n_residual < 0 or n_classes < 0:
        raise ValueError(
            f"{name}: n_codes must be in 2..65536, code_dim, n_filters and residual_filters at least 1 (n_filters at "
            f"least 2), n_residual and n_classes at least 0; got n_codes={n_codes}, code_dim={code_dim}, filters "
            f"{tuple(widths)}, n_residual={n_residual}, n_classes={n_classes}"
        )
    if not 0 < prior_from < 1:
        raise ValueError(f"{name}: prior_from is a fraction of the budget between 0 and 1; got {prior_from}")
