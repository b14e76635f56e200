r"""The 2-D linear dynamical system of the draft's appendix A.1.1.

.. math:: \tau \dot x = A x, \qquad A = \begin{pmatrix} a_1 & a_2 \\ a_3 & a_4 \end{pmatrix}

Which dynamics matrices oscillate at 1 Hz without growing or decaying? The draft states no bounds
on the entries. Without bounds the maximum entropy is infinite: along :math:`a_2 \to \infty`,
:math:`a_3 \approx -(2 \pi)^2 / a_2` the property holds forever. The entries therefore lie in a
box, and every entropy here depends on it.

Run as ``python -m models.lds``.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from numpyro_dsn import (
    DSN,
    Comparison,
    DSNResult,
    DualNewton,
    PenaltyMethod,
    baselines,
    behavior,
    compare,
    sensitivity,
)
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP

BOX = 10.0
"""Bound on every entry of A, in 1/s; the published successor's."""


ENTRIES = {"entry": np.array(["a1", "a2", "a3", "a4"])}

NUM_COMPARED = 4000
"""Draws of the fit that is compared with other engines: as many as each of theirs."""


def leading_eigenvalue(a: Array, tau: float = 1.0) -> tuple[Array, Array]:
    r"""Return the eigenvalue of A / tau with the largest real part.

    .. math:: \lambda_1 = \tfrac12 \left( \mathrm{tr} + \sqrt{\mathrm{tr}^2 - 4 \det} \right)

    Gradients are finite everywhere, and zero through the root where the discriminant is zero.

    Parameters
    ----------
    a
        Entries :math:`a_1, a_2, a_3, a_4`, shape ``(4,)``, dimensionless.
    tau
        Time constant in s.

    Returns
    -------
    Real part in 1/s and imaginary part, not negative, in rad/s; each of shape ``()``.

    References
    ----------
    The draft's eq. 6.
    """
    a1, a2, a3, a4 = a / tau
    trace = a1 + a4
    discriminant = (a1 - a4) ** 2 + 4 * a2 * a3
    real_root = _safe_sqrt(discriminant)
    imaginary_root = _safe_sqrt(-discriminant)
    return (trace + real_root) / 2, imaginary_root / 2


def circuit(box: float = BOX) -> None:
    """Draw the entries of A from a flat prior and record the leading eigenvalue.

    Parameters
    ----------
    box
        Bound on every entry of A, in 1/s.
    """
    prior = dist.Uniform(-box * jnp.ones(4), box).to_event(1)
    a = numpyro.sample("a", prior, infer={"event_dims": ["entry"], "units": "1/s"})
    growth, angular = leading_eigenvalue(a)
    numpyro.deterministic("growth", growth)
    numpyro.deterministic("frequency", angular / (2 * jnp.pi))


def paper_band(sites: dict[str, Array]) -> None:
    """Ask for the draft's band, eq. 4: growth 0 with variance 1, 1 Hz with variance 0.025."""
    behavior("growth rate", sites["growth"], Moments(mean=0.0, std=1.0))
    behavior("oscillation", sites["frequency"], Moments(mean=1.0, std=0.025**0.5))


def published_band(sites: dict[str, Array]) -> None:
    """Ask for the published band: variances 0.25^2 (1/s)^2 and 0.1^2 Hz^2."""
    behavior("growth rate", sites["growth"], Moments(mean=0.0, std=0.25))
    behavior("oscillation", sites["frequency"], Moments(mean=1.0, std=0.1))


TARGETS: dict[str, Callable[[dict[str, Array]], None]] = {
    "paper": paper_band,
    "published": published_band,
}


def fit(target: str, seed: int, num_epochs: int) -> DSNResult:
    """Fit one of the bands with the default method.

    Parameters
    ----------
    target
        ``"paper"`` or ``"published"``.
    seed
        Seed of the run.
    num_epochs
        Largest number of epochs.
    """
    return DSN(circuit, TARGETS[target]).run(jax.random.key(seed), num_epochs=num_epochs)


