"""The import graph has only the arrows of the design, and `import fastgen` is quick and needs no triton."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# part -> the parts that it may import besides itself. These are open to all.
SHARED = {"_files", "_leaf", "_names", "_cpu", "_version"}
BASE = {"functional"}
CORE = BASE | {"likelihoods", "nn"}
MODEL = CORE | {"sampling"}
UPPER = MODEL | {"models"}
ALLOWED = {
    **{part: set() for part in SHARED},
    "functional": {"kernels/<op>"},
    "likelihoods": BASE,
    "nn": CORE,
    # the counter-based noise is Philox's words, and the compiled program draws with the constants of the op
    "sampling": CORE | {"kernels/_common", "kernels/<op>"},
    "models": MODEL,
    "data": UPPER,
    "evaluation": UPPER | {"data"},
    "compat": BASE | {"nn"},
    "convert": UPPER,
    "codec": UPPER,
    "training": UPPER | {"data", "evaluation"},
    "report": UPPER | {"data", "evaluation", "training"},
    "cli": UPPER | {"codec", "data", "evaluation", "convert", "report", "training", "fastgen"},
    "__main__": {"cli"},
    # `fastgen/__init__.py` offers names of any part but the command line.
    "fastgen": UPPER | {"codec", "data", "evaluation", "convert", "training"},
}

# Imported by the parts that use them only, inside functions or in modules that the top package does not load.
SLOW_TO_IMPORT = (
    "triton",
    "sklearn",
    "matplotlib",
    "PIL",
    "tqdm",
    "safetensors",
    "scipy",
    "mlxtend",
    "torchvision",
    "torch_fidelity",
    "tensorboard",
    "wandb",
)


def sources() -> list[Path]:
    """All our files, each under its own name: fastgen/kernels is a link to kernels."""
    found = [path for top in ("fastgen", "kernels") for path in sorted((ROOT / top).rglob("*.py"))]
    return [path for path in found if not path.relative_to(ROOT).as_posix().startswith("fastgen/kernels/")]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        parts = ("fastgen", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, text: str) -> Iterator[str]:
    """Every module that a file may import, anywhere in it; 'a.b' for `import a.b` and `from a import b`."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def part_of(module: str) -> str:
    """'fastgen.models.pixelcnn' -> 'models'; 'fastgen.kernels.dmol.api' -> 'kernels/dmol'."""
    parts = module.split(".")
    if len(parts) == 1:
        return "fastgen"
    if parts[1] == "kernels":
        return "/".join(parts[1:3])
    return parts[1] if parts[1] in ALLOWED else "fastgen"  # a name of the top package itself, like __version__


def wrong_arrows(path: Path, text: str) -> list[str]:
    """Say what is wrong with the imports of one file; an empty list if nothing is."""
    module = module_name(path)
    own = part_of(module)
    wrong = []
    for target in imported(path, text):
        top = target.split(".")[0]
        where = f"{path.relative_to(ROOT)} imports {target}"
        if top in ("tests", "bench"):
            wrong.append(f"{where}: nothing imports tests or bench")
        elif top == "kernels":
            wrong.append(f"{where}: the name is fastgen.kernels")
        elif top == "triton" and not may_import_triton(module):
            wrong.append(f"{where}: only triton.py of an op and _common/tiling.py import triton")
        elif target.startswith("torch.library") and own.startswith("kernels/") and module != REGISTRATION:
            wrong.append(f"{where}: only _common/registration.py uses torch.library")
        elif top == "fastgen":
            there = part_of(target)
            if own.startswith("kernels/"):
                if there not in {own, "kernels/_common", *SHARED, *BUILT_ON.get(own, ())}:
                    wrong.append(f"{where}: an op knows itself, _common and what it is built on, not {there}")
                pair = {
                    module.rsplit(".", 1)[-1],
                    re.sub(rf"^fastgen\.{own.replace('/', '.')}\.", "", target).split(".")[0],
                }
                if own != "kernels/_common" and pair == {"reference", "triton"}:
                    wrong.append(f"{where}: an op's reference and its kernels do not know each other")
            elif there != own and there not in SHARED and not allowed(own, there):
                wrong.append(f"{where}: {own} may import {', '.join(sorted(ALLOWED[own])) or 'nothing of ours'}")
    return wrong


