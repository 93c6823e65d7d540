"""What the README names is there: imports, commands, models, data sets, files, Make targets."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from bench import render
from fastgen import data
from fastgen.cli import COMMANDS
from fastgen.models import MODELS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("block", PYTHON)
def test_python_parses_and_its_imports_resolve(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_there_is_code() -> None:
    assert len(PYTHON) >= 4 and any("import" in block for block in PYTHON)


def test_commands() -> None:
    named = set(re.findall(r"^fastgen (\w+)", TEXT, re.MULTILINE))
    assert named and named <= set(COMMANDS)


def test_models() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section("Models"), re.MULTILINE) == list(MODELS)


def test_data_names() -> None:
    sentence = section("Models").split("Data by name:")[1]
    assert set(re.findall(r"`([\w-]+)`", sentence)) == set(data.names())


def test_files_and_targets() -> None:
    files = re.findall(r"`((?:tests|bench|kernels|fastgen)/[\w/.]*)`", TEXT) + re.findall(r"\]\(([A-Z.\w]+)\)", TEXT)
    assert files and [name for name in files if not (ROOT / name).exists()] == []
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", TEXT, re.MULTILINE)) <= set(targets)


def test_markers_of_the_tables() -> None:
    rendered = render.with_tables(TEXT, [])
    assert rendered.count(render.BEGIN) == 1
    assert all(rendered.count(marker) == 1 for name in render.SECTIONS for marker in render.markers(name))