def fit_as_published(
    target: str, seed: int, num_epochs: int, num_steps: int = 5000, penalty_init: float = 1e-4
) -> DSNResult:
    """Fit one of the bands as the draft does (A.1.2): isotropic Gaussian start, penalty method.

    Parameters
    ----------
    target
        ``"paper"`` or ``"published"``.
    seed
        Seed of the run.
    num_epochs, num_steps
        Number of epochs, and of optimizer steps in each.
    penalty_init
        Penalty of the first epoch.
    """
    dsn = DSN(
        circuit,
        TARGETS[target],
        guide=AutoRealNVP(circuit, init_variance=1.0),
        multipliers=PenaltyMethod(penalty_init),
        num_steps=num_steps,
    )
    return dsn.run(jax.random.key(seed), num_epochs=num_epochs)


def draw_figures(data: Any, out: Path) -> list[Path]:
    """Write the draft's Fig. S2 and what the circuits do; directions if the data has them.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit.
    out
        Folder of the figures.

    Returns
    -------
    The files.
    """
    from numpyro_dsn import plots

    figures = {
        "pair": plots.plot_pair,
        "optimization": plots.plot_optimization,
        "behavior": plots.plot_behavior,
    }
    if hasattr(data, "sensitivity"):
        figures["eigenvectors"] = plots.plot_eigenvectors
    files = []
    for name, draw in figures.items():
        files.append(out / f"{name}.png")
        draw(data).flat[0].figure.savefig(files[-1], dpi=120)
    return files


