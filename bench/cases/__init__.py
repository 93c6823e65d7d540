"""One file a subject; each defines `cases() -> list[Case]`, and imports what it measures in its builders."""
