"""Masked convolution layers: the whole window times a mask, a window cropped to its live taps, and the kernels.

    python -m bench.cases.masked_conv2d --measure RESULTS.jsonl [--dtype bfloat16]
    python -m bench.cases.masked_conv2d RESULTS.jsonl

The first command measures all of `SWEEP` on a GPU. The second writes from that what `impl="auto"` takes on a GPU like
it, into `kernels/masked_conv2d/table.py`, for a dtype as a whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run
from bench.record import ROOT, Record, environment, read
from bench.run import run_cases

TABLE = ROOT / "kernels" / "masked_conv2d" / "table.py"
KERNELS = "fastgen kernels"
MARGIN = 1.03  # kernels must be faster by more than what two measurements of one thing differ by


class Problem(NamedTuple):
    """A layer on a GPU: its window and mask, gate, channels, images [n, side, side], and whether it is trained."""

    window: tuple[int, int]
    mask_type: str
    stack: str
    center: tuple[int, int]
    gate: str | None
    inputs: int
    features: int
    n: int
    side: int
    training: bool
    dtype: str = "bfloat16"

    @property
    def outputs(self) -> int:
        """Output channels of the convolution: both halves of a gate."""
        return self.features * (2 if self.gate else 1)

    @property
    def name(self) -> str:
        """Name of its case."""
        work = "forward-and-gradient" if self.training else "forward"
        window = f"{'x'.join(map(str, self.window))}-{self.mask_type}{'-gated' * bool(self.gate)}"
        size = f"{self.n}x{self.inputs}x{self.side}x{self.side}-to-{self.features}-{self.dtype}"
        return f"masked_conv2d/{work}-{window}/{size}"


def _first(features: int, n: int, side: int, training: bool) -> Problem:
    """The layer that reads the image."""
    return Problem((7, 7), "A", "raster", (3, 3), None, 3, features, n, side, training)


def _plain(features: int, n: int, side: int, training: bool) -> Problem:
    """A later layer of PixelCNN."""
    return Problem((3, 3), "B", "raster", (1, 1), None, features, features, n, side, training)


def _down(features: int, n: int, side: int, training: bool) -> Problem:
    """A gated layer of whole rows: the pixel's own and those above."""
    return Problem((2, 3), "B", "vertical", (1, 1), "tanh", features, features, n, side, training)


def _down_right(features: int, n: int, side: int, training: bool) -> Problem:
    """A gated layer of rows above and pixels to the left."""
    return Problem((2, 2), "B", "raster", (1, 1), "tanh", features, features, n, side, training)


LAYERS = (_first, _plain, _down, _down_right)
CHANNELS = (64, 128, 256, 512)
SWEEP = [
    *(layer(features, 32, 32, training) for layer in LAYERS for features in CHANNELS for training in (False, True)),
    *(layer(128, 32, 64, training) for layer in LAYERS for training in (False, True)),
]
"""What the table is written from: layers of usual widths on 32 x 32 pixels, and 64 x 64."""


def cases() -> list[Case]:
    """First and later layers of a PixelCNN, forward alone and with gradients; on a GPU also what is typical of it."""
    return [
        _case("A", 7, (16, 3, 32, 32), 64, gradient=False),
        _case("A", 7, (16, 3, 32, 32), 64, gradient=True),
        _case("B", 3, (16, 64, 32, 32), 64, gradient=False),
        _case("B", 3, (16, 64, 32, 32), 64, gradient=True, tags=("readme",)),
        *map(gpu_case, (_first(128, 32, 32, True), _plain(128, 32, 64, True), _plain(256, 32, 32, False))),
        *map(gpu_case, (_down(128, 32, 32, True), _down_right(256, 32, 32, True))),
    ]


def gpu_case(problem: Problem) -> Case:
    """A layer in channels_last images, by the library and by the kernels."""
    gated = ", gated" * bool(problem.gate)
    return Case(
        name=problem.name,
        variants={
            "weight * mask": _variant(problem, _naive),
            "cropped convolution": _variant(problem, _cropped, last=True),
            "cropped convolution, compiled": _variant(problem, _compiled, last=True),
            KERNELS: _variant(problem, _kernels, last=True),
        },
        baseline="weight * mask",
        title=f"{'x'.join(map(str, problem.window))} window, mask {problem.mask_type!r}{gated}, "
        f"{'forward and gradient' if problem.training else 'forward'}, {problem.name.rsplit('/', 1)[-1]}",
        unit="us",
        devices=("cuda",),
        check=_close,
    )


Layer = Callable[[Tensor, Tensor, Tensor], Tensor]  # of x, weight, bias


