"""Compile kernels for GPUs that are not here and report what they take: jobs on stdin, reports on stdout.

A job is {"module", "kernel", "signature": {name: type}, "constants": {name: value}, "arch", "options"}. A type is
Triton's, like "*fp32" or "i32", with ":16" after it where the value is known to be a multiple of 16, as pointers are.
Runs in a process of its own because the interpreter, which the other tests use, is chosen for good at import.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def compile_job(job: dict[str, Any]) -> dict[str, int]:
    """Registers a thread, bytes of stack (spills), shared memory, and counts of some instructions."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(job["module"]), job["kernel"])
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(function.arg_names):
        if name in job["constants"]:
            signature[name] = "constexpr"
            constants[name] = as_tuple(job["constants"][name])
            continue
        kind = job["signature"][name]
        signature[name] = kind.removesuffix(":16")
        if kind.startswith("*") or kind.endswith(":16"):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", job["arch"], 32), options=job.get("options", {}))

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = run(tools / "cuobjdump", "--dump-resource-usage", file.name)
        assembly = run(tools / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"aot_compile: no resource usage in {usage!r}")

    def count(pattern: str) -> int:
        return len(re.findall(pattern, assembly))

    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "shared": compiled.metadata.shared,
        "loads": count(r"\bLDG\b"),
        "wide_loads": count(r"\bLDG\S*\.128"),
        "stores": count(r"\bSTG\b"),
        "wide_stores": count(r"\bSTG\S*\.128"),
        "special": count(r"\bMUFU"),
        "instructions": count(r"/\*[0-9a-f]{4,}\*/"),
    }


def as_tuple(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


def run(program: Path, *arguments: str) -> str:
    """Run one of the tools that come with Triton."""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise SystemExit("aot_compile: unset TRITON_INTERPRET: interpreted kernels cannot be compiled.")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    json.dump([compile_job(job) for job in json.load(sys.stdin)], sys.stdout)
