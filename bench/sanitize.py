"""Launch every Triton kernel once, on small odd sizes, for compute-sanitizer: `python -m bench.sanitize`.

Odd sizes make the masks of the last blocks matter. What is computed is the tests' business, not this script's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch


def launch_dmol(device: str) -> None:
    """The mixture's log-probability, its gradient, and draws; one and three channels, both tails, both kinds of x."""
    from fastgen.functional import dmol_log_prob, dmol_sample

    generator = torch.Generator().manual_seed(0)
    for channels, n_mix, tails in ((3, 10, "exact"), (1, 5, "pixelcnn++")):
        n_params = n_mix * (1 + 2 * channels + channels * (channels - 1) // 2)
        params = torch.randn(3, n_params, 5, 7, generator=generator).to(device)
        levels = torch.randint(0, 256, (3, channels, 5, 7), generator=generator, dtype=torch.uint8).to(device)
        for x in (levels, levels.float() / 127.5 - 1):
            leaf = params.clone().requires_grad_()
            dmol_log_prob(x, leaf, tails=tails, impl="triton").sum().backward()
        uniforms = torch.rand(3, 1 + channels, 5, 7, generator=generator).to(device)
        dmol_sample(params, uniforms, channels=channels, impl="triton")


LAUNCHES: dict[str, Callable[[str], None]] = {"dmol": launch_dmol}
"""Op (its folder in `kernels`) -> a function that launches all its kernels on a device."""


def main() -> int:
    """Launch all; return the exit status."""
    if not torch.cuda.is_available():
        print("bench.sanitize: needs a CUDA device; torch sees none.", file=sys.stderr)
        return 2
    for op, launch in LAUNCHES.items():
        launch("cuda")
        torch.cuda.synchronize()
        print(f"{op}: launched", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
