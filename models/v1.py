r"""Stabilization motifs in primary visual cortex, the draft's section 3.2.

Which weights between the four populations of :mod:`models.v1_circuit` silence S or V while
excitation is as often stabilized by inhibition as it is not?

Run as ``python -m models.v1``.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpyro
import numpyro.distributions as dist
from jax import Array

from models import v1_noise
from models.v1_circuit import (
    POPULATIONS,
    WEIGHTS,
    final_rates,
    isn_coefficient,
    weight_matrix,
)
from models.v1_statements import print_statements
from numpyro_dsn import DSN, DSNResult, behavior
from numpyro_dsn.constraints import AtMost, Moments

BOX = 20.0
"""Largest weight."""

STD = 0.25
"""Standard deviation of gamma that is asked for; its mean is 0."""

TOLERANCE = 0.02
"""Mean rate of a population that counts as silent; the published runs'."""


def circuit() -> None:
    """Draw the weights from flat priors and record rates, inputs and the ISN coefficient."""
    weights = {name: numpyro.sample(name, dist.Uniform(0.0, BOX)) for name in WEIGHTS}
    matrix = weight_matrix(weights)
    rates = final_rates(matrix)
    numpyro.deterministic("rates", rates)
    numpyro.deterministic("inputs", matrix * rates[None])
    numpyro.deterministic("gamma", isn_coefficient(rates[0]))


def silenced(sites: dict[str, Array], population: str, tolerance: float = TOLERANCE) -> None:
    r"""Ask for gamma of mean 0 and standard deviation 0.25, and a population that is silent.

    .. math:: E[\gamma] = 0, \qquad E[\gamma^2] = 0.25^2, \qquad E[r_\alpha] \le \epsilon

    A rate is never negative. Its mean is exactly 0 only if every circuit's is, so the draft's
    equality has no multiplier; the published runs accept a tolerance.

    Parameters
    ----------
    sites
        Sites of the circuit.
    population
        alpha, ``"S"`` or ``"V"``.
    tolerance
        epsilon.
    """
    behavior("regime", sites["gamma"], Moments(mean=0.0, std=STD))
    behavior("silence", sites["rates"][POPULATIONS.index(population)], AtMost(tolerance))


def fit(population: str, seed: int, tolerance: float = TOLERANCE) -> DSNResult:
    """Fit one of the motifs with the default method.

    Parameters
    ----------
    population
        The one that is silent, ``"S"`` or ``"V"``.
    seed
        Seed of the run.
    tolerance
        Largest mean rate of it.
    """
    statements = partial(silenced, population=population, tolerance=tolerance)
    return DSN(circuit, statements).run(jax.random.key(seed))


def to_data(result: DSNResult) -> Any:
    """Return InferenceData or DataTree with the names of the populations."""
    names = list(POPULATIONS)
    dims = {"rates": ["population"], "inputs": ["to", "from"]}
    coords = {"population": names, "to": names, "from": names}
    return result.to_inference_data(dims=dims, coords=coords)


BEHAVIORS = ("S", "V", "5Hz", "10Hz")
"""A population that is silenced, or how much E fluctuates."""


def main() -> None:
    """Fit the behaviors, print their tables, and write netCDF files and figures."""
    parser = argparse.ArgumentParser(description="Primary visual cortex.")
    parser.add_argument("--out", type=Path, default=Path("out/v1"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--behavior", nargs="+", choices=BEHAVIORS, default=["S", "V"], help="one or more"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    from models import v1_figures  # matplotlib is only needed here

    motifs, noises, hessians = {}, {}, {}
    for name in arguments.behavior:
        print(f"\n{name}")
        if name in POPULATIONS:
            result = fit(name, arguments.seed)
            hessians[name] = print_statements(result, name)
            data = motifs[name] = to_data(result)
        else:
            result = v1_noise.fit(float(name.removesuffix("Hz")), arguments.seed)
            v1_noise.print_statements(result)
            data = noises[name] = v1_noise.to_data(result)
        file = arguments.out / f"{name}.nc"
        data.to_netcdf(str(file), engine="h5netcdf")
        print(f"wrote {file}")
    for file in v1_figures.draw_all(motifs, noises, hessians, arguments.out):
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
