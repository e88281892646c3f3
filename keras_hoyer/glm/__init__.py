"""Group-sparse generalized linear models, in scikit-learn's style.

For coefficients that come in groups which do not overlap: a loss, a group penalty, convex or not,
and a solver by ADMM. It needs scikit-learn (`pip install keras-hoyer[glm]`) and is in NumPy, no
matter which backend Keras has. Cross-validation is left to scikit-learn; where speed matters, or
for screening and large numbers of columns, skglm and adelie are the fast ones, and adelie and
group-lasso packages know groups that overlap.
"""

from typing import Any

__all__ = ["GroupGLM", "group_path"]


def __getattr__(name: str) -> Any:
    """Imports scikit-learn when it is first needed: the rest of the package does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import sklearn  # noqa: F401, PLC0415
    except ImportError as error:
        raise ImportError(
            f"`keras_hoyer.glm.{name}` needs scikit-learn: `pip install keras-hoyer[glm]`."
        ) from error
    from keras_hoyer.glm import estimator  # noqa: PLC0415

    return getattr(estimator, name)


def __dir__() -> list[str]:
    return __all__