def _variant(problem: Problem, make: Callable[[Problem, str], Layer], *, last: bool = False) -> Builder:
    def build(device: str) -> Run:
        dtype = getattr(torch, problem.dtype)
        generator = torch.Generator().manual_seed(0)
        shapes = (
            (problem.n, problem.inputs, problem.side, problem.side),
            (problem.outputs, problem.inputs, *problem.window),
            (problem.outputs,),
        )
        x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
        weight *= (problem.inputs * problem.window[0] * problem.window[1]) ** -0.5
        leaves = [t.to(device, dtype).requires_grad_(problem.training) for t in (x, weight, bias)]
        if last:
            leaves[0] = leaves[0].detach().contiguous(memory_format=torch.channels_last)
            leaves[0].requires_grad_(problem.training)
        layer = make(problem, device)
        if not problem.training:
            return _tuned(lambda: _no_grad(lambda x: layer(x, *leaves[1:]), leaves[0]))
        ones = torch.ones_like(layer(*leaves).detach())

        def run() -> list[Tensor]:
            y = layer(*leaves)
            return [y.detach(), *torch.autograd.grad(y, leaves, ones)]

        return _tuned(run)

    return build


def _tuned(run: Run) -> Run:
    """Let cuDNN try its algorithms on the first call, as training code should."""

    def tuned() -> object:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
            return run()

    return tuned


def _naive(problem: Problem, device: str) -> Layer:
    """What a first implementation does: a mask times the weight, a padded image, then the gate."""
    (kh, kw), (row, column) = problem.window, problem.center
    mask = torch.ones(kh, kw, dtype=getattr(torch, problem.dtype), device=device)
    if problem.stack == "raster":
        mask[row, column + (problem.mask_type == "B") :] = 0
    mask[row + 1 :] = 0
    padding = (column, kw - 1 - column, row, kh - 1 - row)

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv2d(F.pad(x, padding), weight * mask, bias)
        if not problem.gate:
            return y
        a, b = y.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)

    return layer


def _cropped(problem: Problem, device: str) -> Layer:
    from fastgen.kernels.masked_conv2d.cropped import masked_conv2d_cropped

    strict = problem.mask_type == "A"
    before = problem.center[0] * problem.window[1]  # taps of the rows above
    taps = before + (problem.window[1] if problem.stack == "vertical" else problem.center[1] + (not strict))

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_conv2d_cropped(
            x, weight, bias, None, None, taps, problem.center, strict, 1, 1, problem.gate, None, None
        )

    return layer


def _compiled(problem: Problem, device: str) -> Layer:
    """The best that the library offers: cropped, channels last, bias and gate in one compiled kernel."""
    torch._dynamo.reset()  # all cases compile the same code, which may be compiled so many times only
    return cast(Layer, torch.compile(_cropped(problem, device)))


def _kernels(problem: Problem, device: str) -> Layer:
    from fastgen.functional import masked_conv2d

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_conv2d(
            x,
            weight,
            bias,
            mask_type=problem.mask_type,
            stack=problem.stack,
            center=problem.center,
            gate=problem.gate,
            impl="triton",
        )

    return layer


def _close(results: Mapping[str, object]) -> None:
    first, *others = cast("list[list[Tensor]]", list(results.values()))
    for other in others:
        for one, two in zip(first, other, strict=True):
            # a few roundings to eight bits, and in the naive gate one after each operation
            torch.testing.assert_close(two, one, rtol=0, atol=0.03 * float(one.abs().max()))


