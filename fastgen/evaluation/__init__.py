"""How good a model is: bits per dimension on held-out images."""

from __future__ import annotations

from fastgen.evaluation.bits import HeldOut as HeldOut
from fastgen.evaluation.bits import evaluate as evaluate
from fastgen.evaluation.bits import evaluate_bits as evaluate_bits
