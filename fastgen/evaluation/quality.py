"""How drawn images compare with real ones, by their features: every figure with the name of its network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fastgen.evaluation.features import Features
from fastgen.evaluation.frechet import frechet_distance
from fastgen.evaluation.inception_score import InceptionScore, inception_score
from fastgen.evaluation.kernel_distance import KernelDistance, kernel_distance
from fastgen.evaluation.precision_recall import PrecisionRecall, precision_recall


@dataclass(frozen=True)
class Quality:
    """Figures of one set of images beside another.

    Attributes:
        features: the network that all figures are of.
        images: how many were compared.
        reference: with how many.
        frechet: Fréchet distance, lower is better.
        kernel: kernel distance, lower is better.
        neighbours: precision, recall, density and coverage.
        score: inception score, of the images alone; None where the network tells no classes.
    """

    features: str
    images: int
    reference: int
    frechet: float
    kernel: KernelDistance
    neighbours: PrecisionRecall
    score: InceptionScore | None

    def __str__(self) -> str:
        """All figures in one line."""
        near, kernel = self.neighbours, self.kernel
        score = "" if self.score is None else f", inception score {self.score.value:.3f} ± {self.score.std:.3f}"
        return (
            f"FID {self.frechet:.4f}, KID {kernel.value:.5f} ± {kernel.stderr:.5f}, precision {near.precision:.3f}, "
            f"recall {near.recall:.3f}, density {near.density:.3f}, coverage {near.coverage:.3f}{score}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        score = (
            {} if self.score is None else {"inception_score": self.score.value, "inception_score_std": self.score.std}
        )
        return {
            "features": self.features,
            "images": self.images,
            "reference_images": self.reference,
            "frechet_distance": self.frechet,
            **{"kernel_distance" + ("" if key == "value" else f"_{key}"): v for key, v in asdict(self.kernel).items()},
            **asdict(self.neighbours),
            **score,
        }


def compare_features(
    name: str, images: Features, reference: Features, *, k: int = 3, splits: int = 10, seed: int = 0
) -> Quality:
    """All figures of images beside a reference, by their features of the network `name`.

    Raises:
        ValueError: too few images for one of them; each function says how many it needs.
    """
    return Quality(
        features=name,
        images=len(images.vectors),
        reference=len(reference.vectors),
        frechet=frechet_distance(images.vectors, reference.vectors),
        kernel=kernel_distance(images.vectors, reference.vectors, seed=seed),
        neighbours=precision_recall(images.vectors, reference.vectors, k=k),
        score=None if images.logits is None else inception_score(images.logits, splits=splits, seed=seed),
    )
