"""How fast sampling could be, by the plan of a network and a device's figures: `python -m bench.sampling_roofline`.

A launch takes as long as the longest of three: the step from one launch to the next, the bytes that it moves, its
arithmetic. What a method can reach at best is the sum of these; where a run is recorded, it stands beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import record, render
from bench.cases.sampling_launches import COMPILED, FORWARD, HALF, METHODS, MODELS, Model
from bench.run import format_time


@dataclass(frozen=True)
class Device:
    """Seconds and rates of a device; those of GPUs are of data sheets, and `l2`, `launch`, `barrier`, `call` estimates.

    Attributes:
        l2: bytes a second from the cache that holds the weights.
        flops: multiplications and additions a second in float32; on GPUs of three products of tf32.
        half_flops: those of half precision.
        launch: seconds from one kernel of a graph to the next.
        barrier: seconds from one layer of a persistent kernel to the next.
        call: seconds that a call of PyTorch takes.
    """

    name: str
    l2: float
    flops: float
    half_flops: float
    launch: float
    barrier: float
    call: float


DEVICES = {
    "h100": Device("H100", 5.5e12, 494e12 / 3, 990e12, 2.0e-6, 1.2e-6, 5e-6),
    "h200": Device("H200", 5.5e12, 494e12 / 3, 990e12, 2.0e-6, 1.2e-6, 5e-6),
    "a100": Device("A100", 4.0e12, 156e12 / 3, 312e12, 2.5e-6, 1.5e-6, 6e-6),
}


DRAW_CALLS = 15  # of PyTorch, for a draw
FUSED = 2  # calls of a forward that a compiler makes one of


@dataclass(frozen=True)
class Step:
    """A launch, or as much of the start of a row as one call of PyTorch does."""

    weights: int  # that all images share; each is multiplied once for each image
    values: int  # that are read or written for each image


@dataclass(frozen=True)
class Work:
    """What one batch takes.

    Attributes:
        pixels: positions of an image or a sequence.
        launches: of a typical period of rows.
        rows: what is called of PyTorch in it: starts of rows, and steps without a kernel.
        repeats: how many such periods there are.
        calls: of PyTorch in a period, where there are no launches.
        forward_calls: of PyTorch, for one full forward.
        operations: multiplications for one image, per pixel.
    """

    pixels: int
    launches: tuple[Step, ...]
    rows: tuple[Step, ...]
    repeats: float
    calls: int
    forward_calls: int
    operations: float


class _Calls(TorchDispatchMode):
    """Counts calls of PyTorch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def work_of(model: torch.nn.Module, shape: tuple[int, ...]) -> Work:
    """Read a network's work off its plan."""
    from fastgen.sampling.ancestral import _executor
    from fastgen.sampling.executors import LoweredExecutor
    from fastgen.sampling.executors.lowering import Launch, reads_of, writes_of
    from fastgen.sampling.executors.steps import Step as Planned
    from fastgen.sampling.executors.steps import bind

    executor = _executor(model, torch.zeros(1, *shape), None, "cuda_graph", explaining=True)
    assert isinstance(executor, LoweredExecutor)
    keys = executor._typical()
    launches: list[Step] = []
    rows: list[Step] = []
    calls = 0
    for key in keys:
        for unit in (unit for column in executor.units(key) for unit in column):
            values = sum(view.shape[-1] for view in (*reads_of(unit), *writes_of(unit)))
            products = unit.products if isinstance(unit, Launch) else ()
            count = sum(product.weight.numel() for product in products)
            (rows if isinstance(unit, Planned) else launches).append(Step(count, values))
        rows += [Step(0, 0)] * len(executor.row_start(key))
        calls += len(executor.row_start(key))
        for item in (item for column in executor._columns(key) for item in column):
            calls += len(bind(item, executor._temporary)) if isinstance(item, Planned) else DRAW_CALLS
    pieces, columns = executor._size()
    with _Calls() as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    repeats = pieces / len(keys)
    positions = shape[-1] * (shape[-2] if len(shape) == 3 else 1)
    operations = sum(step.weights for step in launches) * repeats * positions / (pieces * columns)
    return Work(positions, tuple(launches), tuple(rows), repeats, calls, counter.count, operations)


