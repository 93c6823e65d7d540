"""How good a model is: likelihood of held-out images, figures of drawn ones, classes, outliers, reconstructions."""

from __future__ import annotations

from fastgen.evaluation.bits import HeldOut as HeldOut
from fastgen.evaluation.bits import evaluate as evaluate
from fastgen.evaluation.bits import evaluate_bits as evaluate_bits
from fastgen.evaluation.bits import evaluate_bound as evaluate_bound
from fastgen.evaluation.classes import evaluate_classes as evaluate_classes
from fastgen.evaluation.coverage import ClassCoverage as ClassCoverage
from fastgen.evaluation.coverage import MixtureCoverage as MixtureCoverage
from fastgen.evaluation.coverage import class_coverage as class_coverage
from fastgen.evaluation.coverage import mixture_coverage as mixture_coverage
from fastgen.evaluation.features import FeatureNetwork as FeatureNetwork
from fastgen.evaluation.features import Features as Features
from fastgen.evaluation.features import classifier_features as classifier_features
from fastgen.evaluation.features import features_of as features_of
from fastgen.evaluation.features import inception_features as inception_features
from fastgen.evaluation.frechet import frechet_distance as frechet_distance
from fastgen.evaluation.frechet import gaussian_frechet_distance as gaussian_frechet_distance
from fastgen.evaluation.inception_score import InceptionScore as InceptionScore
from fastgen.evaluation.inception_score import inception_score as inception_score
from fastgen.evaluation.kernel_distance import KernelDistance as KernelDistance
from fastgen.evaluation.kernel_distance import kernel_distance as kernel_distance
from fastgen.evaluation.neighbours import nearest_neighbours as nearest_neighbours
from fastgen.evaluation.outliers import outlier_auroc as outlier_auroc
from fastgen.evaluation.precision_recall import PrecisionRecall as PrecisionRecall
from fastgen.evaluation.precision_recall import precision_recall as precision_recall
from fastgen.evaluation.quality import Quality as Quality
from fastgen.evaluation.quality import compare_features as compare_features
from fastgen.evaluation.reconstruction import ReconstructionError as ReconstructionError
from fastgen.evaluation.reconstruction import reconstruction_error as reconstruction_error
