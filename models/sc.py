r"""Rapid task switching in superior colliculus, the draft's section 3.3.

Which weights between the four populations of :mod:`models.sc_simulator` make the animal go to the
light in Pro trials, and away from it in Anti trials, with accuracy p? Circuits are stochastic:
their accuracy is measured over a finite number of trials.

Run as ``python -m models.sc``.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from models.sc_modes import SELF_RANGES, ModeDraws, bend, mode_draws, tabulate
from models.sc_simulator import (
    DRAFT,
    MODES,
    PERIODS,
    SUCCESSOR,
    TASKS,
    Inactivation,
    Protocol,
    Responses,
    mode_eigenvalues,
    responses,
    simulate,
    symmetric_weight_matrix,
    task_mixing,
    weight_matrix,
)
from numpyro_dsn import DSN, DSNResult, behavior
from numpyro_dsn.constraints import AtLeast, AtMost, Moments

BOX = 5.0
"""Bound on every weight, dimensionless; the published successor's. The draft has none."""

ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9)
STRENGTHS = np.array([0.0, 0.3, 0.5, 0.675, 0.85, 1.0])
"""Shares of the activity that are silenced in the predictive check."""

NUM_TRIALS = 100
"""Trials of each task in a simulation."""

SLACK = 0.05
"""How far responses may be from all-or-none; the tolerance of the draft's convergence test."""

WEIGHTS = {
    4: ("sW", "vW", "hW", "dW"),
    8: ("sW_P", "sW_A", "vW_PA", "vW_AP", "dW_PA", "dW_AP", "hW_P", "hW_A"),
}


def circuit(
    num_weights: int = 4,
    num_trials: int = 200,
    protocol: Protocol = SUCCESSOR,
    inactivation: Inactivation = Inactivation(),  # noqa: B008 - immutable
    published_start: bool = False,
) -> None:
    """Draw weights from a flat prior, run trials of both tasks and record the responses.

    Parameters
    ----------
    num_weights
        4 if the tasks are alike, 8 if they are not.
    num_trials
        Number of trials of each task.
    protocol
        Inputs and noise.
    inactivation
        When and how much all units are silenced.
    published_start
        Whether to start as published, with a wrong sign.

    Raises
    ------
    ValueError
        If the number of weights is neither 4 nor 8.
    """
    if num_weights not in WEIGHTS:
        raise ValueError(f"`num_weights` must be 4 or 8, but is {num_weights}.")
    prior = dist.Uniform(-BOX * jnp.ones(num_weights), BOX).to_event(1)
    z = numpyro.sample("z", prior, infer={"event_dims": ["weight"]})
    weights = symmetric_weight_matrix(z) if num_weights == 4 else weight_matrix(z)
    numpyro.deterministic("eigenvalue", mode_eigenvalues(weights))
    numpyro.deterministic("task_mixing", task_mixing(weights))
    key = numpyro.prng_key()
    v = simulate(key, weights, num_trials, protocol, inactivation, published_start)
    for name, value in responses(v)._asdict().items():
        numpyro.deterministic(name, value)


def ask_for(
    sites: dict[str, Array], name: str, accuracy: float, std: float, num_published: int
) -> None:
    r"""State mean and variance over circuits of a response, as if of the published trials.

    .. math:: E[f] = p, \qquad E[(\bar f - p)^2 + s^2 / N] = \sigma^2

    :math:`\bar f` is the response to infinitely many trials and :math:`s^2` the variance of a
    single one; both sides of the second equation belong to N published trials, and its left side
    is estimated without bias from any number that is run.

    Parameters
    ----------
    sites
        Sites of the circuit.
    name
        ``"accuracy"`` or ``"response"``.
    accuracy, std
        p and :math:`\sigma`, the same in both tasks.
    num_published
        N.
    """
    value, square = sites[name], sites[f"{name}_square"]
    deviation = square - 2 * accuracy * value + accuracy**2
    spread = deviation + sites[f"{name}_variance"] / num_published
    behavior("performance", value, Moments(np.full(2, accuracy)))
    behavior("variance of performance", spread, Moments(np.full(2, std**2)))


