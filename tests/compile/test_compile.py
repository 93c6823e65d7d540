"""Every shipped configuration of every kernel compiles for the GPUs that it is written for and keeps its promises.

What is compiled here is each configuration for the architectures of its `in_suite`: by default sm_90 alone, and all of
them for a chosen few, so that this folder stays well under two minutes. `python -m bench.compile_report` compiles every
configuration for every architecture, and is what a change to a kernel is checked with.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from bench.compile_report import KERNELS, compile_job, compilers, main, selected, shipped
from fastgen.kernels._common.compilation import ARCHS, Compiled, Job, Promises, broken_promises

TASKS = [(job, arch) for job in shipped() for arch in job.in_suite]
Compile = Callable[[Job, int], Compiled]


def name_of(task: tuple[Job, int]) -> str:
    job, arch = task
    return f"{job.op}: {job.name}, sm_{arch}"


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> Iterator[Compile]:
    """Compile in two processes, all that the chosen tests will ask for at once."""
    pytest.importorskip("triton")
    with compilers(2) as pool:
        futures: dict[str, Future[Compiled]] = {}
        for item in request.session.items:
            task = getattr(item, "callspec", None) and item.callspec.params.get("task")
            if task:
                futures[name_of(task)] = pool.submit(compile_job, *task)

        def result(job: Job, arch: int) -> Compiled:
            future = futures.get(name_of((job, arch)))
            return (future if future is not None else pool.submit(compile_job, job, arch)).result(timeout=300)

        yield result
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_promises(compiled: Compile, task: tuple[Job, int]) -> None:
    job, arch = task
    found = compiled(job, arch)
    assert not broken_promises(job.promises, found), found


def kernels_of(path: Path) -> set[str]:
    """The functions of a file that a launcher starts: `name[grid](...)`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    jitted = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(mark) for mark in node.decorator_list)
    }
    started = {
        node.func.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name)
    }
    return jitted & started


@pytest.mark.parametrize("op", sorted(path.parent.name for path in KERNELS.glob("*/configurations.py")))
def test_every_kernel_that_is_launched_is_compiled(op: str) -> None:
    started = kernels_of(KERNELS / op / "triton.py")
    jobs = [job for job in shipped() if job.op == op]
    assert started, "no launch was recognised"
    assert started <= {job.kernel for job in jobs}
    in_suite = {(job.kernel, arch) for job in jobs for arch in job.in_suite}
    assert {(kernel, arch) for kernel in started for arch in ARCHS} <= in_suite, (
        "each kernel once for each architecture"
    )


SCALE = Job(
    name="a spilling matrix product that is none",
    module="fastgen.kernels.dmol.triton",
    kernel="_dmol_sample_kernel",
    signature={},
    constants={},
)


def test_a_job_must_give_the_arguments(compiled: Compile) -> None:
    with pytest.raises(RuntimeError, match=r"must give the arguments of _dmol_sample_kernel; missing \['BLOCK'"):
        compiled(SCALE, 90)


TAKEN = Compiled(
    registers=40,
    stack=8,
    shared=1024,
    instructions=100,
    loads=4,
    wide_loads=2,
    stores=1,
    wide_stores=1,
    special=0,
    tensor_cores=3,
    native_tensor_cores=0,
)


@pytest.mark.parametrize(
    ("promises", "broken"),
    [
        (Promises(), ["stack 8 > 0"]),
        (Promises(max_stack=8, stack_reason="a test"), []),
        (Promises(max_stack=8, stack_reason="a test", max_registers=39), ["registers 40 > 39"]),
        (Promises(max_stack=8, stack_reason="a test", max_shared=1023), ["shared 1024 > 1023"]),
        (Promises(max_stack=8, stack_reason="a test", max_instructions=99), ["instructions 100 > 99"]),
        (Promises(max_stack=8, stack_reason="a test", wide_loads=3, wide_stores=1), ["wide_loads 2 < 3"]),
        (Promises(max_stack=8, stack_reason="a test", wide_loads=2, wide_stores=2), ["wide_stores 1 < 2"]),
        (Promises(max_stack=8, stack_reason="a test", tensor_cores="any"), []),
        (
            Promises(max_stack=8, stack_reason="a test", tensor_cores="native"),
            ["no tensor-core instruction of its own generation (3 older ones)"],
        ),
    ],
)
def test_broken_promises(promises: Promises, broken: list[str]) -> None:
    assert broken_promises(promises, TAKEN) == broken


def test_misuse() -> None:
    with pytest.raises(ValueError, match="says why; got max_stack=8"):
        Promises(max_stack=8)
    with pytest.raises(ValueError, match="'none', 'any', 'native'; got 'some'"):
        Promises(tensor_cores="some")
    with pytest.raises(ValueError, match="got both for x_ptr"):
        Job("x", "fastgen.kernels.x.triton", "_x_kernel", {"x_ptr": "*fp32"}, {"x_ptr": 1})
    with pytest.raises(ValueError, match=r"got \(90,\) of \(80,\)"):
        Job("x", "fastgen.kernels.x.triton", "_x_kernel", {}, {}, archs=(80,))


def test_words_select() -> None:
    jobs = shipped()
    chosen = selected(jobs, (80, 90), ["dmol", "draw"])
    assert chosen and all("draw" in job.name and job.op == "dmol" and arch in (80, 90) for job, arch in chosen)
    assert len(selected(jobs, ARCHS, [])) == sum(len(job.archs) for job in jobs)


def test_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    draw = next(job for job in shipped() if job.kernel == "_dmol_sample_kernel")
    keeps, breaks = draw, Job(**{**vars(draw), "name": "breaks", "promises": Promises(wide_loads=10**6)})
    monkeypatch.setattr("bench.compile_report.shipped", lambda: [keeps])
    assert main(["--arch", "90", "--workers", "1"]) == 0
    monkeypatch.setattr("bench.compile_report.shipped", lambda: [keeps, breaks, SCALE])
    assert main(["--arch", "90", "--workers", "1"]) == 1
    assert main(["--filter", "nothing has this name"]) == 2
    out, errors = capsys.readouterr()
    assert "breaks, sm_90: wide_loads" in errors and "does not compile: RuntimeError" in errors
    assert out.count("sm_90") == 3 and "registers" in out
