"""The maximum-entropy loss: draws from a guide, and the augmented Lagrangian of their mean."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.infer import ELBO

from numpyro_dsn.constraints import Constraint
from numpyro_dsn.primitives import stated_behaviors
from numpyro_dsn.program import Model, simulate, stated_bounds


class Particles(NamedTuple):
    """Draws from a guide with one simulation each.

    log_q, log_prior
        Log densities of the draws on the constrained space, shape ``(num_particles,)``, in nats.
    statistics
        T, shape ``(num_particles, num_constraints)``, zero where it was NaN or infinite.
    finite
        Whether all of T was finite, shape ``(num_particles,)``.
    failed
        Which of T were not, shape ``(num_particles, num_constraints)``.
    """

    log_q: Array
    log_prior: Array
    statistics: Array
    finite: Array
    failed: Array


def particle(log_q: Array, log_prior: Array, statistics: Array) -> Particles:
    """Return one draw with its statistics, which are masked if one of them is not finite."""
    failed = ~jnp.isfinite(statistics)
    finite = ~jnp.any(failed)
    return Particles(log_q, log_prior, jnp.where(finite, statistics, 0.0), finite, failed)


def draw_particles(
    rng_key: Array,
    params: dict[str, Array],
    model: Model,
    guide: Callable,
    constraints: Mapping[str, Constraint] | None,
    num_particles: int,
    args: tuple,
    kwargs: dict,
) -> Particles:
    """Draw from a guide and run the circuit once at each draw, with fresh noise.

    Parameters
    ----------
    rng_key
        Key of the draws and of all noise.
    params
        Parameters of the guide.
    model
        Model with its behavior.
    guide
        A NumPyro guide.
    constraints
        Constraints by site name; those stated in the model when ``None``.
    num_particles
        Number of draws.
    args, kwargs
        Arguments of model and guide.

    Returns
    -------
    The draws' densities and statistics.
    """

    def draw(key: Array) -> Particles:
        guide_key, simulator_key = jax.random.split(key)
        seeded = handlers.seed(handlers.substitute(guide, data=params), guide_key)
        trace = handlers.trace(seeded).get_trace(*args, **kwargs)
        _require_reparametrized(trace)
        latents, log_q = latents_and_log_density(trace)
        gated = jax.tree.map(gate, latents)
        statistics = simulate(simulator_key, model, gated, constraints, args, kwargs).statistics
        # The prior pulls even where the statistics are not finite; XLA runs the circuit once.
        log_prior = simulate(simulator_key, model, latents, constraints, args, kwargs).log_prior
        return particle(log_q, log_prior, statistics)

    return jax.vmap(draw)(jax.random.split(rng_key, num_particles))


def mean_statistics(particles: Particles) -> Array:
    """Return the mean of T over the finite draws, shape ``(num_constraints,)``."""
    return particles.statistics.sum(0) / jnp.maximum(particles.finite.sum(), 1)


def active_target(
    mean: Array, multipliers: Array, penalty: Array, lower: Array, upper: Array
) -> Array:
    r"""Return the point of the interval that the mean is pulled to.

    .. math:: s = \mathrm{clip}(E[T] + \lambda / c,\; l,\; u)

    For an equality it is the target. For an inequality it is the slack that minimizes the
    augmented Lagrangian: then :math:`\lambda + c (E[T] - s)` is complementary by itself.

    Parameters
    ----------
    mean, multipliers, lower, upper
        E[T], multipliers and bounds, each of shape ``(num_constraints,)``.
    penalty
        c, shape ``()`` or ``(num_constraints,)``; zero is allowed.

    Returns
    -------
    s, shape ``(num_constraints,)``.

    References
    ----------
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., section 17.4.
    """
    tiny = jnp.finfo(mean.dtype).tiny
    return jnp.clip(mean + multipliers / jnp.maximum(penalty, tiny), lower, upper)


def augmented_lagrangian(
    particles: Particles, multipliers: Array, penalty: Array, lower: Array, upper: Array
) -> Array:
    r"""Return the augmented Lagrangian, whose gradient has no bias from the squared mean.

    .. math:: L = KL(q \| p) + \lambda^\top R + \tfrac{c}{2} \|R\|^2, \qquad
              \|R\|^2 \approx \frac{1}{n (n - 1)} \sum_{i \ne j} r_i^\top r_j

    The square of a mean is estimated by all pairs of different draws. The plain square would add
    tr Cov(T) / n, which shrinks the variance of T and so works against the entropy.

    Parameters
    ----------
    particles
        Draws with their statistics.
    multipliers, lower, upper
        Multipliers and bounds on E[T], each of shape ``(num_constraints,)``.
    penalty
        c, shape ``()``.

    Returns
    -------
    L in nats, shape ``()``.

    References
    ----------
    The draft's eq. 7, with KL to the prior in place of minus the entropy.
    """
    kl_to_prior = jnp.mean(particles.log_q - particles.log_prior)
    count = particles.finite.sum()
    # Distances from what was asked: large statistics then lose no digits in the sums.
    origin = jax.lax.stop_gradient(jnp.clip(mean_statistics(particles), lower, upper))
    distances = jnp.where(particles.finite[:, None], particles.statistics - origin[None], 0.0)
    # Each draw is held against the mean of the others: its own share in a batch mean would make
    # even an inactive inequality act on the variance of T.
    others = (distances.sum(0)[None] - distances) / jnp.maximum(count - 1, 1)
    target = jax.vmap(active_target, in_axes=(0, None, None, None, None))(
        others, multipliers, penalty, lower - origin, upper - origin
    )
    others, target = jax.lax.stop_gradient((others, target))
    weights = particles.finite[:, None] / jnp.maximum(count, 1)
    residuals = weights * (distances - target)
    square = jnp.sum(residuals * (others - target))
    # A pair is differentiated at one of its draws while the other is held, so it counts twice.
    square = 2 * square - jax.lax.stop_gradient(square)
    return kl_to_prior + jnp.dot(multipliers, residuals.sum(0)) + 0.5 * penalty * square


class MaxEntropyELBO(ELBO):
    r"""Maximum entropy under constraints on mean statistics, at fixed multipliers.

    .. math:: L = KL(q \| p) + \lambda^\top (E[T] - \mu) + \tfrac{c}{2} \|E[T] - \mu\|^2

    A loss for ``numpyro.infer.SVI``. Unlike ``Trace_ELBO`` it gives sites marked with
    ``simulator()`` no log density, because they are noise and not latent.

    Parameters
    ----------
    multipliers
        :math:`\lambda`, shape ``(num_constraints,)``, in nats per unit of T.
    penalty
        c, in nats per squared unit of T.
    constraints
        Constraints by site name; those stated in the model by default.
    num_particles
        Number of draws, each with one simulation.
    """

    def __init__(
        self,
        multipliers: Array,
        penalty: Array | float = 0.0,
        constraints: Mapping[str, Constraint] | None = None,
        num_particles: int = 500,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.multipliers = jnp.asarray(multipliers)
        self.penalty = jnp.asarray(penalty)
        self.constraints = constraints

    def loss(
        self,
        rng_key: Array,
        param_map: dict[str, Array],
        model: Model,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Array:
        """Return the augmented Lagrangian in nats, shape ``()``."""
        model = handlers.substitute(model, data=param_map)
        particles = draw_particles(
            rng_key, param_map, model, guide, self.constraints, self.num_particles, args, kwargs
        )
        constraints = self.constraints
        if constraints is None:
            seeded = handlers.seed(model, rng_key)
            constraints = stated_behaviors(handlers.trace(seeded).get_trace(*args, **kwargs))
        lower, upper = stated_bounds(constraints)
        return augmented_lagrangian(particles, self.multipliers, self.penalty, lower, upper)


def latents_and_log_density(trace: dict[str, dict]) -> tuple[dict[str, Array], Array]:
    """Return the latents of a guide's trace and log q, without any inverse of the flow."""
    latents, log_q = {}, jnp.zeros(())
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        if site["intermediates"]:
            log_prob = site["fn"].log_prob(site["value"], site["intermediates"])
        else:
            log_prob = site["fn"].log_prob(site["value"])
        log_q += jnp.sum(log_prob)
        if not site["infer"].get("is_auxiliary", False):
            latents[name] = site["value"]
    return latents, log_q


def _require_reparametrized(trace: dict[str, dict]) -> None:
    """Raise if a gradient with respect to the guide's parameters would miss a part."""
    for name, site in trace.items():
        if site["type"] == "sample" and not getattr(site["fn"], "has_rsample", True):
            raise ValueError(
                f"Draws of the guide's site '{name}' have no gradient; use for instance "
                "`AutoRealNVP(model)`, or `method=DualNewton()`, which needs none."
            )


@jax.custom_vjp
def gate(latent: Array) -> Array:
    """Pass a latent into the simulator, and a gradient back only where it is finite.

    A NaN inside a simulator reaches its inputs as NaN, even if the NaN statistic was masked.
    """
    return latent


def _gate_backward(_: None, gradient: Array) -> tuple[Array]:
    return (jnp.where(jnp.all(jnp.isfinite(gradient)), gradient, 0.0),)


gate.defvjp(lambda latent: (latent, None), _gate_backward)
