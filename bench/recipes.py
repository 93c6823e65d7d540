"""Train the recipes that need no download, and set what they reach beside the literature.

`python -m bench.recipes NAME ...` trains and prints; `--record` appends to bench/results/recipes, from which
`python -m bench render` writes the README's table. A budget of steps makes a run reproducible on a machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.record import RESULTS, Record, append, environment, read

HELD_OUT = RESULTS / "recipes" / "held_out.jsonl"


@dataclass(frozen=True)
class Published:
    """What the literature reports of a model in its full size; `figure` is empty where it reports no likelihood."""

    figure: str
    setting: str
    source: str


_BINARY = "all 50,000 training digits, binarised"
_URIA = "[Uria et al. 2016](https://arxiv.org/abs/1605.02226)"
_MADE = "[Germain et al. 2015](https://arxiv.org/abs/1502.03509)"
_BURDA = "[Burda et al. 2016](https://arxiv.org/abs/1509.00519)"
_NO_DENSITY = "no likelihood: it has no density"
_BY_SAMPLES = "no likelihood: it is judged by its samples"
_GOODFELLOW = "[Goodfellow et al. 2014](https://arxiv.org/abs/1406.2661)"
_MAKHZANI = "[Makhzani et al. 2015](https://arxiv.org/abs/1511.05644)"
_PIXEL_RNN = "[van den Oord et al. 2016a](https://arxiv.org/abs/1601.06759)"

PUBLISHED: dict[str, Published] = {
    "fvsbn": Published("97.45 nats", _BINARY, _URIA),
    "nade": Published("88.33 nats", f"{_BINARY}, 500 hidden units", _URIA),
    "made": Published("86.64 nats", f"{_BINARY}, two layers of 8,000 units, 32 masks", _MADE),
    "row_lstm": Published("80.54 nats", f"{_BINARY}", _PIXEL_RNN),
    "diagonal_bilstm": Published("79.20 nats", f"{_BINARY}, 7 layers", _PIXEL_RNN),
    "pixelcnn": Published("81.30 nats", f"{_BINARY}", _PIXEL_RNN),
    "gated_pixelcnn": Published(
        "3.03 bits/dim", "CIFAR-10 in colour", "[van den Oord et al. 2016b](https://arxiv.org/abs/1606.05328)"
    ),
    "pixelcnnpp": Published(
        "2.92 bits/dim",
        "CIFAR-10 in colour, 5 resnets of 160 filters",
        "[Salimans et al. 2017](https://arxiv.org/abs/1701.05517)",
    ),
    "pixelcnnpp-photos-small": Published(
        "2.92 bits/dim",
        "CIFAR-10 in colour, 5 resnets of 160 filters",
        "[Salimans et al. 2017](https://arxiv.org/abs/1701.05517)",
    ),
    "multiscale": Published("", "no likelihood of the multi-scale model", _PIXEL_RNN),
    "colorization": Published("", "no likelihood in these settings", ""),
    "super_resolution": Published("", "no likelihood in these settings", ""),
    "pixelsnail": Published(
        "2.85 bits/dim", "CIFAR-10 in colour", "[Chen et al. 2018](https://arxiv.org/abs/1712.09763)"
    ),
    "image_gpt": Published(
        "", "no likelihood of pixels: it is judged by its features", "[Chen et al. 2020](https://proceedings.mlr.press/v119/chen20s.html)"
    ),
    "wavenet": Published(
        "", "no likelihood: it is judged by listeners", "[van den Oord et al. 2016c](https://arxiv.org/abs/1609.03499)"
    ),
    "autoencoder": Published(
        "", _NO_DENSITY, "[Hinton and Salakhutdinov 2006](https://www.science.org/doi/10.1126/science.1127647)"
    ),
    "conv_autoencoder": Published("", _NO_DENSITY, "Masci et al. 2011"),
    "denoising_autoencoder": Published("", _NO_DENSITY, "[Vincent et al. 2010](https://jmlr.org/papers/v11/vincent10a.html)"),
    "vae": Published("86.76 nats", "all training digits, binarised at random, bound of 5,000 draws", _BURDA),
    "vae_2d": Published("", "no likelihood with two latents", "[Kingma and Welling 2014](https://arxiv.org/abs/1312.6114)"),
    "conv_vae": Published("", "no likelihood in these settings", ""),
    "conditional_vae": Published("", "no likelihood of whole digits given their class", ""),
    "beta_vae": Published(
        "", "no likelihood: it is judged by its latents", "[Higgins et al. 2017](https://openreview.net/forum?id=Sy2fzU9gl)"
    ),
    "iwae": Published(
        "84.78 nats", "all training digits, binarised at random, 50 samples, bound of 5,000 draws", _BURDA
    ),
    "adversarial_autoencoder": Published(
        "", "no likelihood; a Parzen window of its samples gives 340 nats (density of gray levels)", _MAKHZANI
    ),
    "adversarial_autoencoder_labels": Published("", "no likelihood: it is judged by its codes and samples", _MAKHZANI),
    "vqvae": Published(
        "4.67 bits/dim", "CIFAR-10 in colour, bound", "[van den Oord et al. 2017](https://arxiv.org/abs/1711.00937)"
    ),
    "vqvae2": Published(
        "", "no likelihood of images: it is judged by its samples", "[Razavi et al. 2019](https://arxiv.org/abs/1906.00446)"
    ),
    "pixelvae": Published(
        "79.66 nats", f"{_BINARY}, bound", "[Gulrajani et al. 2016](https://arxiv.org/abs/1611.05013)"
    ),
    "vdvae": Published(
        "2.87 bits/dim", "CIFAR-10 in colour, bound", "[Child 2021](https://arxiv.org/abs/2011.10650)"
    ),
    "gan_ring": Published("", "no likelihood: it is judged by the modes found", _GOODFELLOW),
    "gan": Published(
        "", "no likelihood; a Parzen window of its samples gives 225 nats (density of gray levels)", _GOODFELLOW
    ),
    "dcgan": Published("", _BY_SAMPLES, "[Radford et al. 2016](https://arxiv.org/abs/1511.06434)"),
    "lsgan": Published("", _BY_SAMPLES, "[Mao et al. 2017](https://arxiv.org/abs/1611.04076)"),
    "wgan": Published("", _BY_SAMPLES, "[Arjovsky et al. 2017](https://arxiv.org/abs/1701.07875)"),
    "wgangp": Published("", _BY_SAMPLES, "[Gulrajani et al. 2017](https://arxiv.org/abs/1704.00028)"),
    "conditional_gan": Published("", _BY_SAMPLES, "[Mirza and Osindero 2014](https://arxiv.org/abs/1411.1784)"),
    "conditional_gan_projection": Published(
        "", _BY_SAMPLES, "[Miyato and Koyama 2018](https://arxiv.org/abs/1802.05637)"
    ),
    "infogan": Published("", _BY_SAMPLES, "[Chen et al. 2016](https://arxiv.org/abs/1606.03657)"),
    "began": Published("", _BY_SAMPLES, "[Berthelot et al. 2017](https://arxiv.org/abs/1703.10717)"),
    "progressive_gan": Published("", _BY_SAMPLES, "[Karras et al. 2018](https://arxiv.org/abs/1710.10196)"),
    "stylegan": Published("", _BY_SAMPLES, "[Karras et al. 2019](https://arxiv.org/abs/1812.04948)"),
    "stylegan2": Published("", _BY_SAMPLES, "[Karras et al. 2020](https://arxiv.org/abs/1912.04958)"),
    "stylegan2-photos": Published("", _BY_SAMPLES, "[Karras et al. 2020b](https://arxiv.org/abs/2006.06676)"),
    "dcgan-photos": Published("", _BY_SAMPLES, "[Radford et al. 2016](https://arxiv.org/abs/1511.06434)"),
    "image_to_image": Published(
        "", "no likelihood: it is judged by its translations", "[Isola et al. 2017](https://arxiv.org/abs/1611.07004)"
    ),
    "cyclegan": Published(
        "", "no likelihood: it is judged by its translations", "[Zhu et al. 2017](https://arxiv.org/abs/1703.10593)"
    ),
    "energy": Published(
        "", "no likelihood: it is judged by its samples and by outliers", "[Du and Mordatch 2019](https://arxiv.org/abs/1903.08689)"
    ),
    "energy_score_matching": Published(
        "", "no likelihood: it is judged by its samples", "[Li et al. 2019](https://arxiv.org/abs/1910.07762)"
    ),
}  # fmt: skip


def run(name: str, keep: Path | None = None) -> Record:
    """Train one recipe on the CPU, in the folder `keep` or one that is thrown away, and say what it reached."""
    from fastgen.models import AdversarialModel
    from fastgen.training import get_recipe, train
    from fastgen.training.build import load_data
    from fastgen.training.coverage import mode_coverage

    recipe = get_recipe(name)
    data = load_data(recipe)
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, keep or Path(folder) / "run", device="cpu", progress=sys.stderr.isatty(), data=data)
    assert result.after is not None
    modes = {}
    if isinstance(result.model, AdversarialModel) and data[0].n_classes:
        modes = {"modes": asdict(mode_coverage(result.model, data[0]))}
    return {
        "recipe": name,
        "model": recipe.model,
        "data": recipe.data,
        "levels": recipe.levels,
        "shape": list(data[0].shape),
        "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
        "train_items": max(getattr(data[0], "domain_sizes", (len(data[0]),))),  # unpaired ones meet several times
        "batch_size": recipe.batch_size,
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        "held_out": result.after.to_json(),
        **modes,
        **environment("cpu"),
    }


def table(records: list[Record]) -> str:
    """Render a row for each recipe's newest record, in the order of `PUBLISHED`."""
    newest = {record["recipe"]: record for record in records}
    lines = [
        "| recipe | trained here | held out | published for the full size | of |",
        "|---|---|--:|--:|---|",
    ]
    for name, published in PUBLISHED.items():
        if name in newest:
            record = newest[name]
            cells = (f"`{name}`", _setting(record), _held_out(record), published.figure or "none", _of(published))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def recorded() -> list[Record]:
    """Read all records; none if there is no file yet."""
    return read([HELD_OUT]) if HELD_OUT.exists() else []


