"""Trees of arrays: whether two are equal, and their types."""

from typing import Any

import jax
import numpy as np


def strong(tree: Any) -> Any:
    """Return arrays without weak types: a mixture would make a later epoch compile again."""
    return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), tree)


def same(one: Any, other: Any) -> bool:
    """Return whether two trees have the same structure and equal leaves."""
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    if structures[0] != structures[1]:
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a is b or (np.shape(a) == np.shape(b) and bool(np.all(a == b))) for a, b in pairs)
