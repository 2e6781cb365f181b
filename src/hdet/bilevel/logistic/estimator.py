"""Logistic regression that learns its penalties, as a scikit-learn estimator.

    RegularizedLogisticRegression()      for      LogisticRegressionCV()

Cross-validation over a grid finds one penalty; here it is followed by its hypergradient, which
finds one per weight, feature or class: `cross_entropy` has the formulas, `maid` the method.
scikit-learn is loaded by this module only.
"""

import math
import warnings
from numbers import Integral
from typing import Any

import numpy as np
import torch

from ...errors import require
from ..checks import is_number
from ..modes import gradients
from .cross_entropy import CrossEntropy, penalties
from .learning import first_penalties, learn
from .splits import judges

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "RegularizedLogisticRegression needs scikit-learn 1.6 or newer: "
        'pip install "hdet[bilevel]"'
    ) from error

_CALL = "RegularizedLogisticRegression"


class RegularizedLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression with an L2 penalty per weight, learned on held-out folds.

    Minimises mean cross entropy + 1/2 sum penalty W^2 + ridge/2 bias^2; two classes have one
    column of weights, more have softmax with one column each. Features should be standardised
    first: nothing is done to them here. There are no sample weights: a weight of 2 would have
    to be an example that is there twice, and those go to different folds.

    Args:
        penalty: "weight", "feature", "class" or "one": what has a penalty of its own.
        validation: from 2: stratified folds that judge in turn; 5 as in scikit-learn.
            In (0, 1): the part that judges in a single split, whose steps are cheaper, and
            which is much easier to overfit.
        width: standard deviation of the log penalties' prior around the best single one, > 0.
            At 2, a factor of 7, no data set of ours lost by a penalty per weight; more finds
            useless features better and overfits sooner. math.inf is no prior.
        ridge: gamma > 0, which every penalty exceeds, the bias's only one. None is half of
            the best single penalty, of seven from 1 to 0.001 that the folds judge.
        start: first log penalty, on top of the ridge. None begins at the best single one.
        max_steps: outer steps, as `maid`'s; most runs need fewer than 10.
        tolerance: length of the hypergradient at which to stop, nats per log penalty.
        budget: largest cost, as `maid`'s; None is without limit.
        refit: whether to fit all examples with the learned penalties, scaled by the part of
            them that trained, as a mean's penalty is to a sum's. Else coef_ is the mean of
            the folds' weights.
        random_state: of the split; 0 makes two fits equal.

    Attributes:
        classes_: [K].
        coef_: [1, p] for two classes, else [K, p]; float64, as all that is computed.
        intercept_: [1] or [K].
        penalties_: like coef_, those that it was fitted with, ridge included.
        n_iter_: outer steps made.
        status_: why they stopped.
        message_: that, and what to do about it.
        history_: a `Step` for each.
        n_features_in_: p.
        feature_names_in_: [p], if X had names.
    """

    def __init__(
        self,
        penalty: str = "weight",
        *,
        validation: int | float = 5,
        width: float = 2.0,
        ridge: float | None = None,
        start: float | None = None,
        max_steps: int = 20,
        tolerance: float = 1e-3,
        budget: int | None = None,
        refit: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.penalty = penalty
        self.validation = validation
        self.width = width
        self.ridge = ridge
        self.start = start
        self.max_steps = max_steps
        self.tolerance = tolerance
        self.budget = budget
        self.refit = refit
        self.random_state = random_state

    @gradients()
    def fit(self, X: Any, y: Any) -> "RegularizedLogisticRegression":
        """Learn penalties and weights.

        Args:
            X: [n, p], dense.
            y: classes of any kind, [n].

        Raises:
            ValueError: if an argument is out of range, or there are not two classes.
        """
        self._check()
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        found = len(self.classes_)
        rule = f"must have at least 2 classes, but there is {found} class"
        require(found > 1, f"{_CALL}.fit", "y", self.classes_.tolist(), rule, "add examples")
        columns = 1 if found == 2 else found
        data = CrossEntropy(torch.tensor(X), torch.tensor(numbers), columns)
        order = check_random_state(self.random_state).permutation(len(y))
        judge = judges(_CALL, numbers, self.validation, order)
        ridge, theta0, weights = first_penalties(
            data, judge, self.penalty, self.ridge, self.start
        )
        result = learn(
            data,
            judge,
            theta0,
            weights,
            ridge,
            width=self.width,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            budget=self.budget,
        )
        self.n_iter_, self.history_ = len(result.history), result.history
        self.status_, self.message_ = result.status, result.message
        train, scale = 1 - judge, 1.0
        if self.refit:
            train, scale = torch.ones_like(judge[:1]), float(train.mean())
        learned = penalties(result.theta)
        solution = data.fit(scale * learned, scale * ridge, train)
        if not solution.met:
            warnings.warn(
                f"`{_CALL}.fit`: weights are up to {float(solution.accuracy.max()):.2g} from "
                f"the solution, as {solution.ending.value}: standardise the features.",
                ConvergenceWarning,
                stacklevel=3,  # behind the decorator
            )
        fitted = solution.x.mean(0).reshape(-1, columns).T.numpy()
        self.coef_, self.intercept_ = fitted[:, :-1].copy(), fitted[:, -1].copy()
        total = (scale * (learned + ridge)).expand(X.shape[1], columns)
        self.penalties_ = total.T.numpy().copy()
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores, [n] of the second of two classes, else [n, K].

        Args:
            X: [n, p].
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each example, [n].

        Args:
            X: [n, p].
        """
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)
        return self.classes_[best]

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of the classes' probabilities, [n, K].

        Args:
            X: [n, p].
        """
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 1:
            scores = torch.stack([torch.zeros_like(scores), scores], 1)
        return scores.log_softmax(1).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the classes' probabilities, [n, K].

        Args:
            X: [n, p].
        """
        return np.exp(self.predict_log_proba(X))

    def _check(self) -> None:
        kinds = ("weight", "feature", "class", "one")
        words = f"write one of {', '.join(kinds)}"
        good = isinstance(self.penalty, str) and self.penalty in kinds
        require(good, _CALL, "penalty", self.penalty, "is not known", words)
        whole = isinstance(self.validation, Integral) and self.validation >= 2
        good = whole or is_number(self.validation) and 0 < self.validation < 1
        rule = "must be a number of folds from 2, or a part of the examples in (0, 1)"
        require(good, _CALL, "validation", self.validation, rule, "the default is 5 folds")
        good = is_number(self.width) and self.width > 0
        require(good, _CALL, "width", self.width, "must be above 0", "try 2")
        good = self.ridge is None or is_number(self.ridge) and 0 < self.ridge < math.inf
        rule = "must be finite and above 0"
        require(good, _CALL, "ridge", self.ridge, rule, "None finds one")
        good = self.start is None or is_number(self.start) and math.isfinite(self.start)
        require(good, _CALL, "start", self.start, "must be finite", "None finds one")
