"""A model's arguments in two parts: arrays, which may change, and what decides on compilation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array


class Static(NamedTuple):
    """What is not an array, compared by type and value; a key of compiled programs.

    treedef
        Structure of ``(args, kwargs)``.
    leaves
        Type and value of each leaf; ``None`` in place of an array.
    """

    treedef: Any
    leaves: tuple[tuple[type, Any] | None, ...]


def split(args: tuple, kwargs: dict[str, Any]) -> tuple[list[Array | np.ndarray], Static]:
    """Split the arguments of a model into its arrays and the rest.

    Numbers of Python and NumPy are no arrays: they often are sizes.

    Parameters
    ----------
    args, kwargs
        Arguments of the model; any pytrees.

    Returns
    -------
    The arrays, in the order of ``jax.tree.leaves``, and the rest, which can be hashed if each of
    its leaves can.
    """
    leaves, treedef = jax.tree.flatten((args, kwargs))
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    # With the type: 1, 1.0 and True are equal and mean different programs.
    rest = tuple(None if _is_array(leaf) else (type(leaf), leaf) for leaf in leaves)
    return arrays, Static(treedef, rest)


def join(arrays: Sequence[Array | np.ndarray], static: Static) -> tuple[tuple, dict[str, Any]]:
    """Put arguments together again, which :func:`split` has split.

    Parameters
    ----------
    arrays
        The arrays, or tracers in their place.
    static
        The rest.

    Returns
    -------
    ``args`` and ``kwargs`` of the model.
    """
    remaining = iter(arrays)
    leaves = [next(remaining) if leaf is None else leaf[1] for leaf in static.leaves]
    args, kwargs = jax.tree.unflatten(static.treedef, leaves)
    return args, kwargs


def _is_array(leaf: Any) -> bool:
    # Arrays of text or objects mean nothing to JAX.
    is_numeric = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"
    return is_numeric or isinstance(leaf, jax.Array)
