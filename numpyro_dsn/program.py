"""Read a model and a behavior once: what is latent, what is asked, and every structural error."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.distributions.distribution import Unit
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.constraints.constraint import Constraint, require_constraint
from numpyro_dsn.primitives import is_simulator, stated_behaviors
from numpyro_dsn.status import warn

Model = Callable[..., Any]
Behavior = Callable[[dict[str, Any]], None] | Mapping[str, Constraint]


class Program(NamedTuple):
    """A model and a behavior after they were read.

    model
        Callable with the model's sites and the behavior's, without parameters of its own.
    guide_model
        The same model with nothing but its latent sites, which is what an AutoGuide should see.
    constraints
        What is asked, by site name.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``; equal for equalities.
    labels
        One label for each of the ``num_constraints`` entries of T.
    latents
        Prototype message of each latent site.
    sites
        Prototype messages of all sites, for names, shapes and plates.
    is_proper
        Whether every prior can be sampled.
    is_stochastic
        Whether the simulator draws noise.
    """

    model: Model
    guide_model: Model
    constraints: dict[str, Constraint]
    lower: Array
    upper: Array
    labels: list[str]
    latents: dict[str, dict]
    sites: dict[str, dict]
    is_proper: bool
    is_stochastic: bool


class Simulation(NamedTuple):
    """One run of the circuit.

    log_prior
        Log density of the latents under the prior, in nats.
    statistics
        T, shape ``(num_constraints,)``.
    sites
        Value of every sample and deterministic site.
    """

    log_prior: Array
    statistics: Array
    sites: dict[str, Array]


class _Sites(handlers.trace):
    """A trace that refuses two sites of one name and notices simulator noise."""

    def __enter__(self) -> dict[str, dict]:
        self.noise = False
        return super().__enter__()

    def postprocess_message(self, message: dict) -> None:
        if message["type"] == "prng_key":
            self.noise = True
        if message["type"] in ("sample", "deterministic") and message["name"] in self.trace:
            raise ValueError(
                f"Two sites are named '{message['name']}'; rename one of them, or pass a dict "
                "{site: constraint} as the behavior to state something about an existing site."
            )
        super().postprocess_message(message)


def with_behavior(model: Model, behavior: Behavior | None) -> Model:
    """Return the model followed by the statements of a behavior callable.

    Parameters
    ----------
    model
        A NumPyro model.
    behavior
        A callable that receives ``{site: value}`` of the model and makes ``behavior`` statements.
        Nothing is added for ``None`` or for a dict, which speaks about sites that exist.

    Returns
    -------
    A NumPyro model of the same arguments and return value.
    """
    if not callable(behavior):
        return model

    def model_and_behavior(*args: Any, **kwargs: Any) -> Any:
        with _Sites() as sites:
            returned = model(*args, **kwargs)
        values = {
            name: site["value"]
            for name, site in sites.items()
            if site["type"] in ("sample", "deterministic")
        }
        behavior(values)
        return returned

    return model_and_behavior


def simulate(
    rng_key: Array,
    model: Model,
    latents: dict[str, Array],
    constraints: Mapping[str, Constraint] | None,
    args: tuple,
    kwargs: dict,
) -> Simulation:
    """Run the circuit once at given parameters, with fresh noise from the key.

    Parameters
    ----------
    rng_key
        Key of all noise of the simulator.
    model
        Model with its behavior.
    latents
        Value of each latent site.
    constraints
        Constraints by site name; those stated in the model when ``None``.
    args, kwargs
        Arguments of the model.

    Returns
    -------
    The log prior, the statistics and all sites of this run.
    """
    # Only latents are substituted: replaying a whole guide trace breaks models that use `scan`.
    seeded = handlers.seed(handlers.substitute(model, data=latents), rng_key)
    trace = handlers.trace(seeded).get_trace(*args, **kwargs)
    log_prior = jnp.zeros(())
    for name in latents:
        site = trace[name]
        log_prob = site["fn"].log_prob(site["value"])
        log_prior += jnp.sum(log_prob if site["scale"] is None else site["scale"] * log_prob)
    asked = stated_behaviors(trace) if constraints is None else constraints
    statistics = [asked[name].statistics(trace[name]["value"]) for name in asked]
    values = {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] in ("sample", "deterministic")
    }
    return Simulation(log_prior, jnp.concatenate(statistics), values)


def stated_bounds(constraints: Mapping[str, Constraint]) -> tuple[Array, Array]:
    """Return lower and upper bounds of E[T], each of shape ``(num_constraints,)``."""
    lower, upper = zip(*(constraint.bounds() for constraint in constraints.values()), strict=True)
    return jnp.concatenate(lower), jnp.concatenate(upper)


def draw_prior(
    rng_key: Array, program: Program, num_samples: int, args: tuple, kwargs: dict
) -> dict[str, Array]:
    """Draw latents from the prior; a jitted caller pays for no simulation.

    Returns
    -------
    Value of each latent site with a leading axis ``num_samples``.
    """

    def draw(key: Array) -> dict[str, Array]:
        trace = handlers.trace(handlers.seed(program.guide_model, key)).get_trace(*args, **kwargs)
        return {name: trace[name]["value"] for name in program.latents}

    return jax.vmap(draw)(jax.random.split(rng_key, num_samples))


def read(
    rng_key: Array, model: Model, behavior: Behavior | None, args: tuple, kwargs: dict
) -> Program:
    """Read a model and a behavior, and raise every structural error before anything is compiled.

    Parameters
    ----------
    rng_key
        Key of the two runs of the model that are looked at.
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
    if not (behavior is None or callable(behavior) or isinstance(behavior, Mapping)):
        raise TypeError(
            "`behavior` must be a callable of {site: value} or a dict {site: constraint}, but is "
            f"{behavior!r}."
        )
    combined = with_behavior(model, behavior)
    sites, is_stochastic = _prototype(rng_key, combined, args, kwargs)
    latents = _read_latents(sites)
    other, _ = _prototype(jax.random.fold_in(rng_key, 1), combined, args, kwargs)
    _require_static_support(latents, _read_latents(other))
    constraints = _read_constraints(sites, behavior)
    for name, constraint in constraints.items():
        require_constraint(name, constraint, sites[name]["value"])
    lower, upper = stated_bounds(constraints)
    labels = [label for name in constraints for label in constraints[name].labels(name)]

    params = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
    if params:
        warn(
            f"Parameters {sorted(params)} of the model are held at their initial values; give "
            "them a prior with `numpyro.sample` to infer them."
        )
    frozen = handlers.block(handlers.substitute(combined, data=params), hide=list(params))
    improper = [name for name, site in latents.items() if not _can_sample(site["fn"])]
    if improper:
        warn(
            f"The prior of {improper} is improper: the maximum of the entropy may be infinite. "
            "Bound it, for instance with `numpyro.distributions.Uniform`."
        )
    return Program(
        model=frozen,
        guide_model=handlers.block(frozen, hide_fn=lambda site: _is_not_latent(site, latents)),
        constraints=constraints,
        lower=lower,
        upper=upper,
        labels=labels,
        latents=latents,
        sites=sites,
        is_proper=not improper,
        is_stochastic=is_stochastic or any(map(is_simulator, sites.values())),
    )