def accurate(sites: dict[str, Array], accuracy: float = 0.75, std: float = 0.075) -> None:
    """Ask for an accuracy in both tasks, as the published successor does.

    Parameters
    ----------
    sites
        Sites of the circuit.
    accuracy, std
        Mean and standard deviation over circuits of the share of correct trials of 200.
    """
    ask_for(sites, "accuracy", accuracy, std, 200)


def decided(sites: dict[str, Array], accuracy: float = 0.75, std: float = 0.15) -> None:
    """Ask for an accuracy, Bernoulli responses and that the winner takes all, as the draft does.

    The draft asks for the extreme values of the last two, 0 and 1, which a mean over circuits has
    only if every trial of every circuit has them. Here they need only be close: within the
    tolerance of the draft's convergence test.

    Parameters
    ----------
    sites
        Sites of the circuit.
    accuracy, std
        Mean and standard deviation over circuits of the mean response in 500 trials.
    """
    ask_for(sites, "response", accuracy, std, 500)
    behavior("all or none", sites["indecision"], AtMost(np.full(2, SLACK)))
    behavior("winner takes all", sites["contrast"], AtLeast(np.full(2, 1 - SLACK)))


def decided_as_drafted(sites: dict[str, Array], accuracy: float = 0.75, std: float = 0.15) -> None:
    """Ask for the draft's equalities, which have no maximum-entropy solution.

    They hold at the ends of what the statistics can be, so no multiplier is large enough; only
    circuits whose units saturate to exactly 0 and 1 in float32 are there.

    Parameters
    ----------
    sites, accuracy, std
        As for :func:`decided`.
    """
    ask_for(sites, "response", accuracy, std, 500)
    behavior("all or none", sites["indecision"], Moments(np.zeros(2)))
    behavior("winner takes all", sites["contrast"], Moments(np.ones(2)))


class Setting(NamedTuple):
    """A circuit and a behavior that belong together.

    num_weights, protocol
        Arguments of :func:`circuit`.
    behavior
        Function of sites and accuracy.
    """

    num_weights: int
    protocol: Protocol
    behavior: Any


SETTINGS = {
    "successor": Setting(4, SUCCESSOR, accurate),
    "draft": Setting(8, DRAFT, decided),
    "as-drafted": Setting(8, DRAFT, decided_as_drafted),
}


def problem(
    name: str = "successor", accuracy: float = 0.75, num_trials: int = NUM_TRIALS
) -> tuple[Any, Any]:
    """Return the model and the behavior of a setting.

    The behavior asks the same of a circuit whatever the number of trials is.

    Parameters
    ----------
    name
        Key of :data:`SETTINGS`.
    accuracy
        Accuracy in both tasks.
    num_trials
        Number of trials of each task that are run, at least 2.

    Raises
    ------
    ValueError
        If the number of trials is less than 2, which have no variance.
    """
    setting = SETTINGS[name]
    if num_trials < 2:
        raise ValueError(f"`num_trials` must be at least 2, but is {num_trials}.")
    # Bound here and not given to `run`, where a number of trials could become a tracer.
    model = partial(circuit, setting.num_weights, num_trials, setting.protocol)
    return model, partial(setting.behavior, accuracy=accuracy)


def fit(
    name: str,
    accuracy: float,
    seed: int,
    num_epochs: int,
    num_trials: int = NUM_TRIALS,
) -> DSNResult:
    """Fit one accuracy with the default method.

    Parameters
    ----------
    name, accuracy, num_trials
        As for :func:`problem`.
    seed
        Seed of the run.
    num_epochs
        Largest number of epochs.
    """
    model, statements = problem(name, accuracy, num_trials)
    dsn = DSN(model, statements)
    return dsn.run(jax.random.key(seed), num_epochs=num_epochs)


