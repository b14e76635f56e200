"""From results to ArviZ data; the only importer of arviz, which is slow to import."""

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from numpyro_dsn.labels import element_label
from numpyro_dsn.version import __version__

if TYPE_CHECKING:
    from numpyro_dsn.program import Program
    from numpyro_dsn.result import DSNResult

Coords = dict[str, Any]
Dims = dict[str, list[str]]


def from_result(
    result: "DSNResult", rng_key: Array, num_samples: int, coords: Coords, dims: Dims
) -> Any:
    """Convert a fit to ``InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).

    Parameters
    ----------
    result
        The fit.
    rng_key
        Key of the draws.
    num_samples
        Number of draws from every chain and from the prior.
    coords, dims
        Coordinate values by dimension, and dimension names by site.

    Returns
    -------
    Groups ``posterior`` (latents and statistics), ``posterior_predictive`` (all sites that are no
    latents), ``prior`` and ``prior_predictive`` if the prior can be sampled, ``sample_stats``,
    ``constant_data`` (bounds on E[T]), ``behavior`` (what was achieved) and ``optimization``.
    """
    program = result.fit.program
    num_chains = len(result.epochs)
    draws, densities = zip(
        *(
            result.draw_chain(jax.random.fold_in(rng_key, chain), chain, num_samples)
            for chain in range(num_chains)
        ),
        strict=True,
    )
    sites = jax.tree.map(lambda *leaves: np.stack(leaves), *draws)
    groups = _sites_groups(program, sites, "posterior", coords, dims)
    groups["sample_stats"] = _sample_stats(result, sites, densities)
    if program.is_proper:
        prior_key = jax.random.fold_in(rng_key, num_chains)
        prior = result.draw_prior(prior_key, num_samples)
        prior = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prior)
        groups |= _sites_groups(program, prior, "prior", coords, dims)
    groups |= _behavior_groups(result)
    attrs = {
        "inference_method": "DSN",
        "status": result.status.name,
        "held_chain": result.chain,
        "held_epoch": int(result.epochs[result.chain]),
        "latents": json.dumps(sorted(program.latents)),
        "behaviors": json.dumps(sorted(program.constraints)),
        "num_simulations": float(result.history.epochs.num_simulations.sum()),
        "sampling_time": float(result.history.seconds.sum()),
    }
    return to_container(groups, attrs | _certificate_attrs(result))


def _certificate_attrs(result: "DSNResult") -> dict[str, Any]:
    """Return the certificate of the held fit as attributes, if its draws were kept."""
    if np.isnan(result.measured.gap):
        return {}
    certificate = result.certificate._asdict()
    eta = certificate.pop("natural_parameters")
    return certificate | {"natural_parameters": json.dumps(eta)}


def to_container(groups: dict[str, Any], attrs: dict[str, Any]) -> Any:
    """Put groups of ``xarray.Dataset`` into what the installed ArviZ uses.

    Parameters
    ----------
    groups
        Datasets by group name.
    attrs
        Numbers and strings, written to the container and to every group.

    Returns
    -------
    ``InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
    """
    import arviz
    import xarray

    attrs = {
        "inference_library": "numpyro_dsn",
        "inference_library_version": __version__,
        "numpyro_version": version("numpyro"),
        "jax_version": version("jax"),
        **attrs,
    }
    groups = {name: dataset.assign_attrs(attrs) for name, dataset in groups.items()}
    # ArviZ 1.x also has the name `InferenceData`, as a deprecated alias: ask for the version.
    if int(arviz.__version__.split(".")[0]) >= 1:
        tree = xarray.DataTree.from_dict(groups)
        tree.attrs = attrs
        return tree
    return arviz.InferenceData(attrs=attrs, warn_on_custom_groups=False, **groups)


def add_group(data: Any, name: str, variables: dict[str, Any], coords: Coords) -> Any:
    """Return a copy of ArviZ data with one more group, or with another one of that name.

    Parameters
    ----------
    data
        ``InferenceData`` or ``xarray.DataTree``.
    name
        Name of the group.
    variables
        Dimension names and values by variable.
    coords
        Coordinate values by dimension.
    """
    import xarray

    dataset = xarray.Dataset(variables, coords=coords).assign_attrs(data.attrs)
    copied = data.copy()
    if isinstance(copied, xarray.DataTree):
        copied[name] = xarray.DataTree(dataset)
        return copied
    if name in copied.groups():
        del copied[name]
    copied.add_groups({name: dataset}, warn_on_custom_groups=False)
    return copied


