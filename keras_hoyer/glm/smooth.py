"""The smooth step of ADMM: the loss beside a quadratic, by Newton in the smaller dimension.

Both classes solve for coefficients `beta` and an intercept `b`

    mean(loss(X beta + b)) + ridge / 2 |beta|^2 + rho / 2 |beta - target|^2

and keep what they factorized while neither `rho` nor the curvature changes. `X target` is handed
over, because ADMM knows it without a pass over a large `X`.
"""

from typing import Any

import numpy as np
from scipy import linalg

from keras_hoyer.glm.families import Family

Array = Any  # of float64

_STEPS = 30
_LEAST_CURVATURE = 1e-12


class Narrow:
    """For no more columns than rows: Newton on the coefficients."""

    def __init__(
        self, x: Array, y: Array, family: Family, ridge: float, fit_intercept: bool
    ) -> None:
        ones = np.ones((len(x), int(fit_intercept)))
        self._x = np.hstack([ones, x])
        self._y, self._family, self._ridge = y, family, ridge
        self._begin = int(fit_intercept)
        self._theta = np.zeros(self._x.shape[1])
        self._factor: tuple[float, Any] | None = None

    def start(self, beta: Array, intercept: float) -> None:
        """Where the first step begins."""
        self._theta[self._begin :] = beta
        self._theta[: self._begin] = intercept

    def solve(self, target: Array, x_target: Array, rho: float) -> tuple[Array, float, Array]:
        """The minimizer: coefficients, intercept, and `X` times the coefficients."""
        n, begin = len(self._y), self._begin
        total = rho + self._ridge
        pull = np.zeros(self._x.shape[1])
        pull[begin:] = total
        goal = np.zeros_like(pull)
        goal[begin:] = target * (rho / total)

        def objective(theta: Array) -> float:
            loss = self._family.loss(self._x @ theta, self._y).mean()
            return float(loss + 0.5 * (pull * (theta - goal) ** 2).sum())

        theta = self._theta
        for _ in range(1 if self._family.constant else _STEPS):
            eta = self._x @ theta
            gradient = self._x.T @ self._family.slope(eta, self._y) / n + pull * (theta - goal)
            step = linalg.cho_solve(self._factorized(eta, pull, rho), gradient)
            theta, done = _damped(objective, theta, step, gradient @ step, self._family.constant)
            if done:
                break
        self._theta = theta
        beta, intercept = theta[begin:].copy(), float(theta[:begin].sum())
        return beta, intercept, self._x @ theta - intercept

    def _factorized(self, eta: Array, pull: Array, rho: float) -> Any:
        if self._factor is not None and self._factor[0] == rho and self._family.constant:
            return self._factor[1]
        curvature = np.maximum(self._family.curvature(eta), _LEAST_CURVATURE)
        hessian = (self._x.T * (curvature / len(self._y))) @ self._x
        hessian[np.diag_indices_from(hessian)] += pull
        factor = linalg.cho_factor(hessian, lower=True, check_finite=False)
        self._factor = (rho, factor)
        return factor


class Wide:
    """For more columns than rows: Newton on `alpha`, of `beta = target + X' alpha`."""

    def __init__(
        self, x: Array, y: Array, family: Family, ridge: float, fit_intercept: bool
    ) -> None:
        self._x, self._y, self._family, self._ridge = x, y, family, ridge
        self._gram = x @ x.T
        self._fit_intercept = fit_intercept
        self._alpha, self._intercept = np.zeros(len(y)), 0.0
        self._factor: tuple[float, Any] | None = None

    def start(self, beta: Array, intercept: float) -> None:
        """Where the first step begins."""
        self._intercept = intercept

    def solve(self, target: Array, x_target: Array, rho: float) -> tuple[Array, float, Array]:
        """The minimizer: coefficients, intercept, and `X` times the coefficients."""
        total = rho + self._ridge
        goal, base = target * (rho / total), x_target * (rho / total)
        size = len(self._y)

        def objective(point: Array) -> float:
            inner = self._gram @ point[:-1]
            loss = self._family.loss(base + inner + point[-1], self._y).mean()
            return float(loss + 0.5 * total * (point[:-1] @ inner))

        point = np.append(self._alpha, self._intercept)
        for _ in range(1 if self._family.constant else _STEPS):
            inner = self._gram @ point[:-1]
            eta = base + inner + point[-1]
            slope = self._family.slope(eta, self._y)
            curvature = np.maximum(self._family.curvature(eta), _LEAST_CURVATURE)
            roots = np.sqrt(curvature)
            factor = self._factorized(roots, total * size)
            # Roots of the curvature on both sides keep the system positive definite.
            right = roots * (eta - base) - slope / roots
            solved = roots * linalg.cho_solve(factor, right, check_finite=False)
            intercept = 0.0
            if self._fit_intercept:
                # The intercept's own equation: the entries of `alpha` add to zero.
                ones = roots * linalg.cho_solve(factor, roots, check_finite=False)
                intercept = float(solved.sum() / ones.sum())
                solved = solved - intercept * ones
            new = np.append(solved, intercept)
            step = point - new
            gradient = self._gram @ (slope / size + total * point[:-1])
            decrement = float(gradient @ step[:-1] + slope.mean() * step[-1])
            point, done = _damped(objective, point, step, decrement, self._family.constant)
            if done:
                break
        self._alpha, self._intercept = point[:-1], float(point[-1])
        x_beta = base + self._gram @ self._alpha
        return goal + self._x.T @ self._alpha, self._intercept, x_beta

    def _factorized(self, roots: Array, pull: float) -> Any:
        if self._factor is not None and self._factor[0] == pull and self._family.constant:
            return self._factor[1]
        system = self._gram * np.outer(roots, roots)
        system[np.diag_indices_from(system)] += pull
        factor = linalg.cho_factor(system, lower=True, check_finite=False)
        self._factor = (pull, factor)
        return factor


def _damped(
    objective: Any, point: Array, step: Array, decrement: float, exact: bool
) -> tuple[Array, bool]:
    """A Newton step, halved until it improves; and whether it was the last that does."""
    if exact:
        return point - step, True
    now, size = objective(point), 1.0
    if decrement <= 1e-15 * (1 + abs(now)):
        return point - step, True
    while objective(point - size * step) > now - 1e-4 * size * decrement and size > 1e-8:
        size /= 2
    return point - size * step, False
