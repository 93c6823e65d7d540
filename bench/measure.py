"""Seconds and bytes of functions that do the same work, measured so that they can be compared.

Time: the variants take turns, round by round, so that a change of clock speed or a noisy neighbour meets all
of them; the figures are medians over rounds, and a speed-up is the median of the ratios within a round. On a
GPU the L2 cache is flushed before each call and time is taken by events on the stream. On the CPU the C library is
told to keep the memory that is freed, as a long-lived process comes to hold it: else a call would pay for pages that
the variant before it gave back to the system, which costs as much as a convolution.

Memory: the most that one warmed-up call holds beyond what was held before it. On CUDA it is the allocator's
peak. On the CPU it is the growth of the process's peak resident set, which the kernel lets us reset: it costs
nothing while the call runs, whatever its length, and it also sees buffers that libraries take behind
PyTorch's allocator. It agrees with the peak of live tensors that torch.profiler reports to 0.2%, where that
one takes gigabytes itself for a call of some hundred thousand operations. Where the kernel does not offer it
(not Linux, or forbidden) the figure is None.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.case import Run

Timer = Callable[[Run, int], float]
"""(function, calls) -> seconds a call."""

MIN_SAMPLE_S = 2e-3  # short functions are called often enough to fill this: a thousand times the clock's resolution
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
FLUSH_BYTES = 256 << 20  # more than any L2 cache


@dataclass(frozen=True)
class Summary:
    """What the samples of one variant say, with quartiles; a speed-up is baseline time / own time."""

    median_s: float
    low_s: float
    high_s: float
    speedup: float
    speedup_low: float
    speedup_high: float


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 32 MB, the most that it allows, where it can be told so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
        mallopt(option, value)


def cpu_timer(run: Run, calls: int) -> float:
    """Time `calls` calls by the wall clock."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def cuda_timer(run: Run, calls: int) -> float:
    """Time `calls` calls by events on the current stream, each after a flush of the L2 cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    for start, end in marks:
        flush.zero_()  # also keeps the GPU busy while the CPU queues the call: launches are not in its time
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return sum(start.elapsed_time(end) for start, end in marks) / calls / 1e3


def timer_for(device: str) -> Timer:
    """Return the timer for a kind of device."""
    return cuda_timer if device == "cuda" else cpu_timer


def interleave(
    runs: Mapping[str, Run],
    timer: Timer,
    *,
    budget_s: float,
    min_rounds: int = 3,
    max_rounds: int = 51,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Time the functions in turn until the budget is spent.

    Returns label -> seconds a call, round by round, and label -> calls a sample.

    The order within a round rotates, so that no variant always follows the same one. `min_rounds` wins over
    the budget.
    """
    calls = {label: max(1, math.ceil(MIN_SAMPLE_S / max(timer(run, 1), 1e-9))) for label, run in runs.items()}
    samples: dict[str, list[float]] = {label: [] for label in runs}
    labels = list(runs)
    spent = 0.0
    for done in range(max_rounds):
        if done >= min_rounds and spent * (done + 1) / done > budget_s:
            break
        turn = done % len(labels)
        for label in labels[turn:] + labels[:turn]:
            seconds = timer(runs[label], calls[label])
            samples[label].append(seconds)
            spent += seconds * calls[label]
    return samples, calls


def summarize(samples: Mapping[str, list[float]], baseline: str) -> dict[str, Summary]:
    """Turn label -> seconds by round into medians, quartiles and paired speed-ups over `baseline`."""
    summaries = {}
    for label, seconds in samples.items():
        ratios = [base / own for base, own in zip(samples[baseline], seconds, strict=True)]
        low_s, median_s, high_s = _quartiles(seconds)
        speedup_low, speedup, speedup_high = _quartiles(ratios)
        summaries[label] = Summary(median_s, low_s, high_s, speedup, speedup_low, speedup_high)
    return summaries


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def extra_bytes(run: Run, device: str) -> int | None:
    """Return the most bytes that one call holds beyond those held before, or None where it cannot be told.

    Call the function once before: what it allocates once and keeps is not counted.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls freed, or this one would hide in it
        Path("/proc/self/clear_refs").write_text("5")  # peak := present
    except (OSError, AttributeError, TypeError):
        return None
    before = _status_bytes("VmRSS")
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"bench: /proc/self/status must list {field}; it does not; memory cannot be measured here.")
    return int(match.group(1)) * 1024
