"""Errors for names that nobody knows, with the nearest ones that somebody does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, got: str, known: Iterable[str]) -> ValueError:
    """Build the error for an unknown `kind` (for example "recipe"), suggesting near matches among `known`."""
    options = sorted(known)
    plain = {option.lower(): option for option in options}
    near = [plain[name] for name in difflib.get_close_matches(got.lower(), plain, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(options)}."
    return ValueError(f"unknown {kind} {got!r}; {hint}")
