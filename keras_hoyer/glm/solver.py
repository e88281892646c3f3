"""ADMM for a loss beside a penalty of groups' norms."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_hoyer.glm.families import Family
from keras_hoyer.glm.penalties import NormPenalty
from keras_hoyer.glm.smooth import Narrow, Wide

Array = Any  # of float64

# How far `rho` stays above the concavity of the penalty.
_MARGIN = 1.1
# `rho` is balanced every so many steps, and after the last time frozen: only so ADMM converges.
_BALANCE_EVERY, _BALANCE_UNTIL = 10, 300
_RELAXATION = 1.6


@dataclass
class Solution:
    """Where ADMM ended.

    Attributes:
        coefficients: The split variable, which has exact zeros.
        intercept: That which is best for them.
        steps: Number of steps.
        primal: How far the two copies of the coefficients were apart, relative to their norm.
        dual: How far the gradient was from balance, relative to its largest entry at zero.
        converged: Whether both came below the tolerance.
    """

    coefficients: Array
    intercept: float
    steps: int
    primal: float
    dual: float
    converged: bool


class Problem:
    """A design and a response, a family, and groups of columns.

    Args:
        x: Float64 array of shape `(n, p)`.
        y: Float64 array of shape `(n,)`.
        family: What the response is like.
        groups: Int array of shape `(p,)`: the group of each column, from 0.
        ridge: Factor of half the sum of squares that is added to the mean loss.
        fit_intercept: Whether there is an intercept, which is not penalized.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        family: Family,
        groups: Array,
        ridge: float,
        fit_intercept: bool,
    ) -> None:
        self.x, self.y, self.family, self.groups, self.ridge = x, y, family, groups, ridge
        self.fit_intercept = fit_intercept
        self.sizes = np.bincount(groups)
        step = Narrow if x.shape[1] <= len(x) else Wide
        self.smooth = step(x, y, family, ridge, fit_intercept)
        mean = float(y.mean())
        self.null = family.link(mean) if fit_intercept else 0.0
        eta = np.full(len(y), self.null)
        self.null_gradient = x.T @ family.slope(eta, y) / len(y)
        curvature = family.curvature(eta)
        self.curvature = float((curvature @ np.square(x)).mean() / len(y)) + ridge

    def norms(self, beta: Array) -> Array:
        """The L2 norm of each group."""
        return np.sqrt(np.bincount(self.groups, np.square(beta)))

    def times(self, beta: Array) -> Array:
        """`X` times coefficients of which many are zero."""
        some = np.flatnonzero(beta)
        if some.size > beta.size // 4:
            return self.x @ beta
        return self.x[:, some] @ beta[some]

    def best_intercept(self, beta: Array, intercept: float) -> float:
        """The intercept that is best for these coefficients."""
        if not self.fit_intercept:
            return 0.0
        offset = self.times(beta)
        for _ in range(50):
            eta = offset + intercept
            slope = float(self.family.slope(eta, self.y).mean())
            step = slope / max(float(self.family.curvature(eta).mean()), 1e-12)
            intercept -= float(np.clip(step, -5.0, 5.0))
            if abs(step) <= 1e-14 * (1 + abs(intercept)):
                break
        return intercept

    def gradient(self, beta: Array, intercept: float) -> Array:
        """The gradient of the mean loss and the ridge by the coefficients."""
        slope = self.family.slope(self.times(beta) + intercept, self.y)
        return self.x.T @ slope / len(self.y) + self.ridge * beta

    def shrink(self, penalty: NormPenalty, point: Array, step: float, strengths: Array) -> Array:
        """The proximal step of the groups."""
        norms = self.norms(point)
        new = penalty.shrink(norms, step, strengths)
        factors = np.divide(new, norms, out=np.zeros_like(norms), where=norms > 0)
        return np.where(factors[self.groups] > 0, point * factors[self.groups], 0.0)


def solve(
    problem: Problem,
    penalty: NormPenalty,
    strengths: Array,
    beta: Array,
    intercept: float,
    rho: float | None,
    max_iter: int,
    tol: float,
) -> Solution:
    """Minimizes the mean loss plus the penalty, from given coefficients on.

    Args:
        problem: The data.
        penalty: The penalty of the norms.
        strengths: The strength of each group, infinite for one that stays zero.
        beta: Coefficients to begin with.
        intercept: An intercept to begin with.
        rho: The weight of the quadratic to begin with, above `least_rho`; `None` for one by the
            curvature of the loss.
        max_iter: Most steps.
        tol: Both relative residuals come below it.

    Returns:
        The solution; also where it has not converged.
    """
    floor = least_rho(penalty, strengths)
    rho = _first_rho(problem, floor) if rho is None else rho
    # Over-relaxation is for convex penalties.
    relaxation = _RELAXATION if floor == 0 and penalty.convex else 1.0
    scale = max(float(np.abs(problem.null_gradient).max()), 1e-300)
    problem.smooth.start(beta, intercept)
    z = beta.copy()
    u = -problem.gradient(z, intercept) / rho  # in balance, if the coefficients are a solution
    xz, xu = problem.times(z), problem.x @ u
    primal = dual = np.inf
    steps = 0
    for steps in range(1, max_iter + 1):
        beta, intercept, x_beta = problem.smooth.solve(z - u, xz - xu, rho)
        mixed = relaxation * beta + (1 - relaxation) * z
        x_mixed = relaxation * x_beta + (1 - relaxation) * xz
        before, z = z, problem.shrink(penalty, mixed + u, 1 / rho, strengths)
        xz = problem.times(z)
        u, xu = u + mixed - z, xu + x_mixed - xz
        size = max(float(np.linalg.norm(beta)), float(np.linalg.norm(z)), scale / problem.curvature)
        primal = float(np.linalg.norm(beta - z)) / size
        dual = rho * float(np.abs(z - before).max()) / scale
        if max(primal, dual) <= tol and _is_balanced(problem, z, intercept, u, rho, tol * scale):
            break
        if steps % _BALANCE_EVERY == 0 and steps <= _BALANCE_UNTIL:
            wanted = rho * float(np.clip(np.sqrt(primal / max(dual, 1e-300)), 0.2, 5.0))
            if not 1 / 3 < wanted / rho < 3:
                wanted = max(wanted, _MARGIN * floor)
                u, xu, rho = u * (rho / wanted), xu * (rho / wanted), wanted
    converged = max(primal, dual) <= tol
    return Solution(z, problem.best_intercept(z, intercept), steps, primal, dual, converged)


def _first_rho(problem: Problem, floor: float) -> float:
    """Between the mean curvature and that of the directions which the rows see."""
    rows, columns = problem.x.shape
    return float(max(problem.curvature * np.sqrt(columns / min(rows, columns)), 2 * floor))


def least_rho(penalty: NormPenalty, strengths: Array) -> float:
    """The concavity of the penalty: the quadratic has to outweigh it."""
    return penalty.concavity(strengths[np.isfinite(strengths)])


def _is_balanced(
    problem: Problem, z: Array, intercept: float, u: Array, rho: float, bound: float
) -> bool:
    """Whether the gradient at the split variable itself is what the penalty's slope there is."""
    gradient = problem.gradient(z, problem.best_intercept(z, intercept))
    return float(np.abs(gradient + rho * u)[z != 0].max(initial=0.0)) <= bound
