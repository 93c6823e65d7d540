"""Compile a C file with the machine's compiler, once, and keep the result."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastgen._files import atomic_path

HEADERS = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
TIME_LIMIT = 120  # seconds


class CompilerError(RuntimeError):
    """There is no C compiler, or it refuses the source."""


@functools.cache
def find_compiler() -> tuple[str, ...] | None:
    """The compiler and its flags: $CC, else cc, gcc or clang on PATH; None if there is none, and on Windows."""
    if os.name != "posix":
        return None
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return tuple(command)
    return None


def cache_folder() -> Path:
    """Where compiled files are kept: $FASTGEN_CACHE, or fastgen in the user's cache."""
    chosen = os.environ.get("FASTGEN_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fastgen")


@functools.cache
def load(source: Path, definitions: tuple[str, ...], flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The shared library of a C file, which may include the headers of this folder, for this machine's processor.

    `flags` come after the file, as libraries must.

    Raises: CompilerError.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompilerError("no C compiler: set CC, or install gcc or clang")
    command = [*compiler, *FLAGS, *(f"-D{definition}" for definition in definitions)]
    texts = [path.read_text() for path in (source, *sorted(HEADERS.glob("*.h")))]
    key = hashlib.sha256()
    for part in (*command, *flags, _version(compiler), _processor(), *texts):
        key.update(part.encode() + b"\0")
    name = f"{source.stem}-{key.hexdigest()[:24]}.so"
    for folder in (cache_folder(), Path(tempfile.gettempdir(), f"fastgen-{os.getuid()}")):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():  # somebody else could put a library there
                continue
            path = folder / name
            if not path.exists():
                with atomic_path(path) as temporary:
                    _compile(command, source, flags, temporary)
            return ctypes.CDLL(os.fspath(path))
        except OSError:  # a read-only home, or one where nothing may be executed
            continue
    raise CompilerError(f"compiled code can be kept neither in {cache_folder()} nor in {tempfile.gettempdir()}")


def _compile(command: Sequence[str], source: Path, flags: Sequence[str], target: Path) -> None:
    """With the processor's own instructions; without them where the compiler does not know how."""
    for processor in ("-march=native", "-mcpu=native", None):
        chosen = [*command, *([processor] if processor else []), f"-I{HEADERS}", "-o", os.fspath(target)]
        try:
            done = subprocess.run(
                [*chosen, os.fspath(source), *flags, "-lm"],
                capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise CompilerError(f"{command[0]} took more than {TIME_LIMIT} s") from error
        if done.returncode == 0:
            return
    raise CompilerError(f"{shlex.join(command)} failed:\n{done.stderr.strip()[-2000:]}")


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout


@functools.cache
def _processor() -> str:
    """What tells processors apart that share a home folder: their instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")
