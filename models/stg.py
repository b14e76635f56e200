r"""Network syncing in the stomatogastric ganglion, the draft's section 3.1.

Which gap junctions :math:`g_{el}` and synapses :math:`g_{synA}` onto the hub neuron make the
circuit of :mod:`models.stg_circuit` oscillate at 0.55 Hz, between its fast and its slow rhythm?

Run as ``python -m models.stg``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from models import report
from models.stg_circuit import (
    CURRENT_NOISE,
    NEURONS,
    SAMPLE_INTERVAL,
    frequency,
    simulate,
)
from numpyro_dsn import DSN, DSNResult, behavior, sensitivity
from numpyro_dsn.constraints import Moments

Box = tuple[tuple[float, float], tuple[float, float]]

DRAFT_BOX: Box = ((0.0, 10.0), (0.0, 8.0))
"""Bounds of g_el and of g_synA in nS, as in the code at the time of the draft."""
PUBLISHED_BOX: Box = ((4.0, 8.0), (0.01, 4.0))
"""The published successor's."""
BOXES = {"published": PUBLISHED_BOX, "draft": DRAFT_BOX}

CONDUCTANCES = ("g_el", "g_synA")
COORDS = {"conductance": np.array(CONDUCTANCES), "neuron": np.array(NEURONS)}
"""Names of the elements in ArviZ data."""
HUB = NEURONS.index("hub")
NUM_SAMPLES = 250
"""Steps of each chain of NUTS to adapt, and as many to keep: one takes 100 gradients and more."""
MEAN, STD = 0.55, 0.025
"""Frequency that is asked for and its standard deviation, in Hz."""


def circuit(box: Box = PUBLISHED_BOX, noise: float = 0.0, dt: float = SAMPLE_INTERVAL) -> None:
    """Draw the two conductances from a flat prior and record every neuron's frequency.

    Parameters
    ----------
    box
        Lower and upper bound of each conductance, in nS.
    noise
        Standard deviation of the current noise, in A; fresh in every run.
    dt
        Euler step in s.
    """
    low, high = jnp.asarray(box).T
    prior = dist.Uniform(low, high).to_event(1)
    g = numpyro.sample("g", prior, infer={"event_dims": ["conductance"]})
    rng_key = numpyro.prng_key() if noise else None
    numpyro.deterministic("frequency", frequency(simulate(g, rng_key, noise, dt)))


def network_syncing(sites: dict[str, Array]) -> None:
    """Ask for the draft's property: all five neurons at 0.55 Hz, standard deviation 0.025 Hz."""
    everyone = jnp.ones(len(NEURONS))
    behavior("syncing", sites["frequency"], Moments(mean=MEAN * everyone, std=STD * everyone))


def intermediate_hub(sites: dict[str, Array]) -> None:
    """Ask for the published successor's property: the hub alone."""
    behavior("hub", sites["frequency"][HUB], Moments(mean=MEAN, std=STD))


BEHAVIORS: dict[str, Callable[[dict[str, Array]], None]] = {
    "intermediate-hub": intermediate_hub,
    "network-syncing": network_syncing,
}


def fit(
    property_name: str,
    box: Box,
    noise: float,
    seed: int,
    num_epochs: int,
    num_chains: int = 1,
) -> DSNResult:
    """Fit one of the properties with the default method.

    Without noise the frequency jumps between circuits, so that the solution has folds and slits;
    noise blurs them.

    Parameters
    ----------
    property_name
        Key of :data:`BEHAVIORS`.
    box
        Lower and upper bound of each conductance, in nS.
    noise
        Standard deviation of the current noise, in A.
    seed
        Seed of the run.
    num_epochs
        Largest number of epochs.
    num_chains
        Number of independent fits.
    """
    dsn = DSN(circuit, BEHAVIORS[property_name], num_chains=num_chains)
    return dsn.run(jax.random.key(seed), box, noise, num_epochs=num_epochs)