def other_engines(result: DSNResult, seed: int) -> dict[str, Any]:
    """Sample the tilted model, and condition the prior on the behavior.

    Parameters
    ----------
    result
        A fit.
    seed
        Seed of all engines.

    Returns
    -------
    InferenceData or DataTree by name of the engine.
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    return {
        "NUTS": baselines.nuts(keys[0], result, coords=ENTRIES),
        "NeuTra": baselines.nuts(keys[1], result, neutra=True, coords=ENTRIES),
        "SMC": baselines.smc(keys[2], result, coords=ENTRIES),
        "SMC-ABC": baselines.smc_abc(keys[3], result, num_mcmc_steps=60, coords=ENTRIES),
        "rejection": baselines.rejection(keys[4], result, coords=ENTRIES),
    }


def sign_of_a2(sites: dict[str, np.ndarray]) -> np.ndarray:
    """Name the mode of each draw: the off-diagonal entries have opposite signs."""
    return np.where(sites["a"][:, 1] > 0, "a2 > 0", "a2 < 0")


def write_comparison(datas: dict[str, Any], out: Path) -> tuple[Comparison, list[Path]]:
    """Compare the engines; write a forest plot and the figure of the comparison.

    Parameters
    ----------
    datas
        InferenceData or DataTree by name.
    out
        Folder of the figures.

    Returns
    -------
    The comparison and the files.
    """
    import arviz
    import matplotlib.pyplot as plt

    from numpyro_dsn import plots

    files = [out / "forest.png", out / "compare.png"]
    if int(arviz.__version__.split(".")[0]) >= 1:
        arviz.plot_forest(datas, var_names=["a"], combined=True, backend="matplotlib")
    else:
        arviz.plot_forest(
            list(datas.values()), model_names=list(datas), var_names=["a"], combined=True
        )
    plt.gcf().savefig(files[0], dpi=120, bbox_inches="tight")
    comparison = compare(datas, sign_of_a2)
    plots.plot_compare(comparison)[0].figure.savefig(files[1], dpi=120)
    return comparison, files


def near_mode(result: DSNResult, mode: Array, num_circuits: int = 100) -> dict[str, Array]:
    """Return the draws of 5,000 that are nearest to a mode, with room to move in the box.

    Parameters
    ----------
    result
        A fit.
    mode
        Entries of A, shape ``(4,)``.
    num_circuits
        Number of draws.
    """
    draws = result.sample(jax.random.key(2), 5000)
    inside = jnp.max(jnp.abs(draws["a"]), axis=-1) < BOX - 0.5
    draws = {name: value[inside] for name, value in draws.items()}
    return sensitivity.nearest(
        draws, lambda sites: jnp.linalg.norm(sites["a"] - mode), num_draws=num_circuits
    )


def print_sensitivity(result: DSNResult) -> tuple[sensitivity.Modes, sensitivity.Curvature]:
    """Print modes and, for each direction, how growth and frequency change along it.

    Directions come from the flow and, as a check, from the exponential family.
    """
    modes = sensitivity.find_modes(result, jax.random.key(1))
    directions = {
        "flow": sensitivity.curvature(result, modes.values),
        "tilted": sensitivity.tilted_curvature(result, modes.values),
    }
    distances = jnp.linspace(-0.5, 0.5, 21)
    for mode, location in enumerate(modes.values["a"]):
        mass = f"{modes.mass[mode]:.3f} +- {modes.mass_se[mode]:.3f}"
        print(f"mode {mode}: mass {mass}, log q {modes.log_prob[mode]:.2f}, a = {_row(location)}")
        starts = near_mode(result, location)
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


def main() -> None:
    """Fit, print the table, and write one netCDF and the figures."""
    parser = argparse.ArgumentParser(description="The 2-D linear dynamical system.")
    parser.add_argument("--out", type=Path, default=Path("out/lds"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, default="paper")
    parser.add_argument("--num-epochs", type=int, default=30)
    parser.add_argument("--as-published", action="store_true", help="use the penalty method")
    parser.add_argument("--penalty-init", type=float, default=1e-4)
    parser.add_argument("--num-steps", type=int, default=5000, help="steps of its epochs")
    parser.add_argument("--compare", action="store_true", help="run NUTS, SMC and ABC too")
    parser.add_argument("--sensitivity", action="store_true", help="find modes and directions")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    common = arguments.target, arguments.seed, arguments.num_epochs
    began = time.perf_counter()
    if arguments.as_published:
        result = fit_as_published(*common, arguments.num_steps, arguments.penalty_init)
    else:
        result = fit(*common)
    seconds = time.perf_counter() - began
    result.print_summary()
    data = result.to_inference_data(coords=ENTRIES)
    if arguments.sensitivity:
        data = sensitivity.add_modes(data, *print_sensitivity(result))
    file = arguments.out / "fit.nc"
    data.to_netcdf(str(file), engine="h5netcdf")
    for written in [file, *draw_figures(data, arguments.out)]:
        print(f"wrote {written}")
    if arguments.compare:
        own = result.to_inference_data(num_samples=NUM_COMPARED, coords=ENTRIES)
        own.attrs["sampling_time"] = seconds
        if not arguments.as_published:
            own.attrs["num_simulations"] = _num_simulations(result)
        datas = {"DSN": own, **other_engines(result, arguments.seed)}
        comparison, figures = write_comparison(datas, arguments.out)
        print(comparison)
        for name, engine in datas.items():
            figures.append(arguments.out / f"{name}.nc")
            engine.to_netcdf(str(figures[-1]), engine="h5netcdf")
        for written in figures:
            print(f"wrote {written}")


def _num_simulations(result: DSNResult) -> int:
    """Return the number of simulations of a fit with the default method."""
    method, num_epochs = DualNewton(), len(result.history.epochs.entropy) - 1
    return method.num_first + num_epochs * method.num_draws


def _row(values: Array) -> str:
    return "[" + " ".join(f"{float(value):+.3f}" for value in values) + "]"


def _safe_sqrt(x: Array) -> Array:
    """Return sqrt(max(x, 0)) with a finite gradient, zero where x is not positive."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


if __name__ == "__main__":
    main()