def _prototype(
    rng_key: Array, model: Model, args: tuple, kwargs: dict
) -> tuple[dict[str, dict], bool]:
    """Run the model once at a point inside every support; return its messages."""

    def start(site: dict) -> Any:
        if site["type"] == "sample" and not is_simulator(site):
            return init_to_uniform(site)
        return None

    recorder = _Sites()
    substitute, seed = handlers.substitute(substitute_fn=start), handlers.seed(rng_seed=rng_key)
    with handlers.block(), recorder as sites, substitute, seed:
        model(*args, **kwargs)
    return sites, recorder.noise


def _read_latents(sites: dict[str, dict]) -> dict[str, dict]:
    """Return the latent sites, after refusing everything that cannot be one."""
    latents = {}
    full_sizes = {name: site["args"][0] for name, site in sites.items() if site["type"] == "plate"}
    for name, site in sites.items():
        if site["type"] == "mutable":
            raise ValueError(
                f"Site '{name}' is mutable; a circuit is a function of its parameters and noise. "
                "Carry the state inside the simulator, for instance with `jax.lax.scan`."
            )
        if site["type"] != "sample" or is_simulator(site):
            continue
        if isinstance(site["fn"], Unit):
            raise ValueError(
                f"Site '{name}' is a factor: the entropy would be relative to prior x factor, not "
                "to the prior. Remove it, or state it as a behavior."
            )
        if site["is_observed"]:
            raise ValueError(
                f"Site '{name}' is observed: its likelihood would turn the prior into a posterior, "
                "and the entropy would be relative to that. Remove `obs`, mark it with "
                f"`simulator()`, and state a behavior about it; or {_hold(name)}."
            )
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"Site '{name}' is discrete; a flow needs continuous latents. Mark it with "
                f"`simulator()` if it is noise, or {_hold(name)}."
            )
        for frame in site["cond_indep_stack"]:
            # The plate itself is not in the trace if it stands in a `scan` or was blocked.
            if frame.size != full_sizes.get(frame.name, frame.size):
                raise ValueError(
                    f"Site '{name}' is subsampled by plate '{frame.name}' ({frame.size} of "
                    f"{full_sizes[frame.name]}); give the plate its full size."
                )
        _require_bounds(name, site["fn"].support)
        latents[name] = site
    if not latents:
        raise ValueError(
            "The model has no latent site; give the circuit's parameters priors with "
            "`numpyro.sample`."
        )
    return latents