# op -> the ops that it is made of
BUILT_ON = {
    "kernels/output_head": {"kernels/dmol"},
    "kernels/pixel_step": {"kernels/dmol", "kernels/gated_activation"},
    "kernels/pixel_program": {"kernels/dmol", "kernels/gated_activation", "kernels/pixel_step"},
}

REGISTRATION = "fastgen.kernels._common.registration"


def may_import_triton(module: str) -> bool:
    return bool(re.fullmatch(r"fastgen\.kernels\.(?!_)\w+\.triton|fastgen\.kernels\._common\.tiling", module))


def allowed(own: str, there: str) -> bool:
    named = "kernels/<op>" if there.startswith("kernels/") and there != "kernels/_common" else there
    return named in ALLOWED[own]


def test_every_part_is_in_the_table() -> None:
    parts = {
        path.relative_to(ROOT / "fastgen").parts[0].removesuffix(".py")
        for path in sources()
        if "fastgen" in path.parts[len(ROOT.parts)]
    }
    assert parts - {"__init__"} <= set(ALLOWED), "give a new part its arrows in ALLOWED, and in CONTRIBUTING.md"


def test_arrows() -> None:
    wrong = [line for path in sources() for line in wrong_arrows(path, path.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fastgen/sampling/a.py", "from fastgen.models import PixelCNN"),
        ("fastgen/models/a.py", "from fastgen import training"),
        ("fastgen/models/a.py", "from fastgen import load"),
        ("fastgen/models/a.py", "def f():\n    from ..cli import main"),
        ("fastgen/nn/a.py", "import fastgen.kernels.dmol.api"),
        ("fastgen/nn/a.py", "import triton"),
        ("fastgen/data/a.py", "import importlib\nimportlib.import_module('bench.case')"),
        ("fastgen/functional.py", "from kernels.dmol import dmol_log_prob"),
        ("kernels/dmol/reference.py", "from fastgen.kernels.dmol import triton"),
        ("kernels/dmol/triton.py", "from .reference import dmol_log_prob_reference"),
        ("kernels/dmol/api.py", "from fastgen.kernels.bias_act.api import bias_act"),
        ("kernels/dmol/api.py", "from fastgen.likelihoods import Likelihood"),
        ("kernels/dmol/op.py", "from torch.library import custom_op"),
        ("kernels/_common/checks.py", "import triton.language as tl"),
    ],
)
def test_a_wrong_arrow_is_seen(path: str, text: str) -> None:
    assert wrong_arrows(ROOT / path, text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fastgen/cli/train.py", "from fastgen.training import train"),
        (
            "fastgen/models/__init__.py",
            "from .autoregressive import PixelCNN\nfrom fastgen._version import __version__",
        ),
        ("fastgen/sampling/noise.py", "from fastgen.kernels._common.philox import philox4x32"),
        ("kernels/dmol/triton.py", "import triton\nfrom fastgen.kernels._common.tiling import block_size"),
        ("kernels/dmol/op.py", "from .reference import dmol_log_prob_reference"),
    ],
)
def test_a_right_arrow_is_let_through(path: str, text: str) -> None:
    assert not wrong_arrows(ROOT / path, text)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_but_the_kernels_imports_without_triton() -> None:
    modules = [
        name for name in map(module_name, sources()) if not may_import_triton(name) and name != "fastgen.__main__"
    ]
    assert "fastgen" in modules
    run_python(f"""
        import importlib, sys

        class NoTriton:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "triton":
                    raise ModuleNotFoundError("No module named 'triton'", name="triton")

        sys.meta_path.insert(0, NoTriton())
        for name in {modules!r}:
            importlib.import_module(name)
        assert "triton" not in sys.modules
    """)


def test_import_loads_nothing_slow() -> None:
    loaded = run_python("""
        import sys, torch
        before = set(sys.modules)
        import fastgen
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """).split()
    assert "fastgen" in loaded
    assert not set(loaded) & set(SLOW_TO_IMPORT)


def test_import_time() -> None:
    # Processor time, so that a busy machine cannot fail it; the quickest of three, as caches may be cold.
    def seconds() -> float:
        return float(
            run_python("""
                import time, torch
                start = time.process_time()
                import fastgen
                print(time.process_time() - start)
            """)
        )

    times = []
    while len(times) < 3 and min(times, default=1.0) >= 0.3:
        times.append(seconds())
    assert min(times) < 0.3, f"import fastgen took {times} s over import torch"
