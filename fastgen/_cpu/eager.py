"""Which tensors the compiled ops take: those of a CPU in eager mode, where there is a compiler that knows OpenMP."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import torch
from torch import Tensor

from fastgen._cpu.toolchain import CompilerError, load

REALS = {
    torch.float32: ("REAL=float", "INTEGER=int32_t"),
    torch.float64: ("REAL=double", "INTEGER=int64_t", "REAL_IS_DOUBLE"),
}
"""What a C file is compiled with for a dtype; see elementary.h."""


def eager_on_cpu(x: Tensor) -> bool:
    """Whether x holds numbers of a CPU, at least one, that nothing but eager mode looks at."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()  # somebody records operations
        and x.numel() > 0
    )


def runs_on(x: Tensor) -> bool:
    """Whether compiled ops can take x."""
    return x.dtype in REALS and eager_on_cpu(x) and compiles()


@functools.cache
def openmp() -> tuple[str, ...]:
    """Flags for the OpenMP library that PyTorch runs on: threads of a second one would be in its way."""
    try:
        mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:
        mapped = set()
    found = sorted(name for name in mapped if re.fullmatch(r"lib(gomp|iomp|omp)[-.\w]*\.so[.\d]*", Path(name).name))
    return ("-fopenmp", "-Wl,--as-needed", *found[:1])  # GCC's, Intel's and LLVM's know the same calls


@functools.cache
def compiles() -> bool:
    """Whether a compiler is there, and knows OpenMP."""
    try:
        return int(load(Path(__file__).with_name("probe.c"), (), openmp()).threads()) > 0
    except CompilerError:
        return False