def _setting(record: Record) -> str:
    size = "x".join(map(str, record["shape"][1:])) or "?"
    return (
        f"{record['parameters'] / 1e3:,.0f} thousand weights, {record['steps']:,} steps of {record['batch_size']}; "
        f"{record['train_items']:,} of `{record['data']}` at {size} in {record['levels']} levels"
    )


def _held_out(record: Record) -> str:
    held = record["held_out"]
    if "nats" not in held:  # no density: its own figure of merit, the first it measures
        from fastgen.evaluation import HeldOut

        error = f" ± {held['stderr']:.4f}" if held["stderr"] else ""
        modes = record.get("modes")
        found = f"; {modes['found']} of {len(modes['counts'])} modes" if modes else ""
        return f"{HeldOut.from_json(held)}{error}{found}"
    bits = f"{held['bits_per_dim']:.2f} ± {held['stderr']:.2f} bits/dim"
    return f"{held['nats']:.1f} nats ({bits})" if record["levels"] == 2 else bits


def _of(published: Published) -> str:
    return ", ".join(part for part in (published.setting, published.source) if part)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.recipes", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(PUBLISHED)}")
    parser.add_argument("--record", action="store_true", help="append the results to bench/results/recipes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave each run in DIR/NAME, its pictures included")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PUBLISHED]:
        parser.error(f"unknown recipe {unknown[0]!r}; known: {', '.join(PUBLISHED)}")
    for name in options.names or PUBLISHED:
        record = run(name, options.keep and options.keep / name)
        print(f"{name}: {_held_out(record)} held out; {_setting(record)}; {record['seconds']} s", flush=True)
        if options.record:
            append(HELD_OUT, [record])
    return 0


if __name__ == "__main__":
    sys.exit(main())
