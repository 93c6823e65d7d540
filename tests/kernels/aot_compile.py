"""Compile kernels for GPUs that are not here and report what they take: jobs on stdin, reports on stdout.

A job is {"module", "kernel", "signature": {name: type}, "constants": {name: value}, "arch", "options"}; the words are
those of `fastgen.kernels._common.compilation`. What an op ships is checked by `tests/compile`: this is for the tests of
one op that want to compile something else. Runs in a process of its own because the interpreter, which the other tests
use, is chosen for good at import.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.compile_report import compile_job
from fastgen.kernels._common.compilation import Job


def compile_one(job: dict[str, Any]) -> dict[str, int]:
    """The counts of `Compiled`, by name."""
    constants = {name: as_tuple(value) for name, value in job["constants"].items()}
    options = job.get("options", {})
    wanted = Job("offline", job["module"], job["kernel"], job["signature"], constants, options)
    return dataclasses.asdict(compile_job(wanted, job["arch"]))


def as_tuple(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    json.dump([compile_one(job) for job in json.load(sys.stdin)], sys.stdout)
