"""From a model and a behavior to a problem: which flow, which optimizer, which circuit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.guides import AutoRealNVP
from numpyro_dsn.guides.adapter import GuideFlow
from numpyro_dsn.guides.cube import default_flow
from numpyro_dsn.guides.flow import WithoutGradient
from numpyro_dsn.program import Model, Program, is_uniform
from numpyro_dsn.solver.gradients import Descent, gradient_descent, should_follow_gradients
from numpyro_dsn.solver.problem import Circuit, Problem, build_circuit

NUM_START_DRAWS = 2000
"""Draws of the prior that place the start where the prior is not uniform."""

IMPROPER_SCALE = 2.0
"""Logistic scale of the start, in unconstrained space, where the prior cannot be sampled."""


def build_problem(
    program: Program,
    guide: AutoContinuous | None,
    method: Any,
    sizes: tuple[int, int],
    optim: Any,
    arguments: tuple[tuple, dict],
) -> Problem:
    """Return what a method is to solve.

    Parameters
    ----------
    program
        The model and the behavior.
    guide
        A guide, or ``None`` for the default flow.
    method
        The method.
    sizes
        Number of draws in a step, and of steps in an epoch.
    optim
        A NumPyro optimizer, or ``None`` for the method's own.
    arguments
        Arguments of the model.

    Raises
    ------
    TypeError
        If the guide is no continuous AutoGuide.
    ValueError
        If the guide has other latents than the model, or lacks what the method needs.
    """
    args, kwargs = arguments
    circuit = build_circuit(program, method.num_replicates, args, kwargs)
    by_gradients = not method.needs_gradients and should_follow_gradients(program, args, kwargs)
    optim = method.default_optim(by_gradients) if optim is None else optim
    if guide is None:
        guide = _default_guide(program, method, by_gradients)
    if guide is None:
        flow = default_flow(program.num_latents)
        loc, scale = _chart(program, circuit)
        start = partial(flow.init, loc=loc, scale=scale)
    else:
        _require_same_latents(guide, program, args, kwargs)
        # NumPyro's guides differentiate their model where they start; a callback has no gradient.
        guide.model = WithoutGradient(guide.model)
        handlers.trace(handlers.seed(guide, jax.random.key(0))).get_trace(*args, **kwargs)
        flow, start = as_flow(guide, args, kwargs)
    method.require(flow, jax.eval_shape(start, jax.random.key(0)))
    descent = None
    if by_gradients and flow.has_rsample:
        replicates = method.num_replicates if program.is_stochastic else 1
        pieces = Descent(flow, circuit, optim, *sizes, method.envelope, replicates)
        descent = gradient_descent(pieces)
    return Problem(
        flow=flow,
        start=start,
        circuit=circuit,
        lower=program.lower,
        upper=program.upper,
        units=program.units,
        optim=optim,
        num_particles=sizes[0],
        num_steps=sizes[1],
        is_stochastic=program.is_stochastic,
        descend=descent,
    )


def _default_guide(program: Program, method: Any, by_gradients: bool) -> AutoContinuous | None:
    """Return the guide of fits that follow gradients; ``None`` for the default flow of others."""
    if by_gradients:
        # Couplings of halves with few bins: the cost of a step grows as the number of latents.
        half = program.num_latents // 2
        settings: dict[str, Any] = {"hidden_dims": (64, 64), "num_bins": 8}
        return AutoRealNVP(program.guide_model, num_transformed=half, **settings)
    return AutoRealNVP(program.guide_model) if method.needs_gradients else None


def as_flow(guide: AutoContinuous, args: tuple, kwargs: dict) -> tuple[Any, Any]:
    """Return the flow of a guide that was set up, and the function that starts it."""
    flow = getattr(guide, "flow", None)
    if flow is not None:
        return flow, partial(flow.init, loc=guide.start[0], scale=guide.start[1])
    flow = GuideFlow(guide, args, kwargs)
    return flow, flow.init


def _chart(program: Program, circuit: Circuit) -> tuple[Any, Any]:
    """Return location and logistic scale of the prior in unconstrained space."""
    uniform = is_uniform(program)
    loc, scale = np.zeros(len(uniform)), np.full(len(uniform), IMPROPER_SCALE)
    if circuit.prior is not None and not uniform.all():
        draws = np.asarray(circuit.prior(jax.random.key(0), NUM_START_DRAWS), float)
        # A draw at an end of its support is infinitely far here.
        finite = np.isfinite(draws)
        loc = draws.mean(0, where=finite)
        scale = draws.std(0, where=finite) * np.sqrt(3) / np.pi
    dtype = jnp.zeros(()).dtype
    return np.where(uniform, 0.0, loc).astype(dtype), np.where(uniform, 1.0, scale).astype(dtype)


def _require_same_latents(
    guide: AutoContinuous, program: Program, args: tuple, kwargs: dict
) -> None:
    """Raise if a guide is no continuous AutoGuide, or has other latents than the model."""
    if not isinstance(guide, AutoContinuous):
        raise TypeError(
            f"`guide` must be a continuous AutoGuide with a density, but is {guide!r}; use for "
            "instance `AutoNeuralSpline(model)`."
        )
    # Before the guide runs, which has a less helpful message for discrete noise.
    given, expected = _sample_sites(guide.model, args, kwargs), set(program.latents)
    if given != expected:
        raise ValueError(
            f"The guide has latent sites {sorted(given)} but the model has {sorted(expected)}; "
            "noise of the simulator must be hidden from the guide, for instance with "
            "`AutoIAFNormal(numpyro.handlers.block(model, hide=[...]))`."
        )


def _sample_sites(model: Model, args: tuple, kwargs: dict) -> set[str]:
    """Return the names of a model's sample sites; nothing is computed."""
    names: set[str] = set()

    def run(rng_key: Array) -> None:
        seeded = handlers.seed(model, rng_key)
        started = handlers.substitute(seeded, substitute_fn=init_to_uniform)
        trace = handlers.trace(started).get_trace(*args, **kwargs)
        names.update(name for name, site in trace.items() if site["type"] == "sample")

    jax.eval_shape(run, jax.random.key(0))
    return names
