"""The Fréchet distance between Gaussians that are fitted to features of two sets of images: FID."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the means m and covariances S of features.

    Zero where means and covariances agree. It is biased upwards by the finite number of images: compare figures of the
    same numbers only.

    Shapes: a [N, F], b [M, F]. Dtypes: any float; computed in float64.

    Raises:
        ValueError: other shapes, fewer than two images, or features that are not finite.
    Warns: UserWarning where a set has no more images than features: its covariance is singular.
    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NIPS
        2017; Dowson and Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982.
    """
    a, b = check_features("frechet_distance", a, b, at_least=2)
    fewest, n_features = min(len(a), len(b)), a.shape[1]
    if fewest <= n_features:
        warnings.warn(
            f"frechet_distance: {fewest} images give a singular covariance of {n_features} features, and a distance "
            f"that is much too large; take more than {n_features} images",
            UserWarning,
            stacklevel=2,
        )
    return gaussian_frechet_distance(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def gaussian_frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """The distance of `frechet_distance` of two Gaussians, from their moments.

    tr (S_a S_b)^(1/2) is the sum of the singular values of S_a^(1/2) S_b^(1/2), whose factors are symmetric: no root
    of a matrix that is not, and nothing complex, where S_a and S_b are singular.

    Shapes: means [F], covariances [F, F]. Dtypes: any float; computed in float64.
    """
    difference = (mean_a.double() - mean_b.double()).square().sum()
    root_a, root_b = _symmetric_root(covariance_a.double()), _symmetric_root(covariance_b.double())
    # traces of what the roots are roots of, so that the distance of a Gaussian to itself is zero up to rounding
    traces = root_a.square().sum() + root_b.square().sum()
    distance = difference + traces - 2 * torch.linalg.svdvals(root_a @ root_b).sum()
    return max(0.0, float(distance))


def check_features(name: str, a: Tensor, b: Tensor, *, at_least: int) -> tuple[Tensor, Tensor]:
    """Return features [N, F] and [M, F] in float64.

    Raises:
        ValueError: other shapes, fewer than `at_least` images in one of the sets, or features that are not finite.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(
            f"{name}: features must be [N, F] and [M, F]; got {list(a.shape)} and {list(b.shape)}; take both of the "
            "same network"
        )
    if min(len(a), len(b)) < at_least:
        raise ValueError(
            f"{name}: each set must have at least {at_least} images; got {len(a)} and {len(b)}; draw or load more"
        )
    a, b = a.double(), b.double().to(a.device)
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError(f"{name}: features must be finite; got infinite ones or NaN; look at the images")
    return a, b


def _covariance(x: Tensor) -> Tensor:
    return torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def _symmetric_root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix, its eigenvalues below zero, which are rounding, taken as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