def silence(
    result: DSNResult, rng_key: Array, strengths: ArrayLike, period: str = "delay"
) -> Array:
    """Return the accuracy of circuits of a fit when they are silenced.

    The same circuits with the same noise at every strength.

    Parameters
    ----------
    result
        A fit of a :func:`problem`.
    rng_key
        Key of the draws and of the noise.
    strengths
        Share of the activity that is lost, shape ``(num_strengths,)``.
    period
        One of ``PERIODS``: ``"delay"``, ``"choice"`` or ``"total"``.

    Returns
    -------
    Accuracies, shape ``(num_strengths, num_samples, 2)``.
    """
    draw_key, noise_key = jax.random.split(rng_key)
    draws = {"z": result.sample(draw_key)["z"]}

    def measure(strength: float) -> Array:
        condition = Inactivation(strength, *PERIODS[period])
        return result.predictive(noise_key, values=draws, inactivation=condition)["accuracy"]

    return jnp.stack([measure(strength) for strength in np.asarray(strengths)])


def to_data(result: DSNResult) -> Any:
    """Return InferenceData or DataTree with the names of weights, modes and tasks."""
    num_weights = result.fit.program.latents["z"]["value"].size
    coords = {"weight": list(WEIGHTS[num_weights]), "mode": list(MODES), "task": list(TASKS)}
    by_task = [*Responses._fields, *result.fit.program.constraints]
    dims = {"eigenvalue": ["mode"]} | {name: ["task"] for name in by_task}
    return result.to_inference_data(coords=coords, dims=dims)


def main() -> None:
    """Fit one accuracy or five, print the tables, and write netCDF files and figures."""
    parser = argparse.ArgumentParser(description="Rapid task switching in superior colliculus.")
    parser.add_argument("--out", type=Path, default=Path("out/sc"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting", choices=SETTINGS, default="successor")
    parser.add_argument("--accuracy", type=float, default=0.75)
    parser.add_argument("--all", action="store_true", help=f"fit all of {ACCURACIES}")
    parser.add_argument("--num-epochs", type=int, default=30)
    parser.add_argument("--num-trials", type=int, default=NUM_TRIALS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    from models import sc_figures  # matplotlib is only needed here

    written, datasets = [], {}
    of_fit: dict[float, ModeDraws] = {}
    of_optimum: dict[float, ModeDraws] = {}
    for accuracy in ACCURACIES if arguments.all else (arguments.accuracy,):
        print(f"accuracy {accuracy}")
        sizes = arguments.num_epochs, arguments.num_trials
        result = fit(arguments.setting, accuracy, arguments.seed, *sizes)
        result.print_summary()
        datasets[accuracy] = to_data(result)
        file = arguments.out / f"fit_{accuracy}.nc"
        datasets[accuracy].to_netcdf(str(file), engine="h5netcdf")
        written += [file, *sc_figures.draw_fit(datasets[accuracy], arguments.out, str(accuracy))]
        if arguments.setting == "successor":
            slopes = bend(np.asarray(result.get_samples()["z"]))
            for (low, high), slope in zip(SELF_RANGES, slopes, strict=True):
                print("slope of hW for sW in [{}, {}]: {:+.2f} +- {:.2f}".format(low, high, *slope))
        key = jax.random.key(arguments.seed)
        of_fit[accuracy], of_optimum[accuracy] = mode_draws(result, key)
        accuracies = silence(result, key, STRENGTHS)
        for strength, (pro, anti) in zip(STRENGTHS, accuracies.mean(1), strict=True):
            print(f"delay silenced by {strength}: accuracy {pro:.3f} in Pro, {anti:.3f} in Anti")
        written.append(arguments.out / f"silencing_{accuracy}.png")
        axis = sc_figures.plot_silencing(STRENGTHS, np.asarray(accuracies))
        axis.figure.savefig(written[-1], dpi=120)
    for name, draws in (("fit", of_fit), ("certified optimum", of_optimum)):
        print(f"eigenvalues of the {name}: mean +- its error (sd)\n{tabulate(draws)}")
    written.append(arguments.out / "eigenvalues.png")
    sc_figures.plot_eigenvalues(datasets)[0].figure.savefig(written[-1], dpi=120)
    for file in written:
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
