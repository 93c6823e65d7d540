"""C compiled on the spot, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgen._cpu import toolchain

pytestmark = pytest.mark.skipif(toolchain.find_compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Look for the compiler anew, before the test and after it."""
    toolchain.find_compiler.cache_clear()
    toolchain.load.cache_clear()
    yield
    toolchain.find_compiler.cache_clear()
    toolchain.load.cache_clear()


def test_compiled_code_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FASTGEN_CACHE", str(folder))
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return ANSWER; }\n")
    assert toolchain.load(source, ("ANSWER=42",)).answer() == 42
    (kept,) = folder.iterdir()
    changed = kept.stat().st_mtime_ns
    toolchain.load.cache_clear()
    assert toolchain.load(source, ("ANSWER=42",)).answer() == 42
    assert kept.stat().st_mtime_ns == changed
    assert toolchain.load(source, ("ANSWER=43",)).answer() == 43  # another program has another name
    assert len(list(folder.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("FASTGEN_CACHE", str(blocked / "folder"))
    monkeypatch.setattr(toolchain.tempfile, "gettempdir", lambda: str(tmp_path))
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 7; }\n")
    assert toolchain.load(source, ()).answer() == 7
    monkeypatch.setattr(toolchain.tempfile, "gettempdir", lambda: str(blocked))
    toolchain.load.cache_clear()
    with pytest.raises(toolchain.CompilerError, match="can be kept neither in"):
        toolchain.load(source, ())


def test_a_change_of_a_shared_header_compiles_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "HEADERS", tmp_path)
    source, header = tmp_path / "answer.c", tmp_path / "number.h"
    source.write_text('#include "number.h"\nint answer(void) { return NUMBER; }\n')
    for number in (3, 4):
        header.write_text(f"#define NUMBER {number}\n")
        toolchain.load.cache_clear()
        assert toolchain.load(source, ()).answer() == number


def test_what_the_compiler_says_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "wrong.c"
    source.write_text("int answer(void) { return nothing; }\n")
    with pytest.raises(toolchain.CompilerError, match=r"(?s)failed:.*nothing"):
        toolchain.load(source, ())
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".so"]
