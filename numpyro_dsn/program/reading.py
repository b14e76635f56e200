"""Read a model and a behavior once, and raise every structural error before anything is run."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.constraints import Constraint as Support

from numpyro_dsn.constraints import Constraint
from numpyro_dsn.constraints.constraint import require_constraint
from numpyro_dsn.primitives import is_simulator, stated_behaviors
from numpyro_dsn.program import refusals
from numpyro_dsn.program.evaluation import compute, constant, latent_sites, varies
from numpyro_dsn.program.program import Behavior, Model, Program
from numpyro_dsn.program.statements import (
    is_replaced,
    stated_bounds,
    stated_units,
    with_behavior,
)
from numpyro_dsn.program.tracing import Tracing, trace_model
from numpyro_dsn.status import warn


def read(
    rng_key: Array, model: Model, behavior: Behavior | None, args: tuple, kwargs: dict
) -> Program:
    """Read a model and a behavior; the model is traced and its simulator never run.

    Parameters
    ----------
    rng_key
        Key of the positions inside the supports that the program holds.
    model
        A NumPyro model.
    behavior
        A callable of ``{site: value}`` or a dict ``{site: constraint}``; ``None`` if the model
        itself states its behavior.
    args, kwargs
        Arguments of the model.

    Returns
    -------
    The program.

    Raises
    ------
    ValueError
        If the model or the behavior cannot be meant; the message names the site and the remedy.
    TypeError
        If the behavior, a constraint or a statistic is of the wrong kind.
    """
    refusals.require_behavior(behavior)
    combined = with_behavior(model, behavior)
    tracing = trace_model(rng_key, combined, args, kwargs)
    latents = latent_sites(tracing)
    refusals.require_circuit(tracing.sites, latents)
    again = latent_sites(trace_model(rng_key, combined, args, kwargs))
    refusals.require_same_sites(latents, again)
    stated = _stated(tracing, behavior)
    latents, supports, constraints, params = _numbers(rng_key, tracing, latents, stated)
    for name, constraint in constraints.items():
        require_constraint(name, constraint, tracing.sites[name]["value"])

    hidden = [name for name, site in tracing.sites.items() if is_replaced(site)]
    held = handlers.substitute(combined, data=params)
    circuit = handlers.block(held, hide=[*params, *hidden])
    lower, upper = map(np.asarray, stated_bounds(constraints))
    return Program(
        model=circuit,
        guide_model=handlers.block(circuit, hide_fn=lambda site: _is_no_latent(site, latents)),
        constraints=constraints,
        lower=lower,
        upper=upper,
        units=np.asarray(stated_units(constraints)),
        labels=[label for name in constraints for label in constraints[name].labels(name)],
        latents=latents,
        supports=supports,
        sites=_prototypes(tracing.sites) | latents,
        is_proper=_warn_of_what_is_odd(tracing.sites, latents, params),
        is_stochastic=tracing.has_noise or any(map(is_simulator, tracing.sites.values())),
        traces_arrays=tracing.traces_arrays,
    )


def _stated(tracing: Tracing, behavior: Behavior | None) -> dict[str, Any]:
    """Return what is asked, by site name; targets may be tracers still."""
    stated = stated_behaviors(tracing.sites)
    if isinstance(behavior, Mapping):
        refusals.require_sites(tracing.sites, behavior)
        stated |= behavior
    refusals.require_statements(stated)
    return stated


def _numbers(
    rng_key: Array, tracing: Tracing, latents: dict[str, dict], stated: dict[str, Any]
) -> tuple[dict[str, dict], dict[str, Support], dict[str, Constraint], dict[str, Array]]:
    """Return latents, supports, constraints and parameters, with numbers where tracers were."""
    supports = {name: site["support"] for name, site in latents.items()}
    params = {n: site["value"] for n, site in tracing.sites.items() if site["type"] == "param"}
    # A prior that depends on other sites is no number, and may have a simulator in it.
    priors = {name: constant(tracing, site["fn"]) for name, site in latents.items()}
    known = compute(tracing, [supports, stated, params, priors], rng_key)
    if varies(tracing, (supports, stated)):
        other_key = jax.random.fold_in(rng_key, 1)
        again = compute(tracing, [supports, stated], other_key)
        refusals.require_static_supports(known[0], again[0])
        refusals.require_fixed_targets(known[1], again[1])
    supports, stated, params, priors = known
    for name, support in supports.items():
        refusals.require_bounds(name, support)
    prototypes = _prototypes(latents)
    values = _inside({name: site["value"].shape for name, site in prototypes.items()}, supports)
    found = {
        name: prototypes[name] | {"fn": priors[name], "value": values[name]} for name in latents
    }
    return found, supports, stated, params


def _inside(
    shapes: dict[str, tuple[int, ...]], supports: dict[str, Support]
) -> dict[str, np.ndarray]:
    """Return a value of each latent inside its support, of no symmetry."""
    # Draws of NumPy: to compile draws of JAX takes longer than all else here.
    rng = np.random.default_rng(0)

    def transform() -> dict[str, Array]:
        values = {}
        for name, support in supports.items():
            transform = biject_to(support)
            free = rng.uniform(-1.0, 1.0, transform.inverse_shape(shapes[name]))
            values[name] = transform(jnp.asarray(free, float))
        return values

    values = jax.device_get(jax.jit(transform)())
    return {name: values[name] for name in supports}  # JAX sorts them


def _prototypes(sites: dict[str, dict]) -> dict[str, dict]:
    """Return messages that hold no tracer: names, shapes, plates, and how sites were marked."""
    kept = "type", "name", "cond_indep_stack", "infer", "is_observed"
    prototypes = {}
    for name, site in sites.items():
        if site["type"] == "behavior" or is_replaced(site):
            continue
        prototypes[name] = {part: site[part] for part in kept if part in site}
        prototypes[name]["value"] = jax.tree.map(_shape_of, site["value"])
        if site["type"] == "sample":
            prototypes[name]["fn"] = jax.tree.map(_shape_of, site["fn"])  # for its event shape
        if site["type"] == "plate":
            prototypes[name]["args"] = site["args"]
    return prototypes


def _shape_of(value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    return value


def _warn_of_what_is_odd(
    sites: dict[str, dict], latents: dict[str, dict], params: dict[str, Array]
) -> bool:
    """Warn of parameters that are held and of improper priors; return whether all are proper."""
    if params:
        warn(
            f"Parameters {sorted(params)} of the model are held at their initial values; give "
            "them a prior with `numpyro.sample` to infer them."
        )
    improper = [name for name in latents if not sites[name]["proper"]]
    if improper:
        warn(
            f"The prior of {improper} is improper: the maximum of the entropy may be infinite. "
            "Bound it, for instance with `numpyro.distributions.Uniform`."
        )
    return not improper


def _is_no_latent(site: dict, latents: Mapping[str, dict]) -> bool:
    kinds = "sample", "deterministic", "behavior"
    return site["type"] in kinds and site["name"] not in latents
