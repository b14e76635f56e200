"""Exact maxima of entropy, from the dual on millions of draws of the prior, in float64 NumPy.

They share no line with the package. Every answer is kept in ``out/oracles/NAME.json``.

    python -m tests.benchmarks.oracles v1s lds-paper    # compute (or read) and print some of them
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.v1_statements import slope, spread

FOLDER = Path("out/oracles")


class Prior(NamedTuple):
    """A uniform prior in a box, and how many of its draws an answer rests on."""

    low: float
    high: float
    num_latents: int
    num_draws: int
    chunk: int = 200_000

    @property
    def entropy(self) -> float:
        """Entropy of the prior in nats."""
        return self.num_latents * float(np.log(self.high - self.low))

    def draws(self, seed: int = 2024) -> Iterator[np.ndarray]:
        """Yield draws chunk by chunk, each of shape ``(chunk, num_latents)``."""
        rng = np.random.default_rng(seed)
        for _ in range(self.num_draws // self.chunk):
            yield rng.uniform(self.low, self.high, (self.chunk, self.num_latents))


class Kept(NamedTuple):
    """Draws that have weight, their statistics in target units, and numbers to be averaged.

    ``noise`` is half the difference of the statistics between two halves of all runs.
    """

    z: np.ndarray
    statistics: np.ndarray
    extra: np.ndarray
    noise: np.ndarray


def without_noise(z: np.ndarray, statistics: np.ndarray, extra: np.ndarray) -> Kept:
    """Return draws of a simulator that has no noise."""
    return Kept(z, statistics, extra, np.zeros((len(z), 1)))


# The dual ----------------------------------------------------------------------------------------


def log_mean_exp(exponent: np.ndarray, number: int) -> tuple[float, np.ndarray]:
    """Return the log of the mean over ``number`` draws, the absent ones zero, and the weights."""
    top = exponent.max()
    weights = np.exp(exponent - top)
    total = weights.sum()
    return float(top + np.log(total / number)), weights / total


def solve_dual(
    statistics: np.ndarray, number: int, noise: np.ndarray | float = 0.0
) -> tuple[np.ndarray, float, np.ndarray]:
    """Minimize log E[exp(eta T)] by Newton's method with backtracking; E[T] is to be zero.

    ``noise`` is half the difference of T between two halves of all runs. The noise of T raises
    the mean of its exponential by half its variance, which is taken off.

    Returns
    -------
    eta, the minimum, and the weights of the draws.
    """
    noise = np.broadcast_to(noise, statistics.shape)

    def dual(eta: np.ndarray) -> tuple[float, np.ndarray]:
        return log_mean_exp(statistics @ eta - (noise @ eta) ** 2 / 2, number)

    eta = np.zeros(statistics.shape[1])
    value, weights = dual(eta)
    for _ in range(200):
        slopes = statistics - noise * (noise @ eta)[:, None]
        gradient = weights @ slopes
        if np.abs(gradient).max() < 1e-9:
            break
        second = (slopes * weights[:, None]).T @ slopes - np.outer(gradient, gradient)
        second -= (noise * weights[:, None]).T @ noise
        step, size = -np.linalg.solve(second, gradient), 1.0
        while size > 1e-12:
            trial, new = dual(eta + size * step)
            if trial <= value + 1e-4 * size * (gradient @ step):
                break
            size /= 2
        eta, value, weights = eta + size * step, trial, new
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    return eta, value, weights


def answer(
    prior: Prior, kept: Kept, left_out: float, more: Callable[..., dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the exact entropy and the moments of the solution as JSON's numbers and lists.

    ``more`` adds what it returns of the draws and their weights.
    """
    eta, value, weights = solve_dual(kept.statistics, prior.num_draws, kept.noise)
    mean = weights @ kept.z
    ess = 1 / np.sum(weights**2)
    error = np.sqrt(max(1 / ess - 1 / prior.num_draws, 0.0))
    return (more(kept, weights) if more else {}) | {
        "entropy": prior.entropy + value,
        "entropy_se": float(error),
        "eta_per_target_unit": eta.tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(weights @ (kept.z - mean) ** 2).tolist(),
        "extra": (weights @ kept.extra).tolist(),
        "ess": float(ess),
        "num_draws": prior.num_draws,
        "left_out": left_out,
    }