def floors(work: Work, device: Device, batch: int) -> dict[str, float]:
    """Seconds that a batch takes at best, by variant of the cases; of naive sampling all forwards together."""

    def step(one: Step, start: float, flops: float, itemsize: int) -> float:
        moved = one.weights * itemsize + one.values * 4 * batch
        return max(start, moved / device.l2, 2 * one.weights * batch / flops)

    def launched(start: float, flops: float, itemsize: int) -> float:
        pixels = sum(step(one, start, flops, itemsize) for one in work.launches)
        return work.repeats * (pixels + sum(step(one, device.launch, flops, 4) for one in work.rows))

    arithmetic = 2 * work.operations * batch / device.flops
    return {
        FORWARD: work.pixels * max(work.forward_calls * device.call, arithmetic),
        COMPILED: work.pixels * max(work.forward_calls * device.launch / FUSED, arithmetic),
        METHODS["cached"]: max(work.repeats * work.calls * device.call, arithmetic),
        METHODS["cuda_graph"]: launched(device.launch, device.flops, 4),
        HALF: launched(device.launch, device.half_flops, 2),
        METHODS["megakernel"]: launched(device.barrier, device.flops, 4),
    }


def measured_device() -> Device:
    """The figures of this machine's CPU, measured in a second: it has no launches, but a call costs something."""

    def rate(amount: float, function: Any, *args: Any, **options: Any) -> float:
        function(*args, **options)
        best, stop = float("inf"), time.perf_counter() + 0.2
        while time.perf_counter() < stop:
            start = time.perf_counter()
            function(*args, **options)
            best = min(best, time.perf_counter() - start)
        return amount / best

    a, b, out = (torch.rand(512, 512) for _ in range(3))
    block, copy = torch.rand(1 << 18), torch.empty(1 << 18)  # a megabyte
    small, target = torch.rand(16, 80), torch.empty(16, 80)
    flops = rate(2 * 512**3, torch.mm, a, b, out=out)
    call = 1 / rate(1, torch.add, small, small, out=target)
    return Device(
        f"this CPU, {torch.get_num_threads()} threads", rate(2**20, copy.copy_, block), flops, flops, 0, 0, call
    )


def measured(records: list[record.Record], key: str, model: Model, batch: int, name: str) -> dict[str, float]:
    """The newest recorded seconds of a case on a device, by variant; of a forward those of all pixels."""
    found = {}
    for entry in render.latest(records):
        where = name.lower() in entry["device_name"].lower()
        if where and entry["case"] == model.name(key, batch):
            pixels = model.shape[-1] * (model.shape[-2] if len(model.shape) == 3 else 1)
            times = pixels if entry["variant"] in (FORWARD, COMPILED) else 1
            found[entry["variant"]] = entry["median_s"] * times
    return found


def table(key: str, model: Model, device: Device, records: list[record.Record]) -> str:
    """The floors of a network at its batches, and what was measured."""
    work = work_of(model.build("cpu"), model.shape)
    launches = len(work.launches) * work.repeats / work.pixels
    rows = len(work.rows) * work.repeats / work.pixels
    weights = sum(one.weights for one in work.launches) * work.repeats / work.pixels
    lines = [
        f"{model.title}, on {device.name}: a pixel takes {launches:.1f} launches, {rows:.1f} calls of PyTorch and "
        f"{weights * 4 / 1e6:.2f} MB of weights",
        f"{'batch':>5}  {'variant':<36} {'floor':>10} {'an image':>10} {'measured':>10} {'ratio':>6}",
    ]
    for batch in model.batches:
        found = measured(records, key, model, batch, device.name)
        for variant, floor in floors(work, device, batch).items():
            if not floor:
                continue
            name = "naive: " + variant if variant in (FORWARD, COMPILED) else variant
            was = found.get(variant)
            lines.append(
                f"{batch:>5}  {name:<36} {format_time(floor, 's'):>10} {format_time(floor / batch, 'ms'):>10} "
                f"{'-' if was is None else format_time(was, 's'):>10} {'-' if was is None else f'{was / floor:.2f}':>6}"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.sampling_roofline", description=__doc__)
    parser.add_argument("--device", choices=(*DEVICES, "cpu"), default="h100")
    parser.add_argument("--model", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    options = parser.parse_args(arguments)
    device = measured_device() if options.device == "cpu" else DEVICES[options.device]
    for key in options.model:
        print(table(key, MODELS[key], device, render.recorded()), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
