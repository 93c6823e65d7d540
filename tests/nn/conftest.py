"""Two processes that talk to each other over gloo, for what layers do under torch.distributed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TwoProcesses = Callable[[str], list[dict[str, Any]]]

START = """
import sys
import torch
import torch.distributed as dist

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
"""
END = """
torch.save(result, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture
def two_processes(tmp_path: Path) -> TwoProcesses:
    """Run a script as ranks 0 and 1, in which `dist` and `rank` are defined; return what each leaves in `result`."""
    if not torch.distributed.is_available():
        pytest.skip("needs torch.distributed")

    def run(code: str) -> list[dict[str, Any]]:
        script = tmp_path / "worker.py"
        script.write_text(START + textwrap.dedent(code) + END)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", str(script)]
        processes = [
            subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
            for rank in range(2)
        ]
        try:
            for process in processes:
                error = process.communicate(timeout=120)[1]
                assert process.returncode == 0, error.decode()[-2000:]
        finally:  # one that waits for the other, which failed, would wait for long
            for process in processes:
                process.kill()
                process.wait()
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    return run
