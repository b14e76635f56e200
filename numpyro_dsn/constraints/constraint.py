"""The interface of a constraint: a vector of functions of a statistic, and bounds on its mean."""

import itertools
from abc import ABC, abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Vector = Any
"""Numbers of NumPy, so that reading a constraint runs nothing; of JAX where it is traced."""


class Constraint(ABC):
    r"""A statement :math:`l \le E[T(f)] \le u` about the mean of functions of a statistic f.

    An equality has :math:`l = u`. Subclasses are frozen dataclasses registered as pytrees; their
    constructors keep what they are given and :meth:`validate` checks it, because a constructor
    also runs while JAX rebuilds a pytree around tracers.
    """

    @abstractmethod
    def statistics(self, value: Array) -> Array:
        """Return T, shape ``(num_constraints,)``, of one value of the statistic."""

    @abstractmethod
    def bounds(self) -> tuple[Vector, Vector]:
        """Return the lower and the upper bound of E[T], each of shape ``(num_constraints,)``."""

    @abstractmethod
    def units(self) -> Vector:
        """Return the unit of each entry of T, shape ``(num_constraints,)``.

        It is what a violation of that entry is large or small against, from the spread that was
        asked for; NaN where none was.
        """

    @abstractmethod
    def labels(self, name: str) -> list[str]:
        """Return one label for each entry of T, given the name of the site."""

    @abstractmethod
    def validate(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` that names the site if the targets cannot be meant."""


def require_constraint(name: str, constraint: Any, statistic: Any) -> None:
    """Raise unless this is a constraint whose targets fit the value of the statistic."""
    if not isinstance(constraint, Constraint):
        raise TypeError(
            f"behavior '{name}': expected a constraint on the mean, but got {constraint!r}; give "
            "for instance `Moments(mean=5.0)`."
        )
    if not (hasattr(statistic, "shape") or np.isscalar(statistic)):
        raise TypeError(
            f"behavior '{name}': the statistic must be an array, but is a "
            f"{type(statistic).__name__}; join its parts, for instance with `jax.numpy.stack`."
        )
    constraint.validate(name, np.shape(statistic))


def require_shape(name: str, field: str, given: ArrayLike, shape: tuple[int, ...]) -> None:
    """Raise unless a target has one entry for each element of the statistic."""
    if np.shape(given) != shape:
        raise ValueError(
            f"behavior '{name}': `{field}` has shape {np.shape(given)} but the statistic has shape "
            f"{shape}; give one target for each element of the statistic."
        )


def require_finite(name: str, field: str, given: ArrayLike, remedy: str) -> None:
    """Raise unless a target is a finite number everywhere."""
    if not np.all(np.isfinite(np.asarray(given, dtype=float))):
        raise ValueError(
            f"behavior '{name}': `{field}` must be finite, but is {np.asarray(given)}; {remedy}"
        )


def as_floats(target: ArrayLike) -> Any:
    """Return a target as an array of floats; of NumPy unless it is traced, which runs nothing."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(target)):
        return jnp.asarray(target, dtype=float)
    return np.asarray(target, dtype=jnp.result_type(float))


def join(*parts: Any) -> Any:
    """Return vectors one after the other; of NumPy if all are, which runs nothing."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return jnp.concatenate(parts)


def element_labels(kind: str, name: str, shape: tuple[int, ...]) -> list[str]:
    """Return ``kind[name]`` for a scalar, ``kind[name[i,j]]`` for each element of an array."""
    indices = itertools.product(*(range(size) for size in shape))
    return [f"{kind}[{name}{_subscript(index)}]" for index in indices]


def _subscript(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]" if index else ""