def parameter_labels(data: Any, names: list[str]) -> list[str]:
    """Return one label for each element of variables of the posterior, with its coordinates."""
    posterior = data["posterior"]
    labels = []
    for name in names:
        coords = [posterior[name][dim].values for dim in posterior[name].dims[2:]]
        for index in np.ndindex(*posterior[name].shape[2:]):
            at = [str(values[i]) for values, i in zip(coords, index, strict=True)]
            labels.append(element_label(name, at))
    return labels


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


def _sites_groups(
    program: "Program", sites: dict[str, np.ndarray], group: str, coords: Coords, dims: Dims
) -> dict[str, Any]:
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


def _sample_stats(
    result: "DSNResult", sites: dict[str, np.ndarray], densities: tuple[dict[str, Array], ...]
) -> Any:
    """Return log densities; ``lp`` is that of the prior tilted by the multipliers."""
    import xarray

    program = result.fit.program
    log_q, log_prior = (np.stack([d[name] for d in densities]) for name in ("log_q", "log_prior"))

    def statistics(values: dict[str, Array]) -> Array:
        terms = [program.constraints[n].statistics(values[n]) for n in program.constraints]
        return jax.numpy.concatenate(terms)

    asked = {name: jax.numpy.asarray(sites[name]) for name in program.constraints}
    tilt = np.asarray(jax.vmap(jax.vmap(statistics))(asked))
    epochs = result.history.epochs
    multipliers = epochs.multipliers[result.epochs, np.arange(len(result.epochs))]
    lp = log_prior - np.einsum("cdm,cm->cd", tilt, multipliers)
    variables = {"lp": lp, "log_q": log_q, "log_prior": log_prior, "log_weight": lp - log_q}
    num_chains, num_draws = log_q.shape
    return xarray.Dataset(
        {name: (["chain", "draw"], value) for name, value in variables.items()},
        coords={"chain": np.arange(num_chains), "draw": np.arange(num_draws)},
    )


def _behavior_groups(result: "DSNResult") -> dict[str, Any]:
    """Return bounds, what every chain achieved, and all epochs."""
    import xarray

    program, (epochs, trace, seconds) = result.fit.program, result.history
    chains = np.arange(len(result.epochs))
    statistic, per_statistic = {"statistic": program.labels}, ["chain", "statistic"]
    bounds = {"lower": program.lower, "upper": program.upper}
    held = {
        "achieved": epochs.mean,
        "achieved_se": epochs.mean_se,
        "scale": epochs.scale,
        "violation": epochs.violation,
        "multiplier": epochs.multipliers,
    }
    achieved = {n: (per_statistic, leaf[result.epochs, chains]) for n, leaf in held.items()}
    targets = {
        f"target_{name}": (per_statistic, np.tile(np.asarray(bound), (len(chains), 1)))
        for name, bound in bounds.items()
    }
    by_epoch = {
        name: (["chain", "epoch", "statistic"][: leaf.ndim], np.swapaxes(leaf, 0, 1))
        for name, leaf in epochs._asdict().items()
    }
    by_epoch["converged"] = (["chain", "epoch"], epochs.converged.T.astype(int))
    by_step = {
        "step_entropy": (["chain", "step"], np.asarray(trace.entropy).T),
        "step_mean": (["chain", "step", "statistic"], np.swapaxes(np.asarray(trace.mean), 0, 1)),
    }
    steps = {"step": np.asarray(trace.step)[:, 0], "epoch": np.arange(len(epochs.entropy))}
    last = trace.step[-1, 0] if len(trace.step) else 0
    num_epochs = len(epochs.entropy) - 1
    optimization = xarray.Dataset(
        {
            **by_epoch,
            **by_step,
            "seconds": (["epoch"], seconds),
            "held_epoch": (["chain"], result.epochs),
        },
        coords={"chain": chains, **steps, **statistic},
    ).assign_attrs(steps_per_epoch=float(last) / max(num_epochs, 1))
    return {
        "constant_data": xarray.Dataset(
            {name: (["statistic"], np.asarray(bound)) for name, bound in bounds.items()},
            coords=statistic,
        ),
        "behavior": xarray.Dataset(achieved | targets, coords={"chain": chains, **statistic}),
        "optimization": optimization,
    }
