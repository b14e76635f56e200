"""Bounds on the mean of a statistic: met with complementary multipliers, not with barriers."""

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
    require_finite,
    require_shape,
)


class _Inequality(Constraint):
    """The mean of a statistic itself, within bounds."""

    def statistics(self, value: Array) -> Array:
        """Return f, raveled."""
        return jnp.ravel(value)

    def units(self) -> Vector:
        """Return NaN: a bound says nothing of a spread."""
        return np.full(self.bounds()[0].shape, np.nan, jnp.result_type(float))


class _OneSided(_Inequality):
    """The mean of a statistic on one side of a bound."""

    bound: ArrayLike

    def labels(self, name: str) -> list[str]:
        """Return ``mean[...]`` for each element."""
        return element_labels("mean", name, np.shape(self.bound))

    def validate(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise if shapes differ or the bound is not finite."""
        require_shape(name, "bound", self.bound, shape)
        require_finite(name, "bound", self.bound, "leave the statement out if nothing is asked.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class AtLeast(_OneSided):
    r"""The mean of a statistic is at least a bound: :math:`E[f] \ge b`.

    Parameters
    ----------
    bound
        Smallest mean, of the shape and in the units of the statistic.
    """

    bound: ArrayLike

    def bounds(self) -> tuple[Vector, Vector]:
        """Return the bound and infinity."""
        lower = as_floats(self.bound).ravel()
        return lower, np.full(lower.shape, np.inf, lower.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class AtMost(_OneSided):
    r"""The mean of a statistic is at most a bound: :math:`E[f] \le b`.

    Parameters
    ----------
    bound
        Largest mean, of the shape and in the units of the statistic.
    """

    bound: ArrayLike

    def bounds(self) -> tuple[Vector, Vector]:
        """Return minus infinity and the bound."""
        upper = as_floats(self.bound).ravel()
        return np.full(upper.shape, -np.inf, upper.dtype), upper


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Between(_Inequality):
    r"""The mean of a statistic lies in an interval: :math:`a \le E[f] \le b`.

    Parameters
    ----------
    low, high
        Ends of the interval, of the shape and in the units of the statistic.
    """

    low: ArrayLike
    high: ArrayLike

    def bounds(self) -> tuple[Vector, Vector]:
        """Return both ends."""
        lower = as_floats(self.low).ravel()
        return lower, as_floats(self.high).ravel()

    def labels(self, name: str) -> list[str]:
        """Return ``mean[...]`` for each element."""
        return element_labels("mean", name, np.shape(self.low))

    def validate(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise if shapes differ, an end is not finite or low > high."""
        for field, given in (("low", self.low), ("high", self.high)):
            require_shape(name, field, given, shape)
            require_finite(name, field, given, "use `AtLeast` or `AtMost` for a single bound.")
        if np.any(np.asarray(self.low) > np.asarray(self.high)):
            raise ValueError(
                f"behavior '{name}': `low` must not exceed `high`, but they are "
                f"{np.asarray(self.low)} and {np.asarray(self.high)}; exchange them."
            )
