"""Whole training steps on this machine: `python -m bench.training [NAME ...] [--record]`.

The cases `training/...` of `python -m bench run`, which has more options, and after them the table of rates that
`python -m bench render --write` puts into the README. NAME is part of a case's name, for example `pixelcnnpp` or
`input`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import __main__ as bench
from bench import record, render
from bench.case import all_cases
from bench.cases.training import TAG


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of a case's name; default: all")
    parser.add_argument("--record", action="store_true", help="append the results to bench/results")
    parser.add_argument("--quick", action="store_true", help="1 s a case in place of 10: a look, not a result")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    options = parser.parse_args(arguments)
    if options.record and options.quick:
        parser.error("--quick is a look, not a result: record a full run.")
    names = options.names or [""]
    if unknown := [name for name in names if not any(case.matches([TAG, name]) for case in all_cases())]:
        parser.error(f"no case of training has {unknown[0]!r} in its name; see `python -m bench list --filter {TAG}`")
    common = ["--device", options.device, *(["--quick"] if options.quick else [])]
    common += ["--threads", str(options.threads)] if options.threads is not None else []
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "training.jsonl"
        for name in names:
            status = max(status, bench.main(["run", "--filter", TAG, name, *common, "--out", str(out)]))
        found = record.read([out]) if out.exists() else []
    if options.record and found:
        record.append(record.results_file(found[0]), found)
    print(f"\n{render.rates(found)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