def _hold(name: str) -> str:
    # `condition` and `do` would leave a sample site of this name in the model.
    return (
        "hold it at a value with `numpyro.handlers`: "
        f"`block(substitute(model, data={{'{name}': value}}), hide=['{name}'])`"
    )


def _read_constraints(sites: dict[str, dict], behavior: Behavior | None) -> dict[str, Constraint]:
    """Return what is asked, by site name."""
    constraints = stated_behaviors(sites)
    if isinstance(behavior, Mapping):
        for name in behavior:
            if name not in sites or sites[name]["type"] not in ("sample", "deterministic"):
                known = [s for s in sites if sites[s]["type"] in ("sample", "deterministic")]
                raise ValueError(
                    f"The behavior names '{name}', which is no site of the model; its sites are "
                    f"{known}. Record it with `numpyro.deterministic`."
                )
        constraints |= behavior
    if not constraints:
        raise ValueError(
            "Nothing is asked of the circuit; state a behavior, for instance "
            "`behavior('rate', rate, Moments(mean=5.0))`."
        )
    return constraints


def _require_bounds(name: str, support: Any) -> None:
    """Raise unless the bounds of a support are finite and in order."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    for bound in ("lower_bound", "upper_bound"):
        given = getattr(support, bound, 0.0)
        if not jnp.all(jnp.isfinite(jnp.asarray(given))):
            raise ValueError(
                f"The support of site '{name}' has {bound} {given}; give a finite bound, or a "
                "distribution whose support is unbounded on that side."
            )
    if hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        lower, upper = support.lower_bound, support.upper_bound
        if not np.all(np.less(lower, upper)):
            raise ValueError(
                f"The support of site '{name}' is empty: lower_bound {lower} is not below "
                f"upper_bound {upper}; exchange them."
            )


def _require_static_support(latents: dict[str, dict], other: dict[str, dict]) -> None:
    """Raise if a second run of the model has other latents, shapes or supports."""
    for name in latents | other:
        site, again = latents.get(name), other.get(name)
        if site is None or again is None or jnp.shape(again["value"]) != jnp.shape(site["value"]):
            raise ValueError(
                f"Site '{name}' changes with the values of other sites; every run of the model "
                "must have the same latents and shapes. Draw it always, choose with `jnp.where`."
            )
        # `==` of two constraints asks whether their bounds are the same objects.
        bounds, other_bounds = (jax.tree.leaves(run["fn"].support) for run in (site, again))
        kinds = {type(run["fn"].support) for run in (site, again)}
        if len(kinds) > 1 or not all(map(jnp.array_equal, bounds, other_bounds)):
            raise ValueError(
                f"The support of site '{name}' depends on other sites; draw it on a fixed support "
                "and transform it with `numpyro.deterministic`."
            )


def _is_not_latent(site: dict, latents: Mapping[str, dict]) -> bool:
    return site["type"] in ("sample", "deterministic") and site["name"] not in latents


def _can_sample(fn: Any) -> bool:
    try:
        jax.eval_shape(fn.sample, jax.random.key(0))
    except NotImplementedError:
        return False
    return True
