"""Say what this machine can run: torch, triton, GPU, C compiler, sampling methods, the speed of one op."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable

from fastgen._version import __version__
from fastgen.cli import _runs

SUMMARY = "what this machine can run"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _runs.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 if the op and its reference disagree."""
    import torch

    from fastgen.sampling import available_methods
    from fastgen.sampling.executors import why_not
    from fastgen.training.device import pick_device

    device = pick_device(args.device)
    _print("fastgen", __version__)
    _print("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    _print("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    _print("triton", _triton())
    _print("GPU", _gpu())
    _print("C compiler", _compiler())
    methods = available_methods(device)
    _print("sampling", f"on {device.type}: {', '.join(methods)}; method='auto' takes {methods[0]}")
    reason = why_not(device, torch.float32)
    if device.type == "cpu" and reason:
        _print("", f"native is not available: {reason}")
    return _time_dmol(device)


def _print(label: str, text: str) -> None:
    print(f"{label + ':' if label else '':12} {text}")


def _triton() -> str:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed: the ops take their PyTorch references"
    interpreted = ", interpreting kernels (TRITON_INTERPRET=1)" if os.environ.get("TRITON_INTERPRET") == "1" else ""
    return version + interpreted


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(f"{facts.name} ({facts.total_memory / 2**30:.0f} GiB, sm_{facts.major}{facts.minor})")
    return ", ".join(found)


def _compiler() -> str:
    from fastgen._cpu.toolchain import find_compiler

    command = find_compiler()
    if command is not None:
        return shutil.which(command[0]) or command[0]
    return "none: the CPU samples and trains more slowly, Triton needs one on a GPU (install gcc, or set CC)"


def _time_dmol(device: object) -> int:
    """Time the likelihood of 16 CIFAR-sized images, gradient included, by the op and by its reference."""
    import torch

    from fastgen.functional import dmol_log_prob

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (16, 3, 32, 32), generator=generator, dtype=torch.uint8)
    params = torch.randn(16, 100, 32, 32, generator=generator)
    x, params = x.to(device), params.to(device)  # type: ignore[call-overload]

    def op(impl: str) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = params.detach().requires_grad_()
        log_prob = dmol_log_prob(x, leaf, impl=impl)
        (gradient,) = torch.autograd.grad(log_prob.sum(), leaf)
        return log_prob.detach(), gradient

    results, seconds = {}, {}
    for impl in ("auto", "reference"):
        results[impl] = op(impl)
        seconds[impl] = _best_of(5, lambda impl=impl: op(impl))  # type: ignore[misc]
    errors = [float((a - b).abs().max()) for a, b in zip(results["auto"], results["reference"], strict=True)]
    scale = [float(b.abs().max()) for b in results["reference"]]
    agrees = all(error <= 1e-4 * largest for error, largest in zip(errors, scale, strict=True))
    _print(
        "one op",
        f"dmol_log_prob and gradient, 16x3x32x32, 10 mixtures: {1e3 * seconds['auto']:.2f} ms, "
        f"reference {1e3 * seconds['reference']:.2f} ms",
    )
    _print(
        "",
        f"largest difference {errors[0]:.1e} nats, gradient {errors[1]:.1e}: {'ok' if agrees else 'WRONG'}",
    )
    return 0 if agrees else 1


def _best_of(repeats: int, call: Callable[[], object]) -> float:
    import torch

    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
