"""The command `fastgen`: one file per subcommand; none imports torch before it has to."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastgen._version import __version__

COMMANDS = (
    "train",
    "sample",
    "complete",
    "reconstruct",
    "translate",
    "interpolate",
    "traverse",
    "neighbours",
    "arithmetic",
    "eval",
    "report",
    "compress",
    "decompress",
    "demo",
    "models",
    "doctor",
)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastgen: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `fastgen` with every subcommand."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _Parser(
        prog="fastgen",
        description="Train, sample, complete and evaluate generative models of images and sounds.",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"fastgen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"fastgen.cli.{name}")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 a check failed, 2 an error (one line on stderr)."""
    args = build_parser().parse_args(argv)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("fastgen: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            raise
        text = " ".join(str(error).split())
        if not isinstance(error, (ValueError, OSError, FloatingPointError)):
            text = f"{type(error).__name__}: {text} (--debug shows where)"
        print(f"fastgen: {text}", file=sys.stderr)
        return 2
