"""Draws of a model's sites as datasets, with the dimension names of the model."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpyro_dsn.program import Program

Coords = dict[str, Any]
Dims = dict[str, list[str]]


def sites_dataset(
    program: "Program", sites: dict[str, np.ndarray], coords: Coords, dims: Dims
) -> Any:
    """Return a dataset of draws with the dimension names of the model's plates.

    A sample site with ``infer={"units": "nS"}`` has this attribute.

    Parameters
    ----------
    program
        The program, which knows plates and ``event_dims`` of the sites.
    sites
        Value of each site with leading axes ``(num_chains, num_draws)``.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    ``xarray.Dataset`` with dimensions ``chain`` and ``draw`` first.
    """
    import xarray

    variables = {}
    for name, value in sites.items():
        site = program.sites[name]
        names = _site_dims(name, site, np.shape(value)[2:], dims.get(name))
        units = site.get("infer", {}).get("units")
        attrs = {"units": units} if units else {}
        variables[name] = (["chain", "draw", *names], np.asarray(value), attrs)
    num_chains, num_draws = next(iter(sites.values())).shape[:2]
    used = {name for names, _, _ in variables.values() for name in names}
    chosen = {name: values for name, values in coords.items() if name in used}
    for names, value, _ in variables.values():
        for name, size in zip(names[2:], value.shape[2:], strict=True):
            chosen.setdefault(name, np.arange(size))
    chain_draw = {"chain": np.arange(num_chains), "draw": np.arange(num_draws)}
    return xarray.Dataset(variables, coords=chain_draw | chosen)


def sites_groups(
    program: "Program", sites: dict[str, np.ndarray], group: str, coords: Coords, dims: Dims
) -> dict[str, Any]:
    """Return the datasets of a group and its predictive one, those that have any variable.

    Parameters
    ----------
    program
        The program.
    sites
        Value of each site with leading axes ``(num_chains, num_draws)``.
    group
        ``posterior`` or ``prior``: it gets latents and statistics, and ``{group}_predictive`` all
        sites that are no latents.
    coords, dims
        Coordinate values by dimension, and dimension names by site.
    """
    named = set(program.latents) | set(program.constraints)
    split = {
        group: {name: value for name, value in sites.items() if name in named},
        f"{group}_predictive": {n: v for n, v in sites.items() if n not in program.latents},
    }
    return {
        name: sites_dataset(program, chosen, coords, dims)
        for name, chosen in split.items()
        if chosen
    }


def _site_dims(name: str, site: dict, shape: tuple[int, ...], given: list[str] | None) -> list[str]:
    """Return the names of a site's dimensions: given ones, plates, ``event_dims``, defaults."""
    num_dims = len(shape)
    if given is not None:
        if len(given) != num_dims:
            raise ValueError(
                f"Site '{name}' has {num_dims} dimensions but `dims` names {given}; give one name "
                "for each."
            )
        return given
    names = [f"{name}_dim_{axis}" for axis in range(num_dims)]
    event_names = site.get("infer", {}).get("event_dims") or []
    names[num_dims - len(event_names) :] = event_names
    plates = site["cond_indep_stack"]
    if site["type"] == "sample":
        event_dim = site["fn"].event_dim
    else:  # It does not say how many of its axes are those of plates: the first ones.
        event_dim = max(num_dims - max((-frame.dim for frame in plates), default=0), 0)
    for frame in plates:
        axis = num_dims - event_dim + frame.dim
        if 0 <= axis < num_dims and shape[axis] == frame.size:
            names[axis] = frame.name
    return names
