"""Recurrent networks of low rank that compute: section 3.5 of the preprint, the draft's 3.4.

Which statistics of the connectivity make the latent state of a network of rank one a posterior,
its mean activity the mean and its fluctuations the variance? Run as ``python -m models.rnn``.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from models.rnn_theory import Network, mean_activity, solve
from numpyro_dsn import DSN, DSNResult, behavior, plots
from numpyro_dsn.constraints import Moments

OBSERVATION = 2.0
"""What is observed. Prior N(4, 1) and a likelihood of variance 1 give the posterior N(3, 0.5)."""

STD = 0.1**0.5
"""Standard deviation over networks that is asked for, of the mean and of the variance."""


def circuit() -> None:
    """Draw g and the means of m and n; record what mean-field theory says of the network."""
    g = numpyro.sample("g", dist.Uniform(0.0, 5.0))
    mean_m = numpyro.sample("M_m", dist.Uniform(-5.0, 5.0))
    mean_n = numpyro.sample("M_n", dist.Uniform(-5.0, 5.0))
    network = Network(g, mean_m, mean_n, mean_i=OBSERVATION, var_i=1.0, cov_ni=1.0)
    state = solve(network)
    numpyro.deterministic("mu", mean_activity(state, network))
    numpyro.deterministic("kappa", state.overlap)
    numpyro.deterministic("Delta_T", state.temporal)


def conditions(sites: dict[str, Array]) -> None:
    """Ask mean activity and its variance in time for the posterior's mean and variance."""
    behavior("mean", sites["mu"], Moments(mean=3.0, std=STD))
    behavior("variance", sites["Delta_T"], Moments(mean=0.5, std=STD))


def fit(seed: int) -> DSNResult:
    """Fit networks that condition on an observation, with the default method.

    Parameters
    ----------
    seed
        Seed of the run.
    """
    return DSN(circuit, conditions).run(jax.random.key(seed))


def print_statements(result: DSNResult) -> None:
    """Print the summary, the masses of both branches, and what carries mean and variance."""
    result.print_summary()
    draws = jax.tree.map(np.asarray, result.sample(jax.random.key(1), 10_000))
    positive = np.mean((draws["M_m"] > 0) & (draws["M_n"] > 0))
    negative = np.mean((draws["M_m"] < 0) & (draws["M_n"] < 0))
    print(f"M_m and M_n above zero: {positive:.3f} ± 0.005, below: {negative:.3f} ± 0.005")
    product = np.corrcoef(draws["M_m"] * draws["M_n"], draws["mu"])[0, 1]
    random = np.corrcoef(draws["g"], draws["Delta_T"])[0, 1]
    print(f"correlation of M_m M_n with mu {product:.2f}, of g with Delta_T {random:.2f} (± 0.01)")


def main() -> None:
    """Fit, print the table and statements, and write a netCDF file and figures."""
    parser = argparse.ArgumentParser(description="Networks of rank one that condition on an input.")
    parser.add_argument("--out", type=Path, default=Path("out/rnn"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = fit(arguments.seed)
    print_statements(result)
    data = result.to_inference_data()
    data.to_netcdf(str(arguments.out / "posterior.nc"), engine="h5netcdf")
    for name, draw in {"pair": plots.plot_pair, "behavior": plots.plot_behavior}.items():
        figure = draw(data).flat[0].get_figure(root=True)
        figure.savefig(arguments.out / f"{name}.png", dpi=120)
        plt.close(figure)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
