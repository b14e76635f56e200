"""Mean, and optionally standard deviation, of every element of a statistic."""

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
class Moments(Constraint):
    r"""The mean of a statistic and, with ``std``, its second moment about the target mean.

    .. math:: E[f] = \mu, \qquad E[(f - \mu)^2] = \sigma^2

    Parameters
    ----------
    mean
        Target mean, of the shape and in the units of the statistic.
    std
        Target standard deviation, of the same shape and units; without it only the mean is asked.

    References
    ----------
    The draft's eq. 4 asks for the raw second moment, which has the same solutions and is worse
    conditioned.
    """

    mean: ArrayLike
    std: ArrayLike | None = None

    def statistics(self, value: Array) -> Array:
        """Return f and, with ``std``, (f - mean)^2, each raveled."""
        value = jnp.ravel(value)
        if self.std is None:
            return value
        return jnp.concatenate([value, (value - jnp.ravel(jnp.asarray(self.mean))) ** 2])

    def bounds(self) -> tuple[Vector, Vector]:
        """Return the target twice: both moments are equalities."""
        target = as_floats(self.mean).ravel()
        if self.std is not None:
            target = join(target, as_floats(self.std).ravel() ** 2)
        return target, target

    def units(self) -> Vector:
        """Return the standard deviation and its square; NaN without one."""
        if self.std is None:
            return np.full(self.bounds()[0].shape, np.nan, jnp.result_type(float))
        std = as_floats(self.std).ravel()
        return join(std, std**2)

    def labels(self, name: str) -> list[str]:
        """Return ``mean[...]`` and, with ``std``, ``var[...]``."""
        shape = np.shape(self.mean)
        kinds = ["mean"] if self.std is None else ["mean", "var"]
        return [label for kind in kinds for label in element_labels(kind, name, shape)]

    def validate(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise if shapes differ, the mean is not finite or a standard deviation is not > 0."""
        require_shape(name, "mean", self.mean, shape)
        require_finite(name, "mean", self.mean, "give a finite target.")
        if self.std is None:
            return
        require_shape(name, "std", self.std, shape)
        require_finite(name, "std", self.std, "leave it out to constrain the mean alone.")
        if not np.all(np.asarray(self.std) > 0):
            raise ValueError(
                f"behavior '{name}': `std` must be > 0, but is {np.asarray(self.std)}; a "
                "distribution over circuits with no variance in the statistic has no entropy."
            )
