"""What the commands of several circuits print and draw of a fit: directions, and other engines."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn import Comparison, DSNResult, baselines, compare, sensitivity


def print_sensitivity(
    result: DSNResult, latent: str, low: Array, high: Array, distances: Array
) -> tuple[sensitivity.Modes, sensitivity.Curvature]:
    """Print modes and, for each direction, how the behavior changes along it.

    Directions come from the flow and, as a check, from the exponential family. The test moves the
    100 draws of 5,000 that are nearest to the mode and have room in the box.

    Parameters
    ----------
    result
        A fit.
    latent
        Name of the one latent site.
    low, high
        Bounds of its prior, each of shape ``(D,)``.
    distances
        Where to evaluate along each direction, in units of the site, shape ``(num_distances,)``.
    """
    modes = sensitivity.find_modes(result, jax.random.key(1))
    directions = {
        "flow": sensitivity.curvature(result, modes.values),
        "tilted": sensitivity.tilted_curvature(result, modes.values),
    }
    draws = result.sample(jax.random.key(2), 5000)
    room = jnp.max(jnp.abs(distances))
    inside = (draws[latent] > low + room) & (draws[latent] < high - room)
    draws = {name: value[jnp.all(inside, axis=-1)] for name, value in draws.items()}
    for mode, location in enumerate(modes.values[latent]):
        mass = f"{modes.mass[mode]:.3f} +- {modes.mass_se[mode]:.3f}"
        print(f"mode {mode}: mass {mass}, log q {modes.log_prob[mode]:.2f}, {_row(location)}")
        distance = jnp.linalg.norm(draws[latent] - location, axis=-1)
        nearest = jnp.argsort(distance)[:100]
        starts = {name: value[nearest] for name, value in draws.items()}
        for source, found in directions.items():
            for k, vector in enumerate(found.eigenvectors[mode]):
                test = sensitivity.perturbation_test(
                    result, jax.random.key(3), starts, vector, distances
                )
                lines = [
                    f"{name} {line.slope:+.3f} +- {line.slope_se:.3f} (p = {line.p_value:.2g})"
                    for name, line in test.regressions.items()
                ]
                value = found.eigenvalues[mode, k]
                print(f"  {source:6} v{k + 1} {value:+.3f} {_row(vector)}  {', '.join(lines)}")
    return modes, directions["flow"]


def other_engines(
    result: DSNResult,
    seed: int,
    coords: dict[str, Any],
    num_mcmc_steps: int,
    num_samples: int = 1000,
) -> dict[str, Any]:
    """Sample the tilted model, and condition the prior on the behavior.

    Parameters
    ----------
    result
        A fit.
    seed
        Seed of all engines.
    coords
        Names of the elements in ArviZ data.
    num_mcmc_steps
        Steps that move a particle of SMC-ABC after each resampling.
    num_samples
        Steps of each chain of NUTS to adapt, and as many to keep.

    Returns
    -------
    InferenceData or DataTree by name of the engine.
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    chains = partial(
        baselines.nuts,
        source=result,
        num_warmup=num_samples,
        num_samples=num_samples,
        coords=coords,
    )
    return {
        "NUTS": chains(keys[0]),
        "NeuTra": chains(keys[1], neutra=True),
        "SMC": baselines.smc(keys[2], result, coords=coords),
        "SMC-ABC": baselines.smc_abc(keys[3], result, num_mcmc_steps=num_mcmc_steps, coords=coords),
        "rejection": baselines.rejection(keys[4], result, coords=coords),
    }


def write_comparison(
    datas: dict[str, Any], latent: str, mode: Callable | None, out: Path
) -> tuple[Comparison, list[Path]]:
    """Compare the engines; write their data, a forest plot and the figure of the comparison.

    Parameters
    ----------
    datas
        InferenceData or DataTree by name.
    latent
        Name of the latent site that the forest plot shows.
    mode
        Names the mode of each draw; ``None`` where there is one.
    out
        Folder of the files.

    Returns
    -------
    The comparison and the files.
    """
    import arviz
    import matplotlib.pyplot as plt

    from numpyro_dsn import plots

    files = [out / "forest.png", out / "compare.png"]
    if int(arviz.__version__.split(".")[0]) >= 1:
        arviz.plot_forest(datas, var_names=[latent], combined=True, backend="matplotlib")
    else:
        arviz.plot_forest(
            list(datas.values()), model_names=list(datas), var_names=[latent], combined=True
        )
    plt.gcf().savefig(files[0], dpi=120, bbox_inches="tight")
    comparison = compare(datas, mode)
    plots.plot_compare(comparison)[0].figure.savefig(files[1], dpi=120)
    for name, engine in datas.items():
        files.append(out / f"{name}.nc")
        engine.to_netcdf(str(files[-1]), engine="h5netcdf")
    return comparison, files


def _row(values: Array) -> str:
    return "[" + " ".join(f"{float(value):+.3f}" for value in np.asarray(values)) + "]"