def inference_data(result: DSNResult) -> Any:
    """Return a fit as ArviZ data, with the names of conductances and neurons."""
    dims = {"frequency": ["neuron"]}
    if "syncing" in result.fit.program.constraints:
        dims["syncing"] = ["neuron"]
    return result.to_inference_data(coords=COORDS, dims=dims)


def print_moments(result: DSNResult, rng_key: Array, num_samples: int = 20_000) -> None:
    """Print mean and standard deviation of both conductances, in nS, of the fit and corrected."""
    for name, corrected in (("fit", False), ("corrected draws", True)):
        g = np.asarray(result.sample(rng_key, num_samples, corrected=corrected)["g"])
        cells = (
            f"{label} {mean:.3f} ({std:.3f}) nS"
            for label, mean, std in zip(CONDUCTANCES, g.mean(0), g.std(0), strict=True)
        )
        print(f"mean (sd) of the {name}: {', '.join(cells)}")


# Figures -----------------------------------------------------------------------------------------


def densest(data: Any) -> np.ndarray:
    """Return the draw of the held fit with the highest density, in nS, shape ``(2,)``."""
    chain = data.attrs["held_chain"]
    draw = int(data["sample_stats"]["log_q"][chain].values.argmax())
    return np.asarray(data["posterior"]["g"][chain, draw])


def plot_conductances(data: Any, box: Box, starred: np.ndarray, axis: Any) -> None:
    """Draw circuits colored by log density over contours of the hub's distance from 0.55 Hz.

    Of each mode that the data has, the sensitive direction is red and the degenerate one green.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    box
        Bounds of the axes, in nS.
    starred
        Points to mark, shape ``(num_points, 2)``, in nS.
    axis
        The axis to draw into.
    """
    lines = [np.linspace(low, high, 61) for low, high in box]
    grid = jnp.asarray(np.stack(np.meshgrid(*lines, indexing="ij"), -1))
    hub = jax.jit(jax.vmap(jax.vmap(lambda g: frequency(simulate(g))[HUB])))(grid)
    levels = STD * np.array([-2, -1, 0, 1, 2])
    contours = axis.contour(*lines, np.asarray(hub).T - MEAN, levels, colors="0.6", linewidths=0.8)
    axis.clabel(contours, fmt="%+.3g Hz", fontsize=6)
    g = np.asarray(data["posterior"]["g"]).reshape(-1, 2)
    log_q = np.asarray(data["sample_stats"]["log_q"]).ravel()
    order = np.argsort(log_q)
    points = axis.scatter(*g[order].T, c=log_q[order], s=4, linewidths=0)
    axis.figure.colorbar(points, ax=axis, label="log density (nats)")
    for number, point in enumerate(starred):
        axis.plot(*point, "*", color=f"C{number}", ms=14, mec="black", mew=0.8)
    if hasattr(data, "sensitivity"):
        found = data["sensitivity"].isel(chain=0)
        for location, directions in zip(
            found["location"].values, found["eigenvector"].values, strict=True
        ):
            for vector, color in zip(directions, ("C3", "C2"), strict=True):
                ends = location + 0.5 * np.outer([-1, 1], vector)
                axis.plot(*ends.T, color=color, lw=2)
            axis.plot(*location, "o", color="white", mec="black", ms=5)
    axis.set(xlabel="g_el (nS)", ylabel="g_synA (nS)", xlim=box[0], ylim=box[1])


def plot_traces(starred: np.ndarray, axes: np.ndarray) -> None:
    """Draw the potentials of all neurons at some points, one axis for each, without noise.

    Parameters
    ----------
    starred
        Conductances, shape ``(num_points, 2)``, in nS.
    axes
        One axis for each point.
    """
    run = jax.jit(jax.vmap(lambda g: (simulate(g), frequency(simulate(g))[HUB])))
    potentials, measured = map(np.asarray, run(jnp.asarray(starred, float)))
    times = SAMPLE_INTERVAL * np.arange(1, potentials.shape[1] + 1)
    offsets = -0.15 * np.arange(len(NEURONS))
    for number, axis in enumerate(axes):
        axis.plot(times, potentials[number] + offsets, color="black", lw=0.8)
        axis.set_yticks(offsets, NEURONS)
        axis.set_title(
            f"g = ({starred[number, 0]:.2f}, {starred[number, 1]:.2f}) nS: "
            f"hub at {measured[number]:.3f} Hz",
            fontsize=9,
            color=f"C{number}",
        )
    axes[-1].set_xlabel("time (s)")


