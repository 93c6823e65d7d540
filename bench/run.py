"""Measure cases and turn them into records."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch

from bench.case import UNITS, Case
from bench.measure import Timer, extra_bytes, interleave, keep_freed_memory, summarize, timer_for
from bench.record import Record, append


def run_case(case: Case, device: str, *, budget_s: float, timer: Timer | None = None) -> list[Record]:
    """Measure one case: build, warm up, check that the variants agree, time them in turn, then their memory.

    Returns one record a variant, without the environment.
    """
    if device == "cpu":
        keep_freed_memory()
    runs = {label: build(device) for label, build in case.variants.items()}
    results = {label: run() for label, run in runs.items()}
    if case.check is not None:
        case.check(results)
    del results
    samples, calls = interleave(runs, timer or timer_for(device), budget_s=budget_s)
    summaries = summarize(samples, case.baseline)
    return [
        {
            "case": case.name,
            "title": case.title,
            "tags": list(case.tags),
            "variant": label,
            "baseline": case.baseline,
            "unit": case.unit,
            **vars(summary),
            "extra_bytes": extra_bytes(runs[label], device) if case.in_process else None,
            "rounds": len(samples[label]),
            "calls": calls[label],
            **({"items": case.items} if case.items else {}),
            **({"notes": case.notes} if case.notes else {}),
        }
        for label, summary in summaries.items()
    ]


def run_cases(
    cases: Iterable[Case],
    device: str,
    env: Record,
    *,
    budget_s: float,
    total_s: float | None = None,
    out: Path | None = None,
) -> int:
    """Measure cases one after another, print each and append it to `out` at once; return how many failed.

    A case that raises is printed and recorded as {"case", "error"}, and the next one runs. Once `total_s` has
    passed, what is left counts as failed too: a run that was cut short must not look whole.
    """
    failures = 0
    start = time.monotonic()
    for case in cases:
        try:
            if total_s is not None and time.monotonic() - start > total_s:
                raise TimeoutError(f"not run: {total_s:g} s had passed")
            records = run_case(case, device, budget_s=budget_s)
        except Exception as error:  # a failing case must not take the others with it
            records = [{"case": case.name, "error": f"{type(error).__name__}: {error}"}]
            failures += 1
        for record in records:
            print(line(record), flush=True)
        if out is not None:
            append(out, [record | env for record in records])
        if device == "cuda":
            torch.cuda.empty_cache()
    return failures


def line(record: Record) -> str:
    """Format a record for the terminal."""
    if "error" in record:
        return f"{record['case']}  FAILED  {record['error']}"
    rate = f"  {format_rate(record):>8} images/s" if "items" in record else ""
    return (
        f"{record['case']:<44} {record['variant']:<28} {format_time(record['median_s'], record['unit']):>11} "
        f"{record['speedup']:>7.2f}x  {format_bytes(record['extra_bytes']):>9}{rate}"
    )


def format_rate(record: Record) -> str:
    """Write the images a second of a record that has `items`, three figures."""
    value = record["items"] / record["median_s"]
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def format_time(seconds: float, unit: str) -> str:
    """Write seconds in the case's unit, three figures."""
    value = seconds * UNITS[unit]
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {'µs' if unit == 'us' else unit}"


def format_bytes(count: int | None) -> str:
    """Write bytes in decimal megabytes, or a dash where they are not known."""
    if count is None:
        return "-"
    megabytes = count / 1e6
    return f"{megabytes:,.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"
