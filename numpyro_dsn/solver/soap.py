"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.optim import _NumPyroOptim

MEAN_DECAY = SQUARE_DECAY = BASIS_DECAY = 0.95
"""Decay, in a step, of the mean gradient, of its square and of its second moments."""

INTERVAL = 10
"""Steps from one change of the eigenbases to the next."""

MAX_SIZE = 256
"""Longer sides of a matrix keep their own basis: an eigenbasis would cost too much."""

EPSILON = 1e-8


class _LeafState(NamedTuple):
    """What is known of the gradients of one leaf, of shape ``(batch, m, n)`` if it has matrices.

    mean, square
        Averages of the gradient, and of its square in the eigenbases.
    moments, bases
        For each side that is turned, second moments of the gradient and their eigenvectors, of
        shape ``(batch, size, size)``.
    """

    mean: Array
    square: Array
    moments: dict[int, Array]
    bases: dict[int, Array]


class SOAP(_NumPyroOptim):
    r"""Adam in a basis that turns with the gradients of every matrix of parameters.

    .. math:: L \leftarrow \beta L + (1 - \beta) G G^\top, \qquad
              R \leftarrow \beta R + (1 - \beta) G^\top G

    Steps are those of Adam on :math:`Q_L^\top G Q_R`, where Q are the eigenvectors of L and R,
    found by one step of the power method each tenth time. Vectors and scalars are left to Adam.

    Parameters
    ----------
    step_size
        Step size, or a function of the number of the step.

    References
    ----------
    Vyas et al. (2024), *SOAP: Improving and stabilizing Shampoo using Adam*, algorithm 3.
    """

    def __init__(self, step_size: float | Callable[[Array], Array | float]) -> None:
        rate = step_size if callable(step_size) else lambda step: step_size

        def init(params: Any) -> Any:
            return params, [_start(leaf) for leaf in jax.tree.leaves(params)]

        def update(step: Array, gradient: Any, state: Any) -> Any:
            params, leaves = state
            gradients, structure = jax.tree.flatten(gradient)
            pairs = zip(leaves, gradients, strict=True)
            learned = [leaf._replace(moments=_moments(leaf, grad)) for leaf, grad in pairs]
            turned = _turn_bases(step, learned)
            pairs = zip(turned, gradients, strict=True)
            moves, leaves = zip(*(_move(leaf, grad, step) for leaf, grad in pairs), strict=True)
            moves = jax.tree.unflatten(structure, moves)
            params = jax.tree.map(lambda value, move: value - rate(step) * move, params, moves)
            return params, list(leaves)

        super().__init__(lambda: (init, update, lambda state: state[0]))


def _matrices(leaf: Array) -> Array:
    """Return a leaf as a batch of matrices, if it has any."""
    if leaf.ndim < 2:
        return leaf
    return leaf.reshape(math.prod(leaf.shape[:-2]), *leaf.shape[-2:])


def _start(leaf: Array) -> _LeafState:
    zeros = jnp.zeros_like(_matrices(leaf))
    sizes = {i: n for i, n in enumerate(zeros.shape[1:]) if 1 < n <= MAX_SIZE}
    moments = {i: jnp.zeros((len(zeros), n, n), leaf.dtype) for i, n in sizes.items()}
    bases = {
        i: jnp.broadcast_to(jnp.eye(n, dtype=leaf.dtype), moments[i].shape)
        for i, n in sizes.items()
    }
    return _LeafState(zeros, zeros, moments, bases)


def _moments(state: _LeafState, gradient: Array) -> dict[int, Array]:
    """Return the averages of second moments with a new gradient."""
    g = _matrices(gradient)
    outer = {0: lambda: g @ g.swapaxes(1, 2), 1: lambda: g.swapaxes(1, 2) @ g}
    return {
        i: BASIS_DECAY * old + (1 - BASIS_DECAY) * outer[i]() for i, old in state.moments.items()
    }


def _turn_bases(step: Array, leaves: list[_LeafState]) -> list[_LeafState]:
    """Return the state with bases nearer to the eigenvectors of the moments, at some steps."""

    def turn() -> list[dict[int, Array]]:
        return [
            {i: _orthogonal(leaf.moments[i] @ q) for i, q in leaf.bases.items()} for leaf in leaves
        ]

    bases = jax.lax.cond(step % INTERVAL == 0, turn, lambda: [leaf.bases for leaf in leaves])
    return [leaf._replace(bases=new) for leaf, new in zip(leaves, bases, strict=True)]


def _orthogonal(matrices: Array) -> Array:
    """Return orthogonal bases of matrices, one after the other.

    jaxlib hands a batch of decompositions to the threads that run the program, and waits for them
    in one of these: two batches at once leave none, and wait forever.
    """
    return jax.lax.map(lambda matrix: jnp.linalg.qr(matrix)[0], matrices)


def _move(state: _LeafState, gradient: Array, step: Array) -> tuple[Array, _LeafState]:
    """Return what a step of size one takes off the parameters, and the state after it."""
    g, bases = _matrices(gradient), state.bases
    mean = MEAN_DECAY * state.mean + (1 - MEAN_DECAY) * g
    square = SQUARE_DECAY * state.square + (1 - SQUARE_DECAY) * _turn(g, bases) ** 2
    first = _turn(mean, bases) / (1 - MEAN_DECAY ** (step + 1))
    second = square / (1 - SQUARE_DECAY ** (step + 1))
    move = _turn_back(first / (jnp.sqrt(second) + EPSILON), bases)
    return move.reshape(gradient.shape), state._replace(mean=mean, square=square)


def _turn(g: Array, bases: dict[int, Array]) -> Array:
    """Return matrices in their eigenbases."""
    g = bases[0].swapaxes(1, 2) @ g if 0 in bases else g
    return g @ bases[1] if 1 in bases else g


def _turn_back(g: Array, bases: dict[int, Array]) -> Array:
    """Return matrices given in their eigenbases."""
    g = bases[0] @ g if 0 in bases else g
    return g @ bases[1].swapaxes(1, 2) if 1 in bases else g
