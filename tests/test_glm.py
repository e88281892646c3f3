"""Group-sparse models against their optimality conditions, and against scikit-learn's own."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from keras_hoyer.glm import GroupGLM, group_path

pytestmark = pytest.mark.default_backend

FAMILIES = ("gaussian", "binomial", "poisson")
SHAPES = {"wide": (60, 100), "narrow": (120, 40)}


def data_of(family, shape, seed=0):
    """A design, a response, and groups of mixed sizes whose columns lie apart."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    x = random.normal(size=shape)
    groups = random.permutation(np.repeat(np.arange(columns // 4), 4))
    groups[groups == 3] = 2  # one of 8
    beta = np.where(np.isin(groups, (0, 2, 5)), random.normal(size=columns), 0.0)
    eta = x @ beta / np.std(x @ beta)
    if family == "gaussian":
        return x, 3 + eta + 0.3 * random.normal(size=rows), groups
    if family == "binomial":
        return x, (random.random(rows) < 1 / (1 + np.exp(-eta))).astype(int), groups
    return x, random.poisson(np.exp(eta)), groups


# The derivative of each penalty at a norm above 0, `s` being its strength times weight.
SLOPES = {
    "lasso": lambda norm, s: s,
    "mcp": lambda norm, s: max(s - norm / 3.0, 0.0),
    "scad": lambda norm, s: s if norm <= s else max(3.7 * s - norm, 0.0) / 2.7,
    "transformed_l1": lambda norm, s: s * 2 / (1 + norm) ** 2,
    "log_sum": lambda norm, s: s / (0.1 + norm),
    "l_half": lambda norm, s: s / (2 * np.sqrt(norm)),
}


def slope_of_penalty(name, norm, s, weight, norms, weights):
    if name in SLOPES:
        return SLOPES[name](norm, s)
    total, squares = (weights * norms).sum(), (norms**2).sum()
    return 2 * (s / weight) * total / squares * (weight - total / squares * norm)


STRENGTH = {"transformed_l1": 0.02, "l_half": 0.02, "log_sum": 0.01, "hoyer_square": 0.008}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "penalty", ["lasso", "mcp", "scad", "transformed_l1", "log_sum", "l_half", "hoyer_square"]
)
def test_the_result_is_stationary(family, shape, penalty):
    x, y, groups = data_of(family, shape)
    ridge = 0.05  # classes may be separable, where most penalties have no minimizer
    model = GroupGLM(family, penalty, groups, STRENGTH.get(penalty, 0.05), ridge=ridge, tol=1e-7)
    model.fit(x, y)
    eta = x @ model.coef_ + model.intercept_
    mean = {"gaussian": eta, "binomial": 1 / (1 + np.exp(-eta)), "poisson": np.exp(eta)}[family]
    gradient = x.T @ (mean - y) / len(y) + ridge * model.coef_
    scale = np.abs(x.T @ (y.mean() - y) / len(y)).max()
    names, sizes = np.unique(groups, return_counts=True)
    weights = np.sqrt(sizes)
    norms = np.array([np.linalg.norm(model.coef_[groups == g]) for g in names])
    assert abs((mean - y).mean()) <= 1e-6 * scale
    assert 0 < np.count_nonzero(norms) < names.size
    assert model.groups_.tolist() == names[norms > 0].tolist()
    for name, weight, norm in zip(names, weights, norms, strict=True):
        own, s = gradient[groups == name], model.strength * weight
        if norm > 0:
            slope = slope_of_penalty(penalty, norm, s, weight, norms, weights)
            residual = own + slope * model.coef_[groups == name] / norm
            assert np.abs(residual).max() <= 1e-6 * scale
        else:
            assert (model.coef_[groups == name] == 0).all()
            if penalty in ("lasso", "mcp", "scad"):
                assert np.linalg.norm(own) <= s + 1e-6 * scale


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_groups_of_one_column_are_the_lasso_of_scikit_learn(shape, fit_intercept):
    x, y, _ = data_of("gaussian", shape)
    ours = GroupGLM(strength=0.07, fit_intercept=fit_intercept, tol=1e-8).fit(x, y)
    theirs = linear_model.Lasso(0.07, fit_intercept=fit_intercept, tol=1e-12).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, abs=1e-5)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson"])
def test_with_next_to_no_strength_it_is_the_ridge_of_scikit_learn(family):
    x, y, _ = data_of(family, SHAPES["narrow"])
    n = len(y)
    ours = GroupGLM(family, strength=1e-12, ridge=0.3, tol=1e-9).fit(x, y)
    theirs = {
        "gaussian": linear_model.Ridge(0.3 * n),
        "binomial": linear_model.LogisticRegression(C=1 / (0.3 * n), tol=1e-10, max_iter=5000),
        "poisson": linear_model.PoissonRegressor(alpha=0.3, tol=1e-10, max_iter=5000),
    }[family].fit(x, y)
    np.testing.assert_allclose(ours.coef_, np.ravel(theirs.coef_), atol=1e-4)
    assert ours.intercept_ == pytest.approx(float(np.ravel(theirs.intercept_)[0]), abs=1e-4)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-3)
    if family == "binomial":
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-4)


