"""Compile every shipped kernel for GPUs that need not be here, and print what each takes.

    python -m bench.compile_report [--arch 90] [--filter WORD ...] [--workers 2]

The configurations come from `kernels/<op>/configurations.py`; see `fastgen.kernels._common.compilation`. The exit
status is 1 if a promise is broken or a kernel does not compile. Triton's own cache on disk, keyed by the source, makes
a second run quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from fastgen.kernels._common.compilation import ARCHS, Compiled, Job, broken_promises

KERNELS = Path(__file__).resolve().parent.parent / "kernels"

# What is counted in the disassembly. A change here needs another NAME_IN_CACHE.
NATIVE = {8: r"\bHMMA", 9: r"\b[HIQB]GMMA", 10: r"\bUTC\w*MMA"}  # by the generation of the architecture
PATTERNS = {
    "instructions": r"/\*[0-9a-f]{4,}\*/",
    "loads": r"\b(LDG|LDGSTS|UTMALDG)\b",
    "wide_loads": r"\bLDG(STS)?\S*\.(128|256)|\bUTMALDG\b",
    "stores": r"\b(STG|UTMASTG)\b",
    "wide_stores": r"\bSTG\S*\.(128|256)|\bUTMASTG\b",
    "special": r"\bMUFU",
    "tensor_cores": r"\b([DHIQBO]MMA|[HIQB]GMMA|UTC\w*MMA)",
}
NAME_IN_CACHE = "fastgen_counts_2.json"


def shipped() -> list[Job]:
    """Collect the jobs of every op, in the order of their folders.

    Raises:
        ValueError: two jobs of an op have one name.
    """
    found: list[Job] = []
    for path in sorted(KERNELS.glob("*/configurations.py")):
        jobs = importlib.import_module(f"fastgen.kernels.{path.parent.name}.configurations").jobs()
        names = [job.name for job in jobs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{path}: the names of an op's jobs must be unique; {name!r} is there twice.")
        found += jobs
    return found


def compile_job(job: Job, arch: int) -> Compiled:
    """Compile a kernel, in a process that does not interpret kernels.

    Raises:
        RuntimeError: this process interprets kernels, or an argument of the kernel is not in the job.
    """
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise RuntimeError("compile_job: interpreted kernels cannot be compiled; unset TRITON_INTERPRET.")
    function = getattr(importlib.import_module(job.module), job.kernel)  # its tiling module sets an option of triton
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.cache import get_cache_manager

    given = {*job.signature, *job.constants}
    if given != set(function.arg_names):
        raise RuntimeError(
            f"compile_job: {job.name!r} must give the arguments of {job.kernel}; "
            f"missing {sorted(set(function.arg_names) - given)}, unknown {sorted(given - set(function.arg_names))}."
        )
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(function.arg_names):
        if name in job.constants:
            signature[name] = "constexpr"
            constants[(position,)] = job.constants[name]
            continue
        kind = job.signature[name]
        signature[name] = kind.removesuffix(":16")
        if kind.startswith("*") or kind.endswith(":16"):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(job.options))
    cache = get_cache_manager(kernel.hash)
    cached = cache.get_file(NAME_IN_CACHE)
    if cached is not None:
        return Compiled(**json.loads(Path(cached).read_text()))
    compiled = _inspect(kernel, Path(triton.__file__).parent / "backends/nvidia/bin", arch)
    cache.put(json.dumps(dataclasses.asdict(compiled)), NAME_IN_CACHE, binary=False)
    return compiled


def _inspect(kernel: Any, tools: Path, arch: int) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", file.name)
        assembly = _run(tools / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"compile_report: no resource usage in {usage!r}.")
    counts = {what: sum(1 for _ in re.finditer(pattern, assembly)) for what, pattern in PATTERNS.items()}
    native = sum(1 for _ in re.finditer(NATIVE.get(arch // 10, PATTERNS["tensor_cores"]), assembly))
    return Compiled(
        registers=int(found[1]),
        stack=int(found[2]),
        shared=kernel.metadata.shared,
        native_tensor_cores=native,
        **counts,
    )


def _run(program: Path, *arguments: str) -> str:
    """Run one of the tools that come with Triton."""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


def compilers(workers: int = 2) -> Executor:
    """Processes that do not interpret kernels, whatever this one does: for `compile_job`."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_do_not_interpret)


def _do_not_interpret() -> None:
    os.environ.pop("TRITON_INTERPRET", None)  # read when triton is imported, which is later


def selected(jobs: Iterable[Job], archs: Sequence[int], words: Sequence[str]) -> list[tuple[Job, int]]:
    """The jobs that have every word in their op, kernel or name, with each of `archs` that they ship for."""
    chosen = []
    for job in jobs:
        text = f"{job.op} {job.kernel} {job.name}"
        if all(word in text for word in words):
            chosen += [(job, arch) for arch in job.archs if arch in archs]
    return chosen


COLUMNS = (
    "op", "kernel", "configuration", "arch", "registers", "stack", "shared", "instructions", "loads", "wide", "stores",
    "wide", "tensor",
)  # fmt: skip


def row(job: Job, arch: int, compiled: Compiled) -> tuple[str, ...]:
    """A line of the table."""
    counts = (
        compiled.registers, compiled.stack, compiled.shared, compiled.instructions, compiled.loads, compiled.wide_loads,
        compiled.stores, compiled.wide_stores, compiled.tensor_cores,
    )  # fmt: skip
    return job.op, job.kernel.strip("_").removesuffix("_kernel"), job.name, f"sm_{arch}", *map(str, counts)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of equal width, words to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 4 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in (COLUMNS, *rows)
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compile_report", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, nargs="*", default=list(ARCHS), help="compute capability times ten")
    parser.add_argument("--filter", nargs="*", default=[], metavar="WORD", help="in the op, kernel or configuration")
    parser.add_argument("--workers", type=int, default=2, help="processes that compile")
    options = parser.parse_args(arguments)
    chosen = selected(shipped(), options.arch, options.filter)
    if not chosen:
        print(f"bench.compile_report: no configuration matches {options.filter} on {options.arch}.", file=sys.stderr)
        return 2
    rows, wrong = [], []
    with compilers(options.workers) as pool:
        for (job, arch), future in [(task, pool.submit(compile_job, *task)) for task in chosen]:
            where = f"{job.op}: {job.name}, sm_{arch}"
            try:
                compiled = future.result()
            except Exception as error:
                wrong.append(f"{where}: does not compile: {type(error).__name__}: {error}")
                continue
            rows.append(row(job, arch, compiled))
            wrong += [f"{where}: {promise}" for promise in broken_promises(job.promises, compiled)]
    print(table(rows))
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(rows)} of {len(chosen)} compiled, {len(wrong)} broken promises", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
