"""One command for a machine with a GPU: `PYTHONPATH=. python -m bench.gpu`. No network, nothing installed.

Stages, each with a limit of its own, under ten minutes together: the machine, the tests marked `gpu`, every
kernel under compute-sanitizer (memcheck, then racecheck), the benchmarks. A stage that fails or runs out of time does
not stop the next one, and the exit status is 1 if any did. Logs and JSON lines go to $OUT, or ./bench_out.
Two stages, `--only sampling` and `--only training`, measure sampling at all batch sizes and whole training steps; each
takes all the time that there is.
`--resume` leaves out what already ended well there, for the same sources.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.record import ROOT, source_hash

TOTAL_S = 580.0
TAIL_LINES = 15
NAMES = ("machine", "tests", "memcheck", "racecheck", "bench", "sampling", "training")
ALONE = ("sampling", "training")  # run only where they are asked for
SANITIZER_ERROR = 9  # an exit status that nothing else in the stage uses


@dataclass(frozen=True)
class Stage:
    """A command, where its output goes, and the seconds that it may take."""

    name: str
    command: list[str]
    limit_s: float
    environment: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "ok", "failed", "timed out" or "missing" (its program is not here)."""

    stage: str
    status: str
    seconds: float
    detail: str


def find_sanitizer() -> str | None:
    """Find compute-sanitizer on PATH or in the CUDA toolkit."""
    found = shutil.which("compute-sanitizer")
    if found:
        return found
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for home in homes:
        for part in ("bin", "compute-sanitizer"):
            path = Path(home or "/", part, "compute-sanitizer")
            if path.is_file():
                return os.fspath(path)
    return None


def stages(out: Path, only: list[str]) -> list[Stage]:
    """List the stages in order; those not named in `only` are left out (if it is empty, those that run alone)."""
    python = sys.executable
    tests = [
        python,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "--durations=10",
        f"--junitxml={out / 'gpu-tests.xml'}",
        "tests",
    ]
    sanitizer = find_sanitizer() or "compute-sanitizer"
    memcheck, racecheck = (
        [
            *(sanitizer, "--tool", tool, "--error-exitcode", str(SANITIZER_ERROR), "--print-limit", "20"),
            *(python, "-m", "bench.sanitize"),
        ]
        for tool in ("memcheck", "racecheck")
    )
    run = [python, "-m", "bench", "run", "--device", "cuda"]
    bench = [*run, "--seconds", "170", "--without", "sampling-gpu", "training", "--out", str(out / "bench.jsonl")]
    sampling = [*run, "--seconds", "500", "--filter", "sampling-gpu", "--out", str(out / "sampling.jsonl")]
    training = [*run, "--seconds", "500", "--filter", "training", "--out", str(out / "training.jsonl")]
    every = [
        Stage("machine", [python, "-m", "bench.gpu", "--describe"], 30, {}),
        Stage("tests", tests, 180, {}),
        # Without the caching allocator each tensor is an allocation of its own, so that overruns are seen.
        Stage("memcheck", memcheck, 85, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
        Stage("racecheck", racecheck, 85, {}),
        Stage("bench", bench, 200, {}),
        Stage("sampling", sampling, 560, {}),
        Stage("training", training, 560, {}),
    ]
    return [stage for stage in every if stage.name in (only or NAMES) and (only or stage.name not in ALONE)]


def ended_well(out: Path) -> set[str]:
    """The stages whose last run into a folder succeeded, on the sources as they are."""
    last: dict[str, bool] = {}
    path = out / "gpu.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        last[record["stage"]] = record["status"] == "ok" and record.get("source") == source_hash()
    return {stage for stage, ok in last.items() if ok}


def run_stage(stage: Stage, out: Path, limit_s: float) -> Outcome:
    """Run a stage with its output in <out>/<name>.log; kill it and what it started when its time is up."""
    start = time.monotonic()
    log = out / f"{stage.name}.log"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | stage.environment
    try:
        with log.open("wb") as file:
            process = subprocess.Popen(
                stage.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=limit_s)
                status = "ok" if code == 0 else "failed"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                code, status = process.wait(), "timed out"
    except FileNotFoundError:
        return Outcome(stage.name, "missing", time.monotonic() - start, f"{stage.command[0]} is not here")
    lines = log.read_text(errors="replace").strip().splitlines()
    closing = lines[-1] if lines else "no output"
    if status != "ok":
        print(f"--- {stage.name}: {status}, exit {code}; the end of {log}:")
        print("\n".join(lines[-TAIL_LINES:]), flush=True)
    return Outcome(
        stage.name, status, time.monotonic() - start, closing if status == "ok" else f"exit {code}: {closing}"
    )


def describe() -> int:
    """Print the GPU, the driver and the versions; fail where torch sees no CUDA device."""
    import torch

    from bench.record import environment

    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        subprocess.run(query, check=False)
    if not torch.cuda.is_available():
        print("bench.gpu: needs a CUDA device; torch sees none.")
        return 1
    print(json.dumps(environment("cuda")))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the stages; return 0 only if all of them succeeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[])
    parser.add_argument("--resume", action="store_true", help="leave out the stages that ended well in an earlier run")
    parser.add_argument("--describe", action="store_true", help="print the machine and stop")
    options = parser.parse_args(arguments)
    if options.describe:
        return describe()
    out = Path(os.environ.get("OUT") or "bench_out").resolve()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    outcomes = []
    done = ended_well(out) if options.resume else set()
    for stage in stages(out, options.only):
        if stage.name in done:
            print(f"{stage.name}: ended well before", flush=True)
            continue
        left = TOTAL_S - (time.monotonic() - start)
        print(f"{stage.name}: {' '.join(stage.command)}", flush=True)
        outcomes.append(run_stage(stage, out, max(1.0, min(stage.limit_s, left))))
        with (out / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcomes[-1]) | {"source": source_hash()}) + "\n")
    print("\n| stage | status | seconds | last line |\n|---|---|--:|---|")
    for outcome in outcomes:
        print(f"| {outcome.stage} | {outcome.status} | {outcome.seconds:.0f} | {outcome.detail} |")
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
