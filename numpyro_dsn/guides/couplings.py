"""Which coordinates each coupling of a flow moves, and how many couplings there are."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def sizes(
    dim: int, num_layers: int | None, num_transformed: int | None, num_turns: int
) -> tuple[int, int]:
    """Return the number of couplings, and of coordinates that each moves.

    By default a coupling moves a quarter of the coordinates, one of two or three, since the fewer,
    the thinner a sheet that a single coupling can bend.

    Parameters
    ----------
    dim
        Number of coordinates.
    num_layers, num_transformed
        What was asked for; ``None`` for the default.
    num_turns
        How often each coordinate moves, by default.

    Raises
    ------
    ValueError
        If no coordinate would move, or none stay.
    """
    size = -(-dim // 4) if num_transformed is None else num_transformed
    if size < 1:
        raise ValueError(f"`num_transformed` must be at least 1, but is {size}.")
    if size >= dim > 1:
        raise ValueError(f"`num_transformed` is {size}, of {dim} coordinates; one must stay.")
    return num_turns * -(-dim // size) if num_layers is None else num_layers, size


def order(index: int, dim: int, size: int) -> tuple[int, ...]:
    """Return the coordinates of the coupling of this index: those that stay, those that move.

    In turn all coordinates move, ``size`` at a time, the last of a turn perhaps with some for the
    second time; each turn divides them anew, at random but the same in every run.
    """
    turn, part = divmod(index, -(-dim // size))
    shuffled = np.random.default_rng(turn).permutation(dim)
    start = max(dim - (part + 1) * size, 0)
    moving = slice(start, start + size)
    return tuple(np.delete(shuffled, moving).tolist() + shuffled[moving].tolist())


def permute(points: Array, order: Array) -> Array:
    """Return the coordinates in another order; the gradient is as fast as the value."""
    return jnp.take(points, order, axis=-1, unique_indices=True, mode="clip")