def _case(
    mask_type: str,
    kernel: int,
    shape: tuple[int, int, int, int],
    out_channels: int,
    *,
    gradient: bool,
    tags: tuple[str, ...] = (),
) -> Case:
    work = "forward-and-gradient" if gradient else "forward"
    size = f"{'x'.join(map(str, shape))}-to-{out_channels}"

    def variant(make: Callable[[Tensor, Tensor, str], Run]) -> Callable[[str], Run]:
        def build(device: str) -> Run:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(shape, generator=generator)
            weight = torch.randn(out_channels, shape[1], kernel, kernel, generator=generator) / kernel**2
            return make(x.to(device), weight.to(device), device)

        return build

    def finish(x: Tensor, parameters: list[Tensor], forward: Callable[[Tensor], Tensor]) -> Run:
        if not gradient:
            return lambda: _no_grad(forward, x)
        x.requires_grad_()

        def run() -> list[Tensor]:
            y = forward(x)
            return [y.detach(), *torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))]

        return run

    def masked(x: Tensor, weight: Tensor, device: str) -> Run:
        mask = torch.ones(kernel, kernel)
        mask[kernel // 2, kernel // 2 + (mask_type == "B") :] = 0
        mask[kernel // 2 + 1 :] = 0
        mask = mask.to(device)
        weight, bias = weight.requires_grad_(), torch.zeros(out_channels, device=device, requires_grad=True)
        return finish(x, [weight, bias], lambda x: F.conv2d(x, weight * mask, bias, padding=kernel // 2))

    def cropped(x: Tensor, weight: Tensor, device: str) -> Run:
        from fastgen.nn import MaskedConv2d

        layer = MaskedConv2d(shape[1], out_channels, kernel, mask_type=mask_type).to(device)
        layer.load_state_dict({"weight": weight, "bias": torch.zeros(out_channels)})
        return finish(x, list(layer.parameters()), layer)

    return Case(
        name=f"masked_conv2d/{work}-{kernel}x{kernel}-{mask_type}/{size}",
        variants={"weight * mask": variant(masked), "fastgen.nn.MaskedConv2d": variant(cropped)},
        baseline="weight * mask",
        title=f'{kernel}x{kernel} convolution, mask "{mask_type}", {work.replace("-", " ")}, {size.replace("-", " ")}',
        tags=tags,
        check=_agree,
    )


def _no_grad(forward: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [forward(x)]


def _agree(results: Mapping[str, object]) -> None:
    plain, ours = results.values()
    for one, other in zip(plain, ours, strict=True):  # type: ignore[call-overload]
        # Two orders of summing up to a few thousand products in float32 (TF32 is off by default).
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


Key = tuple[str, str, str, int]


def verdicts(records: Sequence[Record]) -> dict[Key, str]:
    """What `impl="auto"` takes by key: the kernels, where they are the fastest in every problem of the key.

    Raises:
        ValueError: records of more than one kind of GPU or state of the code, or not all of a dtype's problems.
    """
    from fastgen.kernels.masked_conv2d.dispatch import table_key

    problems = {p.name: p for dtype in ("bfloat16", "float16", "float32") for p in sweep(dtype)}
    records = [record for record in records if record.get("case") in problems and record.get("device") == "cuda"]
    for what in ("capability", "source"):
        found = sorted({str(record.get(what)) for record in records})
        if len(found) != 1 or found == ["None"]:
            raise ValueError(f"the table needs records of one {what}, by --measure; got {', '.join(found) or 'none'}.")
    seconds: dict[str, dict[str, float]] = {}
    for record in records:  # of a problem that was measured twice the last one counts
        if "median_s" in record:
            seconds.setdefault(record["case"], {})[record["variant"]] = record["median_s"]
        else:
            seconds.pop(record["case"], None)
    table: dict[Key, str] = {}
    for dtype in sorted({problems[record["case"]].dtype for record in records}):
        missing = [p.name for p in sweep(dtype) if KERNELS not in seconds.get(p.name, {}) or len(seconds[p.name]) < 4]
        if missing:
            raise ValueError(f"the table is written for a dtype as a whole; not measured: {', '.join(missing)}.")
        for problem in sweep(dtype):
            times = dict(seconds[problem.name])
            kernels = times.pop(KERNELS)
            key = table_key(
                _capability(records[0]["capability"]),
                getattr(torch, dtype),
                tf32=dtype == "float32",  # PyTorch's default for convolutions
                gated=problem.gate is not None,
                training=problem.training,
                inputs=problem.inputs,
                outputs=problem.outputs,
            )
            fastest = kernels * MARGIN < min(times.values()) and table.get(key) != "library"
            table[key] = "triton" if fastest else "library"
    return table


def sweep(dtype: str) -> list[Problem]:
    """The problems of the table in a dtype."""
    return [problem._replace(dtype=dtype) for problem in SWEEP]


def _capability(text: str) -> tuple[int, int]:
    major, minor = map(int, text.split("."))
    return major, minor


def merged(old: Mapping[Key, str], new: Mapping[Key, str]) -> dict[Key, str]:
    """The new verdicts, in place of all the old ones for the same capability and dtype."""
    replaced = {key[:2] for key in new}
    return {key: verdict for key, verdict in old.items() if key[:2] not in replaced} | dict(new)


def write_table(path: Path, table: Mapping[Key, str]) -> None:
    """Write the table into its file."""
    lines = [
        f'    ("{capability}", "{dtype}", "{kind}", {channels}): "{verdict}",\n'
        for (capability, dtype, kind, channels), verdict in sorted(table.items())
    ]
    declaration = "TABLE: dict[tuple[str, str, str, int], str] = {"
    head, rest = path.read_text(encoding="utf-8").split(declaration)
    path.write_text(head + declaration + "\n" + "".join(lines) + rest[rest.index("}") :], encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.cases.masked_conv2d", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", help="write the table from these JSON lines")
    parser.add_argument("--measure", type=Path, metavar="RESULTS", help="measure, and append JSON lines to this file")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds a problem, without compiling")
    options = parser.parse_args(arguments)
    if (options.results is None) == (options.measure is None):
        parser.error("give either results to write the table from, or --measure.")
    if options.measure is not None:
        if not torch.cuda.is_available():
            print("bench.cases.masked_conv2d: measuring needs a CUDA device; torch sees none.", file=sys.stderr)
            return 2
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        env = environment("cuda") | {"quick": False, "capability": capability}
        chosen = [gpu_case(problem) for problem in sweep(options.dtype)]
        return int(run_cases(chosen, "cuda", env, budget_s=options.budget, out=options.measure) > 0)
    from fastgen.kernels.masked_conv2d.table import TABLE as OLD

    try:
        table = merged(OLD, verdicts(read([options.results])))
    except ValueError as error:
        print(f"bench.cases.masked_conv2d: {error} Nothing is written.", file=sys.stderr)
        return 1
    write_table(TABLE, table)
    print(f"{TABLE}: {len(table)} keys, {list(table.values()).count('triton')} of them take the kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
