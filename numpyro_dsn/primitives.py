"""Statements a model makes about itself: what it should do, and what is only noise.

Both travel as ordinary NumPyro messages, so that every handler, ``Predictive``, NUTS and
ArviZ pass them on.
"""

from typing import Any

from numpyro.handlers import infer_config
from numpyro.primitives import _PYRO_STACK, apply_stack

from numpyro_dsn.constraints import Constraint


def _statistic(statistic: Any, constraint: Constraint) -> Any:
    return statistic


def behavior(name: str, statistic: Any, constraint: Constraint) -> Any:
    r"""State what the mean of a statistic of the activity should be.

    .. math:: E_{z \sim q}\, E_{x \sim p(x|z)} [T(x)] = \mu

    Reads like ``numpyro.sample(name, distribution)``. It may stand in the model or in the second
    callable of :class:`~numpyro_dsn.DSN`; everywhere else it is a ``deterministic`` site. In the
    second callable, ``behavior("rate", sites["rate"], ...)`` speaks about the site that exists.

    Parameters
    ----------
    name
        Name of the site.
    statistic
        Value of the statistic for one simulation, of any shape.
    constraint
        What its mean should be, such as :class:`~numpyro_dsn.constraints.Moments`.

    Returns
    -------
    The statistic, unchanged.
    """
    if not _PYRO_STACK:
        return statistic
    # A message type of its own would vanish from Predictive, scan, NUTS and ArviZ. The constraint
    # travels in `args` because these are traced leaves; an array in `infer` would become static
    # metadata of a pytree and poison JAX's caches.
    message = {
        "type": "deterministic",
        "name": name,
        "value": statistic,
        "fn": _statistic,
        "args": (statistic, constraint),
        "kwargs": {},
        "cond_indep_stack": [],
        "infer": {"behavior": True},
    }
    return apply_stack(message)["value"]


def stated_behaviors(sites: dict[str, dict]) -> dict[str, Constraint]:
    """Return the constraints of the ``behavior`` sites of a trace, by site name.

    Parameters
    ----------
    sites
        A trace: messages by site name.

    Returns
    -------
    Constraints in the order in which they were stated.
    """
    return {
        # A statement about an existing site is a message beside that site's.
        site["infer"].get("about", name): site["args"][1]
        for name, site in sites.items()
        if is_behavior(site)
    }


def is_behavior(message: dict) -> bool:
    """Whether a message states a behavior."""
    return bool(message.get("infer", {}).get("behavior", False))


def simulator() -> infer_config:
    """Mark the sample sites of a block as noise of the simulator, which is never a latent.

    >>> with simulator():
    ...     spikes = numpyro.sample("spikes", dist.Poisson(rate))

    Returns
    -------
    A context manager that sets ``infer={"simulator": True}`` on every sample site inside it.
    """
    return infer_config(config_fn=lambda site: {"simulator": True})


def is_simulator(site: dict) -> bool:
    """Whether a sample site was marked as noise of the simulator."""
    return bool(site.get("infer", {}).get("simulator", False))
