"""How good a model is: bits per dimension on held-out images."""

from __future__ import annotations

from fastgen.evaluation.bits import HeldOut as HeldOut
from fastgen.evaluation.bits import evaluate as evaluate
from fastgen.evaluation.bits import evaluate_bits as evaluate_bits
from fastgen.evaluation.bits import evaluate_bound as evaluate_bound
from fastgen.evaluation.coverage import ClassCoverage as ClassCoverage
from fastgen.evaluation.coverage import MixtureCoverage as MixtureCoverage
from fastgen.evaluation.coverage import class_coverage as class_coverage
from fastgen.evaluation.coverage import mixture_coverage as mixture_coverage
from fastgen.evaluation.neighbours import nearest_neighbours as nearest_neighbours
from fastgen.evaluation.outliers import outlier_auroc as outlier_auroc
