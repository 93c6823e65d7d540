"""Write one HTML page of a run: samples, curves, figures, configuration, environment; it needs no other file.

What other commands left in the run's folder is shown too: pictures, and figures that `fastgen eval RUN --json
RUN/eval.json` wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastgen.cli import _runs

SUMMARY = "one HTML page of a run: samples, curves, figures, settings"
NAME = "report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_path", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("-n", type=int, default=40, help="images to draw, of signals at most 4; 0: none (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of their noise (default: 0)")
    parser.add_argument("--out", type=Path, help=f"an .html file (default: {NAME} in RUN)")
    _runs.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Read, draw and write."""
    out = args.out or args.run_path / NAME
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out: the report is a page, .html; got {out}")
    if args.n < 0:
        raise ValueError(f"-n: it must be 0 or more; got {args.n}")

    from fastgen.report.drawings import drawings
    from fastgen.report.page import read_run, write_page

    files = read_run(args.run_path)
    model = _runs.load_model(args.run_path, args.device)
    drawn = drawings(model, files.recipe, args.n, args.seed) if args.n else []
    write_page(out, files, model, drawn)
    print(f"report: {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    return 0
