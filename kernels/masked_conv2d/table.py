"""Where the kernels were measured to be the fastest: what `masked_conv2d(impl="auto")` takes on CUDA.

Written by `python -m bench.cases.masked_conv2d RESULTS.jsonl` from what its `--measure` measured. A configuration that
is not here was never measured, and takes the library.
"""

from __future__ import annotations

TABLE: dict[tuple[str, str, str, int], str] = {}
"""(device capability, dtype, kind, channels bucket) -> "triton" or "library"; see `dispatch.table_key`."""
