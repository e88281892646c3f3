"""The estimator and the path, as scikit-learn has them."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, d2_tweedie_score, r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from keras_hoyer._checks import check_choice, check_count, check_number
from keras_hoyer.glm import penalties
from keras_hoyer.glm.families import FAMILIES
from keras_hoyer.glm.solver import Problem, Solution, least_rho, solve

Array = Any


class GroupGLM(BaseEstimator):
    """A generalized linear model whose coefficients come in groups, most of which are zero.

    It minimizes `mean(loss) + ridge / 2 * sum(coef**2) + sum(p(weights * norms))`: the mean loss of
    the family, half the squared error for `"gaussian"`, and a penalty of the L2 norms of the
    groups. With a penalty that is not convex it ends in a stationary point that depends on where
    it begins: by default at the group lasso's solution.

    Columns are taken as they are: scale them first if their units differ. MCP, SCAD, transformed
    L1 and Hoyer-Square do not bound large coefficients: with classes that can be separated there
    is no minimizer without a `ridge`. Hoyer-Square is here to be compared with: on plain problems
    the others beat it.

    Source: Ke, Shin, Lou and Ahn, "A generalized formulation for group selection via ADMM" (2024);
    Boyd et al., "Distributed optimization and statistical learning via ADMM" (2011).

    Args:
        family: `"gaussian"`, `"binomial"` (two classes, of any labels) or `"poisson"`.
        penalty: `"lasso"`, `"adaptive_lasso"` (the lasso with weights divided by the norms that
            `init` has), `"mcp"`, `"scad"`, `"transformed_l1"`, `"log_sum"`, `"l_half"` or
            `"hoyer_square"`. For MCP and SCAD the strength is the slope at zero.
        groups: An integer for each column. Defaults to `None`: each column is a group.
        strength: Positive float. Defaults to 0.1.
        weights: Positive number for each group, in the order of `np.unique(groups)`, by which the
            strength is multiplied. Defaults to `None`: the square roots of the groups' sizes.
        init: Where to begin: `"lasso"`, `"zeros"`, or an array of coefficients.
        ridge: Float, 0 or more. Defaults to 0.
        fit_intercept: Whether there is an intercept, which is not penalized.
        gamma: Positive float, of MCP.
        a: Positive float, of SCAD (above 1) or of transformed L1. Defaults to `None`: 3.7 and 1.
        epsilon: Positive float, of the log penalty. Defaults to 0.1.
        rho: Weight of ADMM's quadratic to begin with, above the concavity of the penalty. Defaults
            to `None`: by the curvature of the loss.
        max_iter: Most steps of ADMM. Defaults to 5000.
        tol: Bound for the relative residuals. Defaults to 1e-6.

    Attributes:
        coef_: Float64 array of shape `(p,)`, exactly zero in groups that are left out.
        intercept_: Float.
        groups_: Sorted array of the groups that are not zero.
        n_iter_: Number of steps.
        residuals_: The relative primal and dual residual at the end.
        classes_: The two labels, of the binomial family.

    Raises:
        ValueError: By `fit`, if an argument is out of its range, groups leave a column out or the
            labels contradict the family.

    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(100, 6))
    >>> y = x[:, :2] @ [1.0, -2.0] + 0.1 * random.normal(size=100)
    >>> model = GroupGLM(penalty="mcp", groups=[0, 0, 1, 1, 2, 2], strength=0.3).fit(x, y)
    >>> model.groups_.tolist(), model.coef_.round(1).tolist()
    ([0], [1.0, -2.0, 0.0, 0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        family: str = "gaussian",
        penalty: str = "lasso",
        groups: Any = None,
        strength: float = 0.1,
        weights: Any = None,
        init: Any = "lasso",
        ridge: float = 0.0,
        fit_intercept: bool = True,
        gamma: float = 3.0,
        a: float | None = None,
        epsilon: float = 0.1,
        rho: float | None = None,
        max_iter: int = 5000,
        tol: float = 1e-6,
    ) -> None:
        self.family = family
        self.penalty = penalty
        self.groups = groups
        self.strength = strength
        self.weights = weights
        self.init = init
        self.ridge = ridge
        self.fit_intercept = fit_intercept
        self.gamma = gamma
        self.a = a
        self.epsilon = epsilon
        self.rho = rho
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any) -> "GroupGLM":
        """Fits the model.

        Args:
            X: Array of shape `(n, p)`, without NaN.
            y: Array of shape `(n,)`: numbers, two labels, or counts, by the family.

        Returns:
            The estimator itself.
        """
        problem = self._prepare(X, y)
        init = self._initial(problem)
        return self._take(self._solve(problem, init), problem)

    def predict(self, X: Any) -> Any:
        """The mean of the response for each row; for the binomial family its label."""
        eta = self._predictor(X)
        if self.family == "binomial":
            return self.classes_[(eta > 0).astype(int)]
        return FAMILIES[self.family].mean(eta)

    @available_if(lambda self: self.family == "binomial")
    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the two labels, of shape `(n, 2)`; for the binomial family alone."""
        one = FAMILIES["binomial"].mean(self._predictor(X))
        return np.stack([1 - one, one], axis=1)

    def score(self, X: Any, y: Any) -> float:
        """R squared, accuracy, or the share of Poisson deviance that is explained."""
        found = self.predict(X)
        if self.family == "binomial":
            return float(accuracy_score(y, found))
        if self.family == "poisson":
            return float(d2_tweedie_score(y, np.maximum(found, 1e-300), power=1))
        return float(r2_score(y, found))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator, by the family."""
        tags = super().__sklearn_tags__()
        from sklearn.utils import ClassifierTags, RegressorTags  # noqa: PLC0415

        tags.target_tags.required = True
        if self.family == "binomial":
            tags.estimator_type = "classifier"
            tags.classifier_tags = ClassifierTags(multi_class=False)
        else:
            tags.estimator_type = "regressor"
            tags.regressor_tags = RegressorTags()
            tags.target_tags.positive_only = self.family == "poisson"
        return tags

    def _predictor(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_ + self.intercept_

    def _prepare(self, X: Any, y: Any) -> Problem:
        """The checked data as a problem; sets what is known of the labels and the groups."""
        self._check_arguments()
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=self.family != "binomial")
        y = self._checked_response(y)
        self._names, groups = self._checked_groups(X.shape[1])
        return Problem(
            X, y, FAMILIES[self.family], groups, float(self.ridge), bool(self.fit_intercept)
        )

    def _check_arguments(self) -> None:
        check_choice("family", self.family, tuple(FAMILIES))
        check_choice("penalty", self.penalty, penalties.NAMES)
        check_choice("fit_intercept", self.fit_intercept, (False, True))
        for name in ("strength", "gamma", "epsilon", "tol"):
            check_number(name, getattr(self, name), "a positive number", lambda v: v > 0)
        check_number("ridge", self.ridge, "a number, 0 or more", lambda v: v >= 0)
        check_count("max_iter", self.max_iter, 1)
        if self.a is not None:
            least = 1 if self.penalty == "scad" else 0
            check_number("a", self.a, f"a number above {least}", lambda v: v > least)
        if self.rho is not None:
            check_number("rho", self.rho, "a positive number", lambda v: v > 0)
        if isinstance(self.init, str):
            check_choice("init", self.init, ("lasso", "zeros"))

    def _checked_response(self, y: Array) -> Array:
        if self.family == "binomial":
            check_classification_targets(y)
            self.classes_ = np.unique(y)
            if self.classes_.size != 2:
                raise ValueError(
                    "Invalid value for argument `y`. Expected two classes for the binomial "
                    f"family. Received: {self.classes_.size} class"
                    f"{'' if self.classes_.size == 1 else 'es'}: Only binary classification is "
                    f"supported. The type of the target is {self.classes_.tolist()[:10]}."
                )
            return (y == self.classes_[1]).astype(np.float64)
        y = y.astype(np.float64)
        if self.family == "poisson" and ((y < 0).any() or not y.any()):
            raise ValueError(
                "Invalid value for argument `y`. Expected counts, 0 or more and not all 0, for the "
                f"poisson family. Received: values from {y.min():g} to {y.max():g}"
            )
        return y

    def _checked_groups(self, columns: int) -> tuple[Array, Array]:
        """The names of the groups, sorted, and the number of each column's group."""
        if self.groups is None:
            return np.arange(columns), np.arange(columns)
        groups = np.asarray(self.groups)
        if groups.shape != (columns,) or groups.dtype.kind not in "iu":
            raise ValueError(
                "Invalid value for argument `groups`. Expected an integer for each of the "
                f"{columns} columns: each is in exactly one group. For groups that overlap see "
                "adelie or group-lasso. Received: "
                f"an array of shape {groups.shape} and dtype {groups.dtype}"
            )
        return np.unique(groups, return_inverse=True)

    def _strengths(self, problem: Problem) -> Array:
        """The strength of each group."""
        weights = np.sqrt(problem.sizes) if self.weights is None else np.asarray(self.weights)
        if weights.shape != problem.sizes.shape or not (
            weights.dtype.kind in "iuf" and np.isfinite(weights).all() and (weights > 0).all()
        ):
            raise ValueError(
                "Invalid value for argument `weights`. Expected a positive number for each of the "
                f"{problem.sizes.size} groups. Received: weights={self.weights!r}"
            )
        return self.strength * weights.astype(np.float64)

    def _initial(self, problem: Problem) -> tuple[Array, float]:
        """Coefficients and intercept to begin with."""
        columns = problem.x.shape[1]
        if not isinstance(self.init, str):
            beta = np.asarray(self.init, np.float64)
            if beta.shape != (columns,) or not np.isfinite(beta).all():
                raise ValueError(
                    "Invalid value for argument `init`. Expected 'lasso', 'zeros' or "
                    f"{columns} finite numbers. Received: init={self.init!r:.100}"
                )
            return beta, problem.best_intercept(beta, problem.null)
        zeros = np.zeros(columns), problem.null
        if self.init == "zeros" or self.penalty == "lasso":
            return zeros
        lasso = penalties.make("lasso", self.strength, self.gamma, self.a, self.epsilon)
        found = solve(
            problem, lasso, self._strengths(problem), *zeros, None, self.max_iter, self.tol
        )
        return found.coefficients, found.intercept

    def _solve(self, problem: Problem, init: tuple[Array, float]) -> Solution:
        strengths = self._strengths(problem)
        if self.penalty == "adaptive_lasso":
            norms = problem.norms(init[0])
            strengths = np.divide(
                strengths, norms, out=np.full_like(strengths, np.inf), where=norms > 0
            )
        penalty = penalties.make(self.penalty, self.strength, self.gamma, self.a, self.epsilon)
        floor = least_rho(penalty, strengths)
        if self.rho is not None and self.rho <= floor:
            raise ValueError(
                "Invalid value for argument `rho`. Expected a number above the concavity of the "
                f"penalty, {floor:g}, or `None`. Received: rho={self.rho!r}"
            )
        return solve(problem, penalty, strengths, *init, self.rho, self.max_iter, self.tol)

    def _take(self, found: Solution, problem: Problem) -> "GroupGLM":
        """Sets what was found; warns if that is not converged."""
        if not found.converged:
            warnings.warn(
                f"ADMM ended at its limit of {found.steps} steps with a primal residual of "
                f"{found.primal:.2g} and a dual one of {found.dual:.2g}, of which tol={self.tol:g} "
                "was asked. Raise `max_iter`, or `tol`.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.coef_, self.intercept_ = found.coefficients, found.intercept
        self.groups_ = self._names[problem.norms(found.coefficients) > 0]
        self.n_iter_ = found.steps
        self.residuals_ = (found.primal, found.dual)
        return self


def group_path(
    X: Any,
    y: Any,
    strengths: Sequence[float] | None = None,
    n_strengths: int = 30,
    shortest: float = 1e-2,
    **arguments: Any,
) -> list[GroupGLM]:
    """Fits a `GroupGLM` for each of many strengths, from strong to weak.

    Each begins where the one before ended. The other way, from many groups to few, penalties that
    are not convex end in bad minima.

    Args:
        X: Array of shape `(n, p)`.
        y: Array of shape `(n,)`.
        strengths: Positive floats, in any order. Defaults to `None`: a geometric row of
            `n_strengths` from that which leaves no group.
        n_strengths: Int, 1 or more. Defaults to 30.
        shortest: Float between 0 and 1: the last of that row by the first. Defaults to 1e-2.
        **arguments: Those of `GroupGLM`, but for `strength`.

    Returns:
        A list of fitted estimators, the strongest first.

    Raises:
        ValueError: As `GroupGLM.fit`.

    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(100, 6))
    >>> y = x[:, :2] @ [1.0, -2.0] + 0.1 * random.normal(size=100)
    >>> path = group_path(x, y, n_strengths=4, groups=[0, 0, 1, 1, 2, 2])
    >>> [model.groups_.tolist() for model in path]
    [[], [0], [0], [0, 1, 2]]
    """
    first = GroupGLM(**arguments)
    problem = first._prepare(X, y)
    if strengths is None:
        check_count("n_strengths", n_strengths, 1)
        check_number("shortest", shortest, "a number between 0 and 1", lambda v: 0 < v < 1)
        per_unit = first._strengths(problem) / first.strength
        top = float((problem.norms(problem.null_gradient) / per_unit).max()) * (1 + 1e-6)
        strengths = np.geomspace(top, top * shortest, n_strengths).tolist()
    for strength in strengths:
        check_number("strength", strength, "a positive number", lambda v: v > 0)
    zeros = np.zeros(problem.x.shape[1]), problem.null
    models, lasso, last = [], zeros, zeros
    for strength in sorted(strengths, reverse=True):
        model = GroupGLM(**{**arguments, "strength": float(strength)})
        model._prepare(X, y)
        if model.penalty == "adaptive_lasso":
            # Its weights are those of the lasso of the same strength.
            helper = GroupGLM(**{**arguments, "strength": float(strength), "penalty": "lasso"})
            found = helper._solve(problem, lasso)
            lasso = last = found.coefficients, found.intercept
        found = model._solve(problem, last)
        last = found.coefficients, found.intercept
        models.append(model._take(found, problem))
    return models
