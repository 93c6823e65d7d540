"""Where compiled ops may run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen._cpu import eager

needs_compiler = pytest.mark.skipif(not eager.compiles(), reason="no C compiler that knows OpenMP")


@needs_compiler
def test_tensors_of_a_cpu_in_eager_mode() -> None:
    class Marked(torch.Tensor):
        pass

    x = torch.zeros(3)
    assert eager.runs_on(x) and eager.runs_on(x.double()) and eager.runs_on(torch.nn.Parameter(x))
    for other in (x.half(), x.long(), x[:0], x.to("meta"), x.as_subclass(Marked)):
        assert not eager.runs_on(other)
    with TorchDispatchMode():
        assert not eager.runs_on(x)
    assert not torch.compile(eager.runs_on, backend="eager")(x)


ONE_RUNTIME = """
import re, torch
from fastgen._cpu import eager
torch.ones(1 << 20).exp_()
assert eager.compiles()
maps = {line.split()[-1] for line in open("/proc/self/maps")}
print(len([name for name in maps if re.search(r"/lib(gomp|iomp|omp)[-.\\w]*\\.so", name)]))
"""


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell what is loaded")
def test_threads_are_those_of_pytorch() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_RUNTIME], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_compiler_without_openmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrapper = tmp_path / "cc"
    wrapper.write_text('#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec gcc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "cache"))
    code = "import torch; from fastgen._cpu import eager; print(eager.runs_on(torch.zeros(3)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
