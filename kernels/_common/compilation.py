"""How an op says which configurations of its kernels it ships, and what each of them promises.

`kernels/<op>/configurations.py` holds the numbers that the launcher chooses (block sizes, warps), which `triton.py`
imports from there, and `jobs() -> list[Job]`: one for each way in which the launcher starts a kernel in earnest. It
imports no triton. `tests/compile` finds all these files, compiles the jobs for GPUs that need not be there and checks
the promises; `python -m bench.compile_report` prints the table. For example:

    def jobs() -> list[Job]:
        return [
            Job(
                name="scale float16",
                module="fastgen.kernels.scale.triton",
                kernel="_scale_kernel",
                signature={"x_ptr": "*fp16", "out_ptr": "*fp16", "factor": "fp32", "n": "i32:16"},
                constants={"BLOCK": BLOCK},
                options={"num_warps": NUM_WARPS},
                promises=Promises(wide_loads=1, max_registers=32),
            )
        ]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ARCHS = (80, 90, 100)
TENSOR_CORES = ("none", "any", "native")


@dataclass(frozen=True)
class Promises:
    """What must hold of a compiled kernel. A bound of None is not checked.

    Attributes:
        max_registers: most registers of a thread.
        max_stack: most bytes of stack of a thread; anything above 0 is spilled registers and needs `stack_reason`.
        stack_reason: why the kernel is right to spill.
        max_shared: most bytes of shared memory of a program.
        max_instructions: most instructions, a proxy for the issue slots of code without loops.
        wide_loads: at least so many loads from global memory of 128 bits a thread or wider, copies straight to shared
            memory and those of the tensor memory accelerator included.
        wide_stores: at least so many such stores.
        tensor_cores: "native": matrix instructions of the architecture's own generation (HMMA on sm_80, HGMMA on
            sm_90, UTC*MMA on sm_100); "any": of any generation (a tile of fewer than 64 rows can have no other);
            "none": nothing is promised.
    """

    max_registers: int | None = None
    max_stack: int = 0
    stack_reason: str = ""
    max_shared: int | None = None
    max_instructions: int | None = None
    wide_loads: int = 0
    wide_stores: int = 0
    tensor_cores: str = "none"

    def __post_init__(self) -> None:
        """Refuse a spill without a reason, and a word that means nothing."""
        if self.max_stack and not self.stack_reason:
            raise ValueError(
                f"Promises: a kernel that spills says why; got max_stack={self.max_stack} and no stack_reason; "
                "write the reason or give the kernel fewer registers to hold."
            )
        if self.tensor_cores not in TENSOR_CORES:
            raise ValueError(
                f"Promises: tensor_cores must be one of {', '.join(map(repr, TENSOR_CORES))}; "
                f"got {self.tensor_cores!r}."
            )


@dataclass(frozen=True)
class Job:
    """One configuration of a kernel, written down as its launcher starts it.

    Attributes:
        name: what is special about it, unique within the op: "backward bfloat16 channels last".
        module: where the kernel is, "fastgen.kernels.<op>.triton".
        kernel: its name there.
        signature: argument -> Triton's type, "*fp32" or "i32", with ":16" where the value is known to be a multiple
            of 16 (pointers always are). Every argument is here or in `constants`.
        constants: argument -> value, for constexprs and for integers that are 1 at launch, which Triton also takes as
            constants.
        options: num_warps, num_stages and the like.
        archs: compute capabilities times ten that it ships for. Where one of them wants other constants, write
            another job.
        promises: what must hold on all of `archs`.
        in_suite: the part of `archs` that the tests compile; the report compiles all.
    """

    name: str
    module: str
    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    archs: tuple[int, ...] = ARCHS
    promises: Promises = Promises()
    in_suite: tuple[int, ...] = (90,)

    def __post_init__(self) -> None:
        """Refuse an argument that is given twice, and tests for architectures that it does not ship for."""
        twice = set(self.signature) & set(self.constants)
        if twice:
            raise ValueError(
                f"Job {self.name!r}: an argument has a type or a value; got both for {', '.join(sorted(twice))}."
            )
        if not self.archs or not set(self.in_suite) <= set(self.archs):
            raise ValueError(
                f"Job {self.name!r}: in_suite must be a part of archs; got {self.in_suite} of {self.archs}."
            )

    @property
    def op(self) -> str:
        """The folder of its kernel: "dmol"."""
        return self.module.split(".")[-2]


@dataclass(frozen=True)
class Compiled:
    """What a kernel takes once it is compiled: counts of instructions are of its code, not of what is executed."""

    registers: int
    stack: int
    shared: int
    instructions: int
    loads: int
    wide_loads: int
    stores: int
    wide_stores: int
    special: int
    tensor_cores: int
    native_tensor_cores: int


def broken_promises(promises: Promises, compiled: Compiled) -> list[str]:
    """Say which promises a compiled kernel breaks; an empty list if none."""
    broken = []
    for what in ("registers", "stack", "shared", "instructions"):
        most, got = getattr(promises, f"max_{what}"), getattr(compiled, what)
        if most is not None and got > most:
            broken.append(f"{what} {got} > {most}")
    for what in ("wide_loads", "wide_stores"):
        least, got = getattr(promises, what), getattr(compiled, what)
        if got < least:
            broken.append(f"{what} {got} < {least}")
    if promises.tensor_cores == "any" and not compiled.tensor_cores:
        broken.append("no tensor-core instruction")
    if promises.tensor_cores == "native" and not compiled.native_tensor_cores:
        broken.append(f"no tensor-core instruction of its own generation ({compiled.tensor_cores} older ones)")
    return broken
