"""A circuit and a flow, as the methods see them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.program import Program, constrain, draw_prior, simulate, unconstrain
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import Draws

CPU_BATCH_SIZE, BATCH_SIZE = 512, 32_768
"""Number of simulations at once: many leave the cache of a CPU, few an accelerator idle. Powers of
two divide the draws of an epoch: a remainder would be compiled apart."""

Params = dict[str, Array]


class Run(NamedTuple):
    """One simulation of a draw.

    statistics
        T, shape ``(num_constraints,)``.
    log_prior, log_det
        Log density of the prior in unconstrained space, and log of the volume on the constrained
        space per unconstrained volume, each of shape ``()``.
    """

    statistics: Array
    log_prior: Array
    log_det: Array


class Circuit(NamedTuple):
    """The program as functions of flat unconstrained draws.

    run
        Function of a key and one draw that simulates it, to be traced inside of other functions.
    simulate
        Compiled function of a key and draws, shape ``(num_draws, D)``, that simulates them.
    prior
        Compiled function of a key and a number that draws from the prior; ``None`` if the prior is
        improper.
    """

    run: Callable[[Array, Array], Run]
    simulate: Callable[[Array, Array], Draws]
    prior: Callable[[Array, int], Array] | None


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is to solve, and with which flow; compiled programs know it by identity.

    Parameters
    ----------
    flow
        A flow, such as :class:`~numpyro_dsn.guides.CubeFlow`.
    start
        Function of a key that returns the flow's parameters at the start.
    circuit
        The circuit.
    lower, upper, units
        Bounds on E[T] and the unit of each, NaN where no spread was asked, each of shape
        ``(num_constraints,)``.
    optim
        A NumPyro optimizer.
    num_particles, num_steps
        Number of draws in a step, and of steps in an epoch at the most.
    is_stochastic
        Whether the simulator draws noise.
    descend
        Function that fits the flow by gradients of the circuit; ``None`` to fit it to weighted
        draws.
    """

    flow: Any
    start: Callable[[Array], Params]
    circuit: Circuit
    lower: Any  # NumPy's, which every compiled program takes as constants
    upper: Any
    units: Any
    optim: Any
    num_particles: int
    num_steps: int
    is_stochastic: bool
    descend: Callable[..., Any] | None = None

    @property
    def follows_gradients(self) -> bool:
        """Whether the flow is fitted by gradients of the circuit."""
        return self.descend is not None


def build_circuit(program: Program, num_replicates: int, args: tuple, kwargs: dict) -> Circuit:
    """Return the program as functions of flat draws.

    Parameters
    ----------
    program
        The program.
    num_replicates
        Simulations of each draw, if the simulator is stochastic.
    args, kwargs
        Arguments of the model.
    """
    replicates = num_replicates if program.is_stochastic else 1

    def run(rng_key: Array, flat: Array) -> Run:
        latents, log_det = constrain(program, flat)
        done = simulate(rng_key, program.model, latents, program.constraints, args, kwargs)
        return Run(done.statistics, done.log_prior + log_det, log_det)

    def replicate(key_and_flat: tuple[Array, Array]) -> Draws:
        key, flat = key_and_flat
        runs = jax.vmap(run, (0, None))(jax.random.split(key, replicates), flat)
        mean = runs.statistics.mean(0)
        errors = (runs.statistics - mean[None]) / max(replicates * (replicates - 1), 1) ** 0.5
        finite = jnp.all(jnp.isfinite(mean)) & jnp.isfinite(runs.log_prior[0])
        noise = jnp.where(finite, errors, 0.0)
        return Draws(flat, mean, noise, runs.log_prior[0], runs.log_det[0], finite)

    @jax.jit
    def simulate_all(rng_key: Array, flat: Array) -> Draws:
        keys = jax.random.split(rng_key, flat.shape[0])
        size = CPU_BATCH_SIZE if jax.default_backend() == "cpu" else BATCH_SIZE
        draws = jax.lax.map(replicate, (keys, flat), batch_size=max(size // replicates, 1))
        return draws if replicates > 1 else draws._replace(noise=draws.noise[:, :0])

    def prior(rng_key: Array, num_draws: int) -> Array:
        latents = draw_prior(rng_key, program, num_draws, args, kwargs)
        return jax.vmap(lambda one: unconstrain(program, one)[0])(latents)

    sampler = quick_jit(prior, static_argnums=1) if program.is_proper else None
    return Circuit(run, simulate_all, sampler)
