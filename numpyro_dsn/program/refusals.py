"""Every structural error of a model and a behavior, in sentences that name the site."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Unit
from numpyro.distributions.constraints import Constraint as Support

from numpyro_dsn.primitives import is_simulator
from numpyro_dsn.program.statements import is_replaced


def require_behavior(behavior: Any) -> None:
    """Raise a ``TypeError`` unless this can be a behavior."""
    if not (behavior is None or callable(behavior) or isinstance(behavior, Mapping)):
        raise TypeError(
            "`behavior` must be a callable of {site: value} or a dict {site: constraint}, but is "
            f"{behavior!r}."
        )


def require_circuit(sites: dict[str, dict], latents: dict[str, dict]) -> None:
    """Raise unless the sites of a model are a circuit's, with parameters that can be latent.

    Parameters
    ----------
    sites
        Messages of all sites.
    latents
        Messages of those whose value changes with the key.

    Raises
    ------
    ValueError
        If a site is mutable, a factor, observed, discrete or subsampled, or if none is latent.
    """
    for name, site in sites.items():
        if site["type"] == "mutable":
            raise ValueError(
                f"Site '{name}' is mutable; a circuit is a function of its parameters and noise. "
                "Carry the state inside the simulator, for instance with `jax.lax.scan`."
            )
        if site["type"] == "sample" and not (is_simulator(site) or is_replaced(site)):
            _require_unobserved(name, site)
    full_sizes = {name: site["args"][0] for name, site in sites.items() if site["type"] == "plate"}
    for name, site in latents.items():
        _require_whole_and_continuous(name, site, full_sizes)
    if not latents:
        raise ValueError(_nothing_latent(sites))


def _require_unobserved(name: str, site: dict) -> None:
    if isinstance(site["fn"], Unit):
        raise ValueError(
            f"Site '{name}' is a factor: the entropy would be relative to prior x factor, not to "
            "the prior. Remove it, or state it as a behavior."
        )
    if site["is_observed"]:
        raise ValueError(
            f"Site '{name}' is observed: its likelihood would turn the prior into a posterior, and "
            "the entropy would be relative to that. Remove `obs`, mark it with `simulator()`, and "
            f"state a behavior about it; or {_hold(name)}."
        )


def _require_whole_and_continuous(name: str, site: dict, full_sizes: dict[str, int]) -> None:
    if site["support"].is_discrete:
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


def _hold(name: str) -> str:
    return (
        f"hold it at a value with `numpyro.handlers`: `substitute(model, data={{'{name}': value}})`"
    )


def _nothing_latent(sites: dict[str, dict]) -> str:
    message = (
        "The model has no latent site; give the circuit's parameters priors with `numpyro.sample`."
    )
    held = [n for n, site in sites.items() if site["type"] == "sample" and not is_simulator(site)]
    if held:
        message += (
            f" The values of {held} are held: they do not change with the key. If the model was "
            "wrapped in `numpyro.handlers.seed`, pass it without."
        )
    return message


def require_sites(sites: dict[str, dict], behavior: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if a dict of constraints names something that is no site."""
    known = [
        name
        for name, site in sites.items()
        if site["type"] in ("sample", "deterministic") and not is_replaced(site)
    ]
    for name in behavior:
        if name not in known:
            raise ValueError(
                f"The behavior names '{name}', which is no site of the model; its sites are "
                f"{known}. Record it with `numpyro.deterministic`."
            )


def require_statements(constraints: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` if nothing is asked."""
    if not constraints:
        raise ValueError(
            "Nothing is asked of the circuit; state a behavior, for instance "
            "`behavior('rate', rate, Moments(mean=5.0))`."
        )


def require_fixed_targets(stated: dict[str, Any], again: dict[str, Any]) -> None:
    """Raise a ``ValueError`` if a constraint differs between two runs of the model."""
    for name, constraint in stated.items():
        if not _is_same(constraint, again[name]):
            raise ValueError(
                f"behavior '{name}': its target changes with the parameters of the circuit; give "
                "numbers, and put what depends on the parameters into the statistic."
            )


def require_bounds(name: str, support: Support) -> None:
    """Raise a ``ValueError`` unless the bounds of a support are finite and in order."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    for bound in ("lower_bound", "upper_bound"):
        given = getattr(support, bound, 0.0)
        if not np.all(np.isfinite(np.asarray(given))):
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


def require_same_sites(latents: dict[str, dict], again: dict[str, dict]) -> None:
    """Raise a ``ValueError`` if the model has other latents or shapes when it is traced again."""
    for name in latents | again:
        site, other = latents.get(name), again.get(name)
        if site is None or other is None or np.shape(site["value"]) != np.shape(other["value"]):
            raise ValueError(
                f"Site '{name}' changes with the values of other sites; every run of the model "
                "must have the same latents and shapes. Draw it always, choose with `jnp.where`."
            )
    known = {name: site["support"] for name, site in latents.items()}
    require_static_supports(known, {name: again[name]["support"] for name in latents})


def require_static_supports(supports: dict[str, Support], again: dict[str, Support]) -> None:
    """Raise a ``ValueError`` if a support differs between two runs of the model."""
    for name, support in supports.items():
        if type(support) is not type(again[name]) or not _is_same(support, again[name]):
            raise ValueError(
                f"The support of site '{name}' depends on other sites; draw it on a fixed support "
                "and transform it with `numpyro.deterministic`."
            )


def _is_same(tree: Any, other: Any) -> bool:
    """Whether all that is known of two pytrees is the same."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(
        np.array_equal(*pair, equal_nan=True)
        for pair in pairs
        if not any(isinstance(x, Tracer) for x in pair)
    )