def collect(prior: Prior, simulate: Callable[[np.ndarray], Kept]) -> tuple[Kept, float]:
    """Simulate all draws; keep what ``simulate`` keeps, and say which share it leaves out."""
    parts = [simulate(z) for z in prior.draws()]
    kept = Kept(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
    return kept, 1 - len(kept.z) / prior.num_draws


def deviations(value: np.ndarray, mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the two statistics of ``Moments(mean, std)`` in target units, with mean zero."""
    unit = (value - mean) / std
    return unit, unit**2 - 1


# Linear system -----------------------------------------------------------------------------------

LDS_STD = {"paper": (1.0, 0.025**0.5), "published": (0.25, 0.1)}
"""Standard deviations of growth in 1/s and of frequency in Hz."""


def simulate_lds(z: np.ndarray, growth_std: float, frequency_std: float) -> Kept:
    """Leading eigenvalue; what is eight standard deviations away has a weight below e^-30."""
    half, det = (z[:, 0] + z[:, 3]) / 2, z[:, 0] * z[:, 3] - z[:, 1] * z[:, 2]
    root = np.sqrt((half**2 - det).astype(complex))
    growth, frequency = half + root.real, root.imag / (2 * np.pi)
    units = deviations(growth, 0.0, growth_std) + deviations(frequency, 1.0, frequency_std)
    statistics = np.stack(units, -1)
    near = np.abs(statistics[:, [0, 2]]).max(-1) < 8
    return without_noise(z[near], statistics[near], (z[near, 1] > 0).astype(float))


def lds(target: str) -> dict[str, Any]:
    """The two-dimensional linear system in the box of 10; ``extra`` is the mass with a12 > 0."""
    prior = Prior(-10.0, 10.0, 4, 16_000_000 if target == "paper" else 40_000_000)
    stds = LDS_STD[target]
    return answer(prior, *collect(prior, lambda z: simulate_lds(z, *stds)))


# Thin sheet --------------------------------------------------------------------------------------

SHEET_MEAN, SHEET_STD = 0.75, 0.075


def simulate_sheet(z: np.ndarray, step: float) -> Kept:
    """A steep sigmoid of a curved coordinate, rounded to ``step`` if that is not zero."""
    level = 1 / (1 + np.exp(-40 * (z[:, 0] + z[:, 1] - z[:, 2] * z[:, 3] - 6)))
    level = np.round(level / step) * step if step else level
    statistics = np.stack(deviations(level, SHEET_MEAN, SHEET_STD), -1)
    # Ten standard deviations away there is nothing but the prior's bulk, which has no weight.
    near = level > 0.1
    return without_noise(z[near], statistics[near], level[near])


def sheet(step: float) -> dict[str, Any]:
    """The thin sheet in the box of 5."""
    prior = Prior(-5.0, 5.0, 4, 40_000_000)
    with np.errstate(over="ignore"):
        return answer(prior, *collect(prior, lambda z: simulate_sheet(z, step)))


# Ganglion ----------------------------------------------------------------------------------------


def hub(size: int = 500) -> dict[str, Any]:
    """The hub's frequency without noise, from a grid of circuits in place of draws."""
    import jax

    from models.stg_circuit import NEURONS, frequency, simulate

    low, high = np.array([4.0, 0.01]), np.array([8.0, 4.0])
    cells = (np.arange(size) + 0.5) / size
    grid = low + (high - low) * np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2)
    one = NEURONS.index("hub")
    run = jax.jit(lambda g: jax.lax.map(lambda g: frequency(simulate(g))[one], g, batch_size=2000))
    found = np.asarray(run(grid.astype(np.float32)), float)
    kept = without_noise(grid, np.stack(deviations(found, 0.55, 0.025), -1), found)
    # As if it were the unit square; the volume of the box is added.
    solved = answer(Prior(0.0, 1.0, 2, size**2), kept, 0.0)
    return solved | {"entropy": solved["entropy"] + float(np.log(high - low).sum())}


# V1 ----------------------------------------------------------------------------------------------

RUN_AWAY = 1000.0
"""A circuit with a rate above this at the end, or with none at all, has run away."""


def v1_weights(z: np.ndarray) -> np.ndarray:
    """Return W of shape ``(4, 4, num)``, order E, P, S, V."""
    xe, ep, pp, vp, es, ps, vs, sv = z.T
    one, zero = np.ones_like(xe), np.zeros_like(xe)
    rows = [
        [one, -ep, -es, zero],
        [xe, -pp, -ps, zero],
        [xe, zero, zero, -sv],
        [xe, -vp, -vs, zero],
    ]
    return np.array(rows)


def v1_rates(
    z: np.ndarray, num_steps: int = 99, dt: float = 0.005, tau: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates after ``num_steps`` of the Runge-Kutta method, and the range of gamma.

    Returns
    -------
    Shape ``(4, num)``, and how far gamma went in the last 30 steps, shape ``(num,)``.
    """
    weights = v1_weights(z)

    def slope(rates: np.ndarray) -> np.ndarray:
        drive = np.maximum((weights * rates[None]).sum(1) + 1, 0)
        return (drive**2 - rates) / tau

    rates = np.ones((4, len(z)))
    low, high = np.full(len(z), np.inf), np.full(len(z), -np.inf)
    for step in range(num_steps):
        k1 = slope(rates)
        k2 = slope(rates + dt / 2 * k1)
        k3 = slope(rates + dt / 2 * k2)
        k4 = slope(rates + dt * k3)
        rates = rates + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        rates = np.clip(rates, -1e4, 1e4)
        if step >= num_steps - 30:
            gamma = isn_coefficient(rates[0])
            low, high = np.minimum(low, gamma), np.maximum(high, gamma)
    return rates, high - low


def isn_coefficient(rate: np.ndarray) -> np.ndarray:
    """Return gamma."""
    return 1 - 2 * np.sqrt(np.maximum(rate, 1e-12))


def simulate_v1(z: np.ndarray, silent: int, tolerance: float) -> Kept:
    """gamma with mean 0 and standard deviation 0.25, and a mean rate of a tolerance at most."""
    rates, moves = v1_rates(z)
    gamma = isn_coefficient(rates[0])
    units = *deviations(gamma, 0.0, 0.25), rates[silent] / tolerance - 1
    stable = np.abs(rates).max(0) < RUN_AWAY
    received = (
        v1_weights(z)[silent, [[0, 3], [1, 2]][silent - 2]] * rates[[[0, 3], [1, 2]][silent - 2]]
    )
    extra = np.stack([rates[silent], *received, moves > 0.05, moves > 0.25], -1)
    return without_noise(z[stable], np.stack(units, -1)[stable], extra[stable])


def v1_statements(kept: Kept, weights: np.ndarray) -> dict[str, Any]:
    """Errors of the standard deviations, and slopes of the two inputs against gamma."""
    slopes = [slope(0.25 * kept.statistics[:, 0], y, weights) for y in kept.extra.T[1:3]]
    return {
        "std_se": spread(kept.z, weights).error.tolist(),
        "slopes": [[float(s.value), float(s.error)] for s in slopes],
    }


def v1(silent: int, tolerance: float = 0.02) -> dict[str, Any]:
    """V1 with S (2) or V (3) silenced, no circuit that runs away.

    ``extra`` is its mean rate, its mean inputs from E and V, or from P and S, and the shares of
    circuits whose gamma moves by more than 0.05 and 0.25 in the last 150 ms.
    """
    prior = Prior(0.0, 20.0, 8, 4_000_000, 10_000)
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = collect(prior, lambda z: simulate_v1(z, silent, tolerance))
        return answer(prior, *drawn, v1_statements)


def fluctuations(z: np.ndarray, num_runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return how much E fluctuates in runs of 100 trials each, in Hz, shape ``(num, num_runs)``."""
    from models.v1_noise import BASELINE, CONTRAST, MATRIX

    shape = len(z), 100 * num_runs, 4
    rates, noise = rng.uniform(10, 25, shape), np.zeros(shape)
    size = np.sqrt(2 * 0.5 / 5 * 1.2) * z[:, None]
    excitatory = np.empty((50, *shape[:2]))
    for step in range(200):
        drive = np.maximum(rates @ MATRIX.T + BASELINE + 0.5 * CONTRAST + noise, 0)
        rates = np.clip(rates + 0.5 * (drive**2 - rates), 0, 1000)
        noise = 0.9 * noise + size * rng.standard_normal(shape)
        excitatory[step % 50] = rates[..., 0]
    return excitatory.std(0).reshape(len(z), num_runs, 100).mean(-1)


def ssn(mean: float, num_circuits: int = 12_000) -> dict[str, Any]:
    """The stochastic network of V1, by 2 runs of every circuit and 16 of those within 4 Hz.

    ``extra`` is the sum of squares of E and P's noise, and of S and V's.
    """
    prior = Prior(0.0, 0.05, 4, num_circuits, 100)
    rng = np.random.default_rng(7)

    def in_halves(runs: np.ndarray) -> np.ndarray:
        statistics = np.stack(deviations(runs, mean, 1.0), -1)
        return statistics.reshape(len(runs), 2, -1, 2).mean(2)

    def simulate(z: np.ndarray) -> Kept:
        first = fluctuations(z, 2, rng)
        near = np.abs(first.mean(1) - mean) < 4
        halves = in_halves(first)
        halves[near] = in_halves(fluctuations(z[near], 16, rng))
        squares = (z**2).reshape(-1, 2, 2).sum(-1)
        return Kept(z, halves.mean(1), squares, (halves[:, 0] - halves[:, 1]) / 2)

    return answer(prior, *collect(prior, simulate))


# Interface ---------------------------------------------------------------------------------------

ORACLES: dict[str, Callable[[], dict[str, Any]]] = {
    "lds-paper": partial(lds, "paper"),
    "lds-published": partial(lds, "published"),
    "sheet-smooth": partial(sheet, 0.0),
    "sheet-rounded": partial(sheet, 0.01),
    "hub": hub,
    "v1s": partial(v1, 2),
    "v1v": partial(v1, 3),
    "v1s-0.005": partial(v1, 2, 0.005),
    "v1s-0.1": partial(v1, 2, 0.1),
    "v1v-0.005": partial(v1, 3, 0.005),
    "v1v-0.1": partial(v1, 3, 0.1),
    "ssn-5": partial(ssn, 5.0),
    "ssn-10": partial(ssn, 10.0),
}


def oracle(name: str) -> dict[str, Any]:
    """Return an exact answer, from its file if there is one."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        began = time.perf_counter()
        found = ORACLES[name]() | {"seconds": round(time.perf_counter() - began, 1)}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1))
    return json.loads(file.read_text())


if __name__ == "__main__":
    for name in sys.argv[1:] or ORACLES:
        print(name, json.dumps(oracle(name)), flush=True)
