"""Pieces of the page: text is escaped here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastgen.report.charts import STYLE as CHARTS

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8") + CHARTS

# what the page may fetch: nothing that is not in it
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; `body` is HTML, the title text."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>",
            "",
        ]
    )


def element(name: str, text: Any, kind: str = "") -> str:
    """An element around text."""
    named = f' class="{kind}"' if kind else ""
    return f"<{name}{named}>{escape(str(text))}</{name}>"


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: what, value, and a word on it."""
    boxes = "".join(
        f'<div class="tile"><small>{escape(what)}</small><b>{escape(value)}</b><small>{escape(note)}</small></div>'
        for what, value, note in facts
    )
    return f'<div class="tiles">{boxes}</div>'


def pairs(facts: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = "".join(f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>" for key, value in facts.items())
    return f'<div class="scroll"><table>{rows}</table></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns of numbers stand to the right."""
    rows = [[str(cell) for cell in cells] for cells in rows]
    right = [all(re.fullmatch(r"[-\d.,e+]*", cells[place]) for cells in rows) for place in range(len(head))]

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if numbers else ''}>{escape(cell)}</{tag}>"
            for cell, numbers in zip(cells, right, strict=True)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="scroll"><table><thead><tr>{row(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(uri: str, caption: str) -> str:
    """A picture with its caption."""
    text = escape(caption)
    return f'<figure><img src="{escape(uri)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def section(title: str, parts: Iterable[str]) -> str:
    """A heading and what is below it; nothing if there is nothing."""
    inner = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{inner}\n</section>" if inner else ""
