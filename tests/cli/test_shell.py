"""The shell's side: help without torch, errors of one line, exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastgen import __version__
from fastgen.cli import COMMANDS, main

Fastgen = Callable[..., tuple[int, str, str]]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_no_help_imports_torch() -> None:
    code = f"""
import contextlib, io, sys
from fastgen.cli import main
for command in {["", *COMMANDS]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    assert "usage: fastgen" in text.getvalue(), command
heavy = [name for name in ("torch", "numpy", "PIL", "tqdm", "safetensors", "sklearn") if name in sys.modules]
sys.exit(", ".join(heavy) or None)
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_by_both_ways_in(fastgen: Fastgen) -> None:
    assert fastgen("--version") == (0, f"fastgen {__version__}\n", "")
    module = subprocess.run([sys.executable, "-m", "fastgen", "--version"], capture_output=True, check=True)
    assert module.stdout.decode().strip() == f"fastgen {__version__}"


def test_help_of_every_command_says_what_it_does(fastgen: Fastgen) -> None:
    everything = fastgen("--help")[1]
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s+\w", everything, re.MULTILINE)
        code, out, _ = fastgen(command, "--help")
        assert code == 0 and f"usage: fastgen {command}" in out
    assert "mnist5k-demo" in fastgen("train", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "a recipe must be named; got none; give RECIPE or --config"),
        (["train", "mnist5k-dem"], "unknown recipe 'mnist5k-dem'; did you mean mnist5k-demo"),
        (["train", "mnist5k-demo", "--set", "lrr=1"], "unknown recipe key 'lrr'; did you mean lr"),
        (["train", "mnist5k-demo", "--steps", "0"], "--steps: must be a positive integer; got '0'"),
        (["train", "mnist5k-demo", "--seconds", "-3"], "seconds must be positive"),
        (["train", "mnist5k-demo", "--steps", "3", "--seconds", "3"], "not allowed with argument"),
        (["train", "mnist5k-demo", "--size", "3x"], "a size is N or HxW, for example 28 or 32x48; got '3x'"),
        (["train", "mnist5k-demo", "--data", "mnist5", "--out", "{tmp}/run"], "did you mean mnist5k"),
        (["train", "mnist5k-demo", "--device", "cuda:99", "--out", "{tmp}/run"], "'cuda:99' cannot be used here"),
        (["sample", "{tmp}/nowhere"], "{tmp}/nowhere does not exist"),
        (["sample", "{tmp}"], "{tmp} has no model.safetensors"),
        (["sample", "{tmp}/text"], "{tmp}/text"),
        (["sample", "{run}", "--class", "3"], "labels are 0 to 2; got 3"),
        (["sample", "{run}", "--class", "three"], "labels are integers like 3 or 0,1,2"),
        (["sample", "{run}", "--method", "cachd"], "did you mean cached"),
        (["sample", "{run}", "--temperature", "-1"], "temperature must not be negative"),
        (["sample", "{run}", "-n", "1", "--out", "{tmp}/s.jpg"], "a grid is written as .png"),
        (["complete", "{run}", "{tmp}/none.png"], "no image at"),
        (["complete", "{run}", "{tmp}/text"], "PIL can decode"),
        (["eval", "{tmp}/nowhere"], "does not exist"),
    ],
)
def test_an_error_is_one_line_and_code_2(
    fastgen: Fastgen, trained: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text").write_text("not a model, not an image")
    here = {"tmp": tmp_path, "run": trained}
    code, out, err = fastgen(*(argument.format(**here) for argument in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("fastgen: ") and err.count("\n") == 1 and err.endswith("\n")
    assert message.format(**here) in err
    assert not (tmp_path / "run").exists()


def test_an_error_that_nobody_foresaw_is_one_line_too(
    fastgen: Fastgen, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise KeyError("line\nbreak")

    monkeypatch.setattr("fastgen.models.serialization.load", boom)
    code, _, err = fastgen("sample", trained)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("fastgen: KeyError: ") and "--debug" in err


def test_debug_shows_where_on_either_side_of_the_command(tmp_path: Path) -> None:
    for arguments in (["--debug", "sample", str(tmp_path)], ["sample", str(tmp_path), "--debug"]):
        with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
            main(arguments)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = """
import subprocess, sys
command = [sys.executable, "-m", "fastgen", "train", "--help"]
train = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
train.stdout.close()
error = train.stderr.read()
sys.exit(error.decode() if b"Traceback" in error else 0)
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
