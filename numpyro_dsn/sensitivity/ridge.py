"""The mode of the other parameters as one of them moves."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.sensitivity.ascent import ascend
from numpyro_dsn.sensitivity.coordinates import (
    Sites,
    require_inside,
    require_label,
    to_constrained,
    to_unconstrained,
    unflatten,
)
from numpyro_dsn.sensitivity.density import draw_unconstrained, log_prob_unconstrained

if TYPE_CHECKING:
    from numpyro_dsn.result import DSNResult

NUM_DRAWS = 500


class Ridge(NamedTuple):
    """Conditional modes along one parameter.

    parameter
        Label of the parameter that was moved.
    values
        Value of each latent site, with a leading axis ``num_points``.
    log_prob
        Log density at the conditional modes, in nats, shape ``(num_points,)``.
    """

    parameter: str
    values: Sites
    log_prob: np.ndarray


def conditional_modes(
    result: "DSNResult",
    parameter: str,
    along: ArrayLike,
    start: Sites | None = None,
) -> Ridge:
    r"""Follow the mode of all other parameters while one takes given values.

    .. math:: z^*(s) = \arg\max_{z:\, z_i = s} \log q(z)

    Every ascent starts where the last one ended, so that the ridge stays on its branch.

    Parameters
    ----------
    result
        The fit.
    parameter
        Label of the parameter, such as ``g[0]``.
    along
        Its values, in the order in which to visit them, shape ``(num_points,)``.
    start
        Where to start: value of every latent site, without leading axes. The draw of the fit that
        is nearest to the first value by default.

    Raises
    ------
    ValueError
        If the label is not that of a parameter, or a value is not inside the support.
    """
    program = result.fit.program
    index = require_label(program, parameter)
    along = jnp.atleast_1d(jnp.asarray(along, float))
    if along.ndim != 1 or along.size == 0:
        raise ValueError(f"`along` must have shape (num_points,), but has shape {along.shape}.")
    draws = draw_unconstrained(result, jax.random.key(0), NUM_DRAWS)
    if start is None:
        constrained = jax.vmap(lambda u: to_constrained(program, u))(draws)
        first = constrained[jnp.argmin(jnp.abs(constrained[:, index] - along[0]))]
    else:
        flat, shape = require_inside(program, start)
        if shape != ():
            raise ValueError(f"`start` must be one point, but has leading axes {shape}.")
        first = flat[0]
    asked = jnp.tile(first[None], (along.size, 1)).at[:, index].set(along)
    require_inside(program, unflatten(program, asked))
    is_free = jnp.arange(program.num_latents) != index

    def log_prob(u: Array) -> Array:
        return log_prob_unconstrained(result, u)

    def follow(z: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
        moved = to_unconstrained(program, z.at[index].set(value))
        # The value itself may be beyond the draws.
        lower, upper = jnp.minimum(draws.min(0), moved), jnp.maximum(draws.max(0), moved)
        top = ascend(log_prob, moved, draws.std(0), is_free, lower, upper)[-1]
        # The round trip through the unconstrained space would round the value.
        z = to_constrained(program, top).at[index].set(value)
        return z, (z, log_prob(top))

    _, (ridge, heights) = jax.jit(lambda z: jax.lax.scan(follow, z, along))(first)
    return Ridge(parameter, unflatten(program, ridge), np.asarray(heights))
