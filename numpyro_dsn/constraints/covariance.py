"""Mean and full covariance of a vector-valued statistic."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.constraints.constraint import (
    Constraint,
    Vector,
    as_floats,
    element_labels,
    join,
    require_finite,
    require_shape,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Covariance(Constraint):
    r"""The mean and the covariance, about the target mean, of a vector-valued statistic.

    .. math:: E[f] = \mu, \qquad E[(f - \mu)(f - \mu)^\top] = \Sigma

    Parameters
    ----------
    mean
        Target mean, shape ``(d,)``, in the units of the statistic.
    cov
        Target covariance, shape ``(d, d)``, symmetric positive definite.
    """

    mean: ArrayLike
    cov: ArrayLike

    def statistics(self, value: Array) -> Array:
        """Return f and the upper triangle of (f - mean)(f - mean)^T."""
        deviation = value - jnp.asarray(self.mean)
        rows, columns = np.triu_indices(value.shape[-1])
        return jnp.concatenate([value, deviation[rows] * deviation[columns]])

    def bounds(self) -> tuple[Vector, Vector]:
        """Return the target twice: all entries are equalities."""
        cov = as_floats(self.cov)
        target = join(as_floats(self.mean), cov[np.triu_indices(cov.shape[-1])])
        return target, target

    def units(self) -> Vector:
        """Return each standard deviation, and the product of two of them for each pair."""
        cov = as_floats(self.cov)
        std = cov[np.diag_indices(cov.shape[-1])] ** 0.5
        rows, columns = np.triu_indices(cov.shape[-1])
        return join(std, std[rows] * std[columns])

    def labels(self, name: str) -> list[str]:
        """Return ``mean[...]`` for each element and ``cov[...]`` for each pair."""
        size = np.shape(self.mean)[0]
        pairs = [f"cov[{name}[{i},{j}]]" for i, j in zip(*np.triu_indices(size), strict=True)]
        return element_labels("mean", name, (size,)) + pairs

    def validate(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless f is a vector and the covariance symmetric positive definite."""
        if len(shape) != 1:
            raise ValueError(
                f"behavior '{name}': a covariance needs a vector-valued statistic, but it has "
                f"shape {shape}; reshape the statistic or use `Moments`."
            )
        require_shape(name, "mean", self.mean, shape)
        require_shape(name, "cov", self.cov, shape + shape)
        require_finite(name, "mean", self.mean, "give a finite target.")
        require_finite(name, "cov", self.cov, "give a finite target.")
        if not _is_positive_definite(np.asarray(self.cov)):
            raise ValueError(
                f"behavior '{name}': `cov` must be symmetric positive definite, but is "
                f"{np.asarray(self.cov).tolist()}; no distribution with a density has such a "
                "covariance, so raise the variances or lower the correlations."
            )


def _is_positive_definite(cov: np.ndarray) -> bool:
    """Whether a covariance is symmetric positive definite, whatever the units of each element."""
    variances = np.diag(cov).astype(float)
    if not np.all(variances > 0):
        return False
    correlation = cov / np.sqrt(np.outer(variances, variances))
    precision = np.finfo(np.result_type(cov, np.float32)).eps
    smallest = np.linalg.eigvalsh(correlation).min()
    return bool(np.allclose(correlation, correlation.T) and smallest > len(cov) * precision)
