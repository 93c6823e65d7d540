"""What a run leaves behind: JSON lines that say what was measured, on what, with which code."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def environment(device: str) -> Record:
    """Describe the machine and the code: device, threads, versions, commit, whether it was edited; and when.

    `source` is a hash of the package's own files, which names the code also where there is no git.
    """
    return {
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "fastgen", "kernels", "bench/*.py", "bench/cases")),
        "source": source_hash(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def device_name(device: str) -> str:
    """Name the GPU, or the processor's model."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def results_file(env: Record) -> Path:
    """Return bench/results/<device>.jsonl for an environment; processors also by their number of threads."""
    name = re.sub(r"\((r|tm)\)", "", env["device_name"].lower())
    slug = re.sub(r"[^a-z0-9.]+", "-", name).strip("-")
    return RESULTS / (f"{slug}.jsonl" if env["device"] == "cuda" else f"{slug}-{env['threads']}-threads.jsonl")


def append(path: Path, records: list[Record]) -> None:
    """Add records to a JSON-lines file, in one write, so that a run cut short leaves whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def read(paths: list[Path]) -> list[Record]:
    """Read JSON-lines files.

    Raises:
        ValueError: a line is not a JSON object.
    """
    records = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: each line must be a JSON object; {error}; remove the line."
                ) from None
            records.append(record)
    return records


def source_hash() -> str:
    """Hash every file of code of fastgen and kernels."""
    digest = hashlib.sha256()
    found = (path for top in ("fastgen", "kernels") for path in (ROOT / top).rglob("*"))
    for path in sorted(path for path in found if path.suffix in (".py", ".c", ".h")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
