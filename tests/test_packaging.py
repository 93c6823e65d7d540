"""Four ways in: a wheel, an editable install, a bare checkout, pytest. Each loads a file once, by one name.

`kernels` is the name of somebody else's package, so none of our files may be loaded under it; and a file
loaded under two names would register its ops twice. Each way runs in a process of its own that watches both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = (ROOT / "fastgen/_version.py").read_text(encoding="utf-8").split('"')[-2]

# Run by each way in: counts the definitions of our ops, imports all our modules, says what it found.
PROBE = """
import collections, importlib, json, pkgutil, sys
import torch

DEFINED = collections.Counter()
define = torch.library.Library.define

def counting_define(self, schema, *args, **kwargs):
    if self.ns == "fastgen":
        DEFINED[str(schema).partition("(")[0].rpartition("::")[2]] += 1
    return define(self, schema, *args, **kwargs)

torch.library.Library.define = counting_define

def report(path):
    import fastgen
    names = [m.name for m in pkgutil.walk_packages(fastgen.__path__, "fastgen.")]
    namespaces = [m.name for n in ("fastgen.kernels", "fastgen.kernels._common")
                  for m in pkgutil.walk_packages(importlib.import_module(n).__path__, n + ".")]
    skipped = [n for n in {*names, *namespaces} if n.endswith((".triton", ".tiling", "__main__"))]
    for name in {*names, *namespaces} - set(skipped):
        importlib.import_module(name)
    files = collections.defaultdict(list)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if "/fastgen/" in file or "/kernels/" in file:
            files[file.replace("/fastgen/kernels/", "/kernels/")].append(name)
    with open(path, "w") as out:
        json.dump({
            "file": fastgen.__file__,
            "version": fastgen.__version__,
            "defined": DEFINED,
            "modules": sorted(n for n in sys.modules if n.partition(".")[0] == "fastgen"),
            "named_kernels": [n for n in sys.modules if n.partition(".")[0] == "kernels"],
            "loaded_twice": [n for n in files.values() if len(n) > 1],
        }, out)

def pytest_collection_finish(session):
    report(session.config.rootpath / "probe.json")
"""


def run(command: list[str | os.PathLike[str]], cwd: Path, **environment: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "COV_"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with fastgen_probe.py."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "fastgen_probe.py").write_text(PROBE)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the real one."""
    folder = tmp_path_factory.mktemp("checkout") / "fastgen-checkout"
    folder.mkdir()
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for name in ("fastgen", "kernels", "tests", "bench"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=junk)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def make_environment(folder: Path) -> Path:
    """Make an environment with the dependencies of this one, by links, and nothing of ours; return python."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    for path in sys.path:
        if Path(path).name in ("site-packages", "dist-packages"):
            for entry in Path(path).iterdir():
                ours = entry.name.startswith(("fastgen", "__editable__")) or entry.suffix == ".pth"
                if not ours and not (site / entry.name).exists():
                    (site / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    absent = "import torch, importlib.util as u; assert u.find_spec('fastgen') is None"
    run([python, "-I", "-c", absent], folder)
    return python


def install(python: Path, cwd: Path, *what: str | os.PathLike[str]) -> None:
    run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
         "--no-build-isolation", "--disable-pip-version-check", *what],
        cwd,
    )  # fmt: skip


def run_probe(python: Path | str, probe: Path, cwd: Path, out: Path, *flags: str, **environment: str) -> dict[str, Any]:
    code = f"import sys; sys.path.append({str(probe)!r}); import fastgen_probe as p; p.report({str(out)!r})"
    run([python, *flags, "-c", code], cwd, **environment)
    return json.loads(out.read_text())


def check(found: dict[str, Any], location: Path) -> None:
    assert Path(found["file"]).resolve() == location.resolve() / "fastgen" / "__init__.py"
    assert found["version"] == VERSION
    assert not found["named_kernels"]
    assert not found["loaded_twice"]
    assert "fastgen.kernels.dmol.api" in found["modules"]
    assert found["defined"], "no op was registered at all"
    assert {name: times for name, times in found["defined"].items() if times != 1} == {}


@pytest.mark.slow
def test_wheel_in_a_clean_environment(checkout: Path, probe: Path, tmp_path: Path) -> None:
    # By way of the source distribution, which must be whole too.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", checkout], tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    python = make_environment(tmp_path / "env")
    install(python, tmp_path, wheel)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    check(run_probe(python, probe, tmp_path, tmp_path / "found.json", "-I"), site)

    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastgen").rglob("*.*") if path.is_file()}
    ours |= {
        f"fastgen/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "kernels").rglob("*.*") if path.is_file()
    }
    missing = {name for name in ours if "__pycache__" not in name and not (site / name).exists()}
    assert not missing, f"files that the wheel lacks: {sorted(missing)}"
    assert {path.name for path in site.iterdir() if path.name in ("kernels", "tests", "bench")} == set()
    run([tmp_path / "env" / "bin" / "fastgen", "--version"], tmp_path)


@pytest.mark.slow
def test_editable_install(checkout: Path, probe: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    install(python, tmp_path, "-e", checkout)
    check(run_probe(python, probe, tmp_path, tmp_path / "found.json", "-I"), checkout)


def test_bare_checkout(checkout: Path, probe: Path, tmp_path: Path) -> None:
    check(run_probe(sys.executable, probe, checkout, tmp_path / "found.json", PYTHONPATH="."), checkout)


@pytest.mark.slow
def test_pytest(checkout: Path, probe: Path) -> None:
    run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "fastgen_probe", "tests"],
        checkout,
        PYTHONPATH=os.fspath(probe),
    )
    check(json.loads((checkout / "probe.json").read_text()), checkout)
