"""The ops as functions without state: documented where they are defined, in `fastgen.kernels`."""

from __future__ import annotations

from fastgen.kernels.dmol import dmol_log_prob, dmol_sample

__all__ = ["dmol_log_prob", "dmol_sample"]