def test_the_adaptive_lasso_divides_the_weights_by_the_first_norms():
    x, y, groups = data_of("gaussian", SHAPES["narrow"])
    first = GroupGLM(groups=groups, strength=0.05, tol=1e-9).fit(x, y)
    sizes = np.bincount(groups, minlength=0)
    names = np.unique(groups)
    norms = np.array([np.linalg.norm(first.coef_[groups == g]) for g in names])
    model = GroupGLM(penalty="adaptive_lasso", groups=groups, strength=0.05, tol=1e-9).fit(x, y)
    assert set(model.groups_) <= set(first.groups_)
    weights = np.sqrt(sizes[names]) / np.where(norms > 0, norms, 1e-9)
    plain = GroupGLM(groups=groups, strength=0.05, weights=weights, tol=1e-9).fit(x, y)
    np.testing.assert_allclose(model.coef_, plain.coef_, atol=1e-5)


@pytest.mark.parametrize("penalty", ["lasso", "mcp", "adaptive_lasso"])
def test_a_path_goes_from_strong_to_weak_and_ends_in_good_minima(penalty):
    x, y, groups = data_of("gaussian", SHAPES["wide"])
    path = group_path(x, y, [0.05, 0.4, 0.1, 5.0], penalty=penalty, groups=groups, tol=1e-7)
    assert [model.strength for model in path] == [5.0, 0.4, 0.1, 0.05]
    assert path[0].groups_.size == 0
    assert path[-1].groups_.size >= path[1].groups_.size
    if penalty == "lasso":
        alone = GroupGLM(groups=groups, strength=0.05, tol=1e-7).fit(x, y)
        np.testing.assert_allclose(path[-1].coef_, alone.coef_, atol=1e-5)


def test_the_first_of_a_path_leaves_no_group_and_the_next_does():
    x, y, groups = data_of("binomial", SHAPES["wide"])
    path = group_path(x, y, n_strengths=3, shortest=0.5, family="binomial", groups=groups)
    assert path[0].groups_.size == 0
    assert path[1].groups_.size > 0
    assert path[2].strength == pytest.approx(0.5 * path[0].strength)


def test_an_all_zero_model_predicts_the_mean():
    for family in ("gaussian", "poisson"):
        x, y, groups = data_of(family, SHAPES["narrow"])
        model = GroupGLM(family, groups=groups, strength=1e3).fit(x, y)
        assert (model.coef_ == 0).all()
        np.testing.assert_allclose(model.predict(x), y.mean(), rtol=1e-6)


def test_where_it_begins_may_be_given():
    x, y, groups = data_of("gaussian", SHAPES["narrow"])
    model = GroupGLM(penalty="mcp", groups=groups, strength=0.1, tol=1e-8).fit(x, y)
    again = GroupGLM(penalty="mcp", groups=groups, strength=0.1, init=model.coef_).fit(x, y)
    assert again.n_iter_ < model.n_iter_
    np.testing.assert_allclose(again.coef_, model.coef_, atol=1e-5)