def plot_frequencies(data: Any, axis: Any) -> None:
    """Draw every neuron's frequency over the fit, with 0.55 Hz and two standard deviations.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    axis
        The axis to draw into.
    """
    frequencies = np.asarray(data["posterior_predictive"]["frequency"])
    rows = frequencies.reshape(-1, len(NEURONS)).T
    axis.axhspan(MEAN - 2 * STD, MEAN + 2 * STD, color="0.9")
    axis.axhline(MEAN, color="0.5", lw=1)
    axis.violinplot(list(rows), range(len(NEURONS)), showextrema=False)
    axis.errorbar(range(len(NEURONS)), rows.mean(1), 2 * rows.std(1), fmt="ko", ms=3, capsize=3)
    axis.set_xticks(range(len(NEURONS)), NEURONS)
    axis.set_ylabel("frequency (Hz)")


def draw_figures(data: Any, box: Box, out: Path) -> list[Path]:
    """Write pair plot, optimization, conductances, traces and frequencies.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    box
        Bounds of the conductances, in nS.
    out
        Folder of the figures.

    Returns
    -------
    The files.
    """
    import matplotlib.pyplot as plt

    from numpyro_dsn import plots

    # The densest circuit, and the draft's example of one that does not sync.
    starred = np.stack([densest(data), [4.5, 3.0]])
    figures = {
        "pair": plots.plot_pair(data).flat[0].figure,
        "optimization": plots.plot_optimization(data).flat[0].figure,
    }
    figures["conductances"], axis = plt.subplots(figsize=(6, 4), layout="constrained")
    plot_conductances(data, box, starred, axis)
    figures["traces"], axes = plt.subplots(2, sharex=True, figsize=(6, 6), layout="constrained")
    plot_traces(starred, axes)
    figures["frequencies"], axis = plt.subplots(figsize=(5, 3), layout="constrained")
    plot_frequencies(data, axis)
    files = []
    for name, figure in figures.items():
        files.append(out / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def main() -> None:
    """Fit, print the table, and write one netCDF and the figures."""
    parser = argparse.ArgumentParser(description="The stomatogastric ganglion.")
    parser.add_argument("--out", type=Path, default=Path("out/stg"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--behavior", choices=BEHAVIORS, default="intermediate-hub")
    parser.add_argument("--box", choices=BOXES, default="published")
    parser.add_argument("--noise", action="store_true", help="add the published current noise")
    parser.add_argument("--num-epochs", type=int, default=30)
    parser.add_argument("--num-chains", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="run NUTS, SMC and ABC too")
    parser.add_argument("--sensitivity", action="store_true", help="find modes and directions")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    box, noise = BOXES[arguments.box], CURRENT_NOISE if arguments.noise else 0.0
    result = fit(
        arguments.behavior,
        box,
        noise,
        arguments.seed,
        arguments.num_epochs,
        arguments.num_chains,
    )
    result.print_summary()
    print_moments(result, jax.random.key(arguments.seed))
    data = inference_data(result)
    if arguments.sensitivity:
        low, high = jnp.asarray(box).T
        found = report.print_sensitivity(result, "g", low, high, jnp.linspace(-0.25, 0.25, 21))
        data = sensitivity.add_modes(data, *found)
    file = arguments.out / "fit.nc"
    data.to_netcdf(str(file), engine="h5netcdf")
    for written in [file, *draw_figures(data, box, arguments.out)]:
        print(f"wrote {written}")
    if arguments.compare:
        own = inference_data(result)
        datas = {"DSN": own} | report.other_engines(result, arguments.seed, COORDS, 60, NUM_SAMPLES)
        comparison, files = report.write_comparison(datas, "g", None, arguments.out)
        print(comparison)
        for written in files:
            print(f"wrote {written}")


if __name__ == "__main__":
    main()
