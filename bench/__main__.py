"""The command line: `python -m bench list`, `run`, `render`, `compare`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from bench import compare, record, render
from bench.case import all_cases
from bench.run import run_cases


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="print the cases")
    running = commands.add_parser("run", help="measure cases")
    for command in (listing, running):
        command.add_argument(
            "--filter",
            nargs="*",
            default=[],
            metavar="WORD",
            help="only cases with each WORD in the name or as a tag",
        )
    running.add_argument(
        "--without", nargs="+", default=[], metavar="WORD", help="leave out cases with a WORD in the name or as a tag"
    )
    running.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    running.add_argument("--quick", action="store_true", help="1 s a case in place of 10: a look, not a result")
    running.add_argument(
        "--seconds", type=float, help="stop starting cases after this long; what is left counts as failed"
    )
    running.add_argument("--threads", type=int, help="torch threads (recorded; default: torch's own)")
    target = running.add_mutually_exclusive_group()
    target.add_argument("--out", type=Path, help="append JSON lines to this file")
    target.add_argument("--record", action="store_true", help="append them to bench/results/<device>.jsonl")

    rendering = commands.add_parser("render", help="print recorded results as Markdown tables")
    rendering.add_argument("files", nargs="*", type=Path, help="default: bench/results/*.jsonl")
    readme = rendering.add_mutually_exclusive_group()
    readme.add_argument(
        "--write", action="store_true", help="put the tables of the cases tagged 'readme' into README.md"
    )
    readme.add_argument("--check", action="store_true", help="fail if README.md does not hold those tables")

    comparing = commands.add_parser("compare", help="set two recorded runs side by side")
    for side in ("before", "after"):
        comparing.add_argument(
            side, metavar="FILE|DEVICE[@COMMIT]", help=f"the run {side}: a file, or part of a device"
        )
    comparing.add_argument("--format", choices=compare.FORMATS, default="text")
    comparing.add_argument(
        "--fail-slower", type=float, metavar="PERCENT", help="fail if anything takes so much longer, beyond the noise"
    )

    options = parser.parse_args(arguments)
    if options.command == "run" and options.quick and options.record:
        parser.error("--quick is a look, not a result: record a full run.")
    if options.command == "list":
        for case in all_cases():
            if case.matches(options.filter):
                print(f"{case.name:<44} {'/'.join(case.devices):<9} {case.title}: {', '.join(case.variants)}")
        return 0
    return {"run": _run, "render": _render, "compare": _compare}[options.command](options)


def _run(options: argparse.Namespace) -> int:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        print("bench: --device cuda needs a CUDA device; torch sees none; use --device cpu.", file=sys.stderr)
        return 2
    chosen = [case for case in all_cases() if case.matches(options.filter) and device in case.devices]
    chosen = [case for case in chosen if not any(case.matches([word]) for word in options.without)]
    if not chosen:
        print(
            f"bench: no case on {device} matches {options.filter}; see `python -m bench list`.",
            file=sys.stderr,
        )
        return 2
    env = record.environment(device) | {"quick": options.quick}
    out = record.results_file(env) if options.record else options.out
    print(
        f"{env['device_name']}, {env['threads']} threads, torch {env['torch']}, triton {env['triton']}",
        flush=True,
    )
    budget_s = 1.0 if options.quick else 10.0
    if options.seconds is not None:
        budget_s = min(budget_s, options.seconds / len(chosen))
    failures = run_cases(chosen, device, env, budget_s=budget_s, total_s=options.seconds, out=out)
    if out is not None:
        print(f"recorded in {out}")
    if failures:
        print(f"bench: {failures} of {len(chosen)} cases failed.", file=sys.stderr)
    return 1 if failures else 0


def _render(options: argparse.Namespace) -> int:
    records = record.read(options.files) if options.files else render.recorded()
    if not (options.write or options.check):
        print(render.tables(records))
        return 0
    text = render.README.read_text(encoding="utf-8")
    wanted = render.with_tables(text, records)
    if options.write:
        render.README.write_text(wanted, encoding="utf-8")
        return 0
    if text != wanted:
        print(
            "README.md: its tables differ from bench/results; run `python -m bench render --write`.",
            file=sys.stderr,
        )
        return 1
    return 0


def _compare(options: argparse.Namespace) -> int:
    try:
        found = compare.compare(compare.select(options.before), compare.select(options.after))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(compare.table(found, options.format))
    slower = [] if options.fail_slower is None else found.slower_than(options.fail_slower)
    for row in slower:
        print(
            f"compare: {row.after['case']} ({row.after['variant']}) takes {row.ratio:.2f} times as long.",
            file=sys.stderr,
        )
    if options.fail_slower is not None and not found.rows:
        print("compare: nothing was compared.", file=sys.stderr)
        return 1
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