def test_an_iteration_limit_that_was_met_is_warned_of_with_the_residuals():
    x, y, groups = data_of("gaussian", SHAPES["narrow"])
    with pytest.warns(ConvergenceWarning, match=r"limit of 2 steps with a primal residual of"):
        GroupGLM(groups=groups, max_iter=2).fit(x, y)


def test_labels_may_be_of_any_kind():
    x, y, groups = data_of("binomial", SHAPES["narrow"])
    words = np.where(y == 1, "yes", "no")
    model = GroupGLM("binomial", groups=groups, strength=0.01).fit(x, words)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.score(x, words) > 0.7
    same = GroupGLM("binomial", groups=groups, strength=0.01).fit(x, y)
    np.testing.assert_array_equal(model.coef_, same.coef_)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": [0, 0, 1]}, "argument `groups`.*each of the 4 columns"),
        ({"groups": [[0, 1], [1, 2]]}, "argument `groups`"),
        ({"groups": [0.0, 0.5, 1.0, 1.0]}, "argument `groups`"),
        ({"strength": 0.0}, "argument `strength`"),
        ({"strength": float("nan")}, "argument `strength`"),
        ({"family": "gamma"}, "argument `family`"),
        ({"penalty": "ridge"}, "argument `penalty`"),
        ({"weights": [1.0, -1.0, 1.0, 1.0]}, "argument `weights`"),
        ({"weights": [1.0]}, "argument `weights`"),
        ({"init": "ols"}, "argument `init`"),
        ({"init": [1.0]}, "argument `init`"),
        ({"penalty": "mcp", "rho": 0.3}, "argument `rho`.*concavity.*0.333"),
        ({"rho": -1.0}, "argument `rho`"),
        ({"penalty": "scad", "a": 1.0}, "argument `a`"),
        ({"max_iter": 0}, "argument `max_iter`"),
        ({"ridge": -1.0}, "argument `ridge`"),
        ({"fit_intercept": "yes"}, "argument `fit_intercept`"),
    ],
    ids=repr,
)
def test_arguments_that_do_not_fit_are_errors(arguments, message):
    x = np.random.default_rng(0).normal(size=(12, 4))
    with pytest.raises(ValueError, match=message):
        GroupGLM(**arguments).fit(x, x[:, 0])


@pytest.mark.parametrize(
    ("family", "y", "message"),
    [
        ("poisson", [-1.0, 1.0, 2.0], "counts, 0 or more"),
        ("poisson", [0.0, 0.0, 0.0], "counts, 0 or more"),
        ("binomial", [0, 1, 2], "two classes"),
        ("binomial", [1, 1, 1], "two classes"),
        ("binomial", [0.1, 0.7, 0.3], "Unknown label type"),
        ("gaussian", [0.0, np.nan, 1.0], "NaN"),
    ],
)
def test_a_response_that_contradicts_the_family_is_an_error(family, y, message):
    with pytest.raises(ValueError, match=message):
        GroupGLM(family).fit(np.eye(3), np.array(y))


def test_a_design_with_nan_is_an_error():
    x = np.eye(3)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        GroupGLM().fit(x, np.arange(3.0))


def test_only_the_binomial_family_has_probabilities():
    assert not hasattr(GroupGLM("poisson"), "predict_proba")


def test_without_scikit_learn_an_error_names_the_extra():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import keras_hoyer as kh\n"
        "try:\n    kh.glm.GroupGLM\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "keras-hoyer[glm]" in done.stdout, done.stderr


@parametrize_with_checks(
    [
        GroupGLM("gaussian", strength=0.01, max_iter=500),
        GroupGLM("binomial", strength=0.01, max_iter=500),
        GroupGLM("poisson", strength=0.01, max_iter=500),
        GroupGLM("gaussian", "mcp", strength=0.01, max_iter=500),
    ]
)
def test_scikit_learns_estimator_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)
