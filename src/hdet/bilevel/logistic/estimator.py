"""Logistic regression that learns its penalties, as a scikit-learn estimator.

    RegularizedLogisticRegression()      for      LogisticRegressionCV()

Cross-validation over a grid finds one penalty. Here `maid` goes on from there, to one penalty
per weight, feature or class; `cross_entropy` has the formulas. Only this module loads
scikit-learn.
"""

import warnings
from typing import Any

import numpy as np
import torch

from ...errors import is_number, is_whole, require, require_choice, require_number
from ..maid import maid
from ..modes import gradients
from .cross_entropy import CrossEntropy, penalties
from .splits import held_out_masks

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

    Minimises mean cross entropy + 1/2 sum penalty W^2 + ridge/2 bias^2. Two classes have one
    column of weights; more use softmax with one column each. Standardise the features first:
    nothing is done to them here. There are no sample weights: a weight of 2 would have to be
    an example that occurs twice, and those would go to different folds.

    Args:
        penalty: "weight", "feature", "class" or "one": what has a penalty of its own.
        validation: a whole number from 2: that many stratified folds, held out in turn; 5 as
            in scikit-learn. In (0, 1): the held-out part of a single split, which takes
            cheaper steps and overfits much more easily.
        width: standard deviation > 0 of the prior of the log penalties around the best single
            one. At 2, a factor of 7, a penalty per weight did no harm on any of our data sets;
            more finds useless features better and overfits sooner. math.inf is no prior.
        ridge: gamma > 0, the part that all penalties share, and the only one of the bias. None
            is half of the best single penalty, of seven from 1 to 0.001 on the folds.
        start: the first log penalty, without the ridge. None starts from the best single one.
        max_steps: the largest number of outer steps of `maid`; most runs need fewer than 10.
        tolerance: the norm of the hypergradient at which to stop, nats per log penalty.
        budget: the largest cost, as for `maid`; None is unlimited.
        refit: whether to fit all examples with the learned penalties, times the part of the
            examples that trained, as the loss is a mean. Else coef_ is the mean of the folds'
            weights.
        random_state: of the split; 0 makes two fits equal.

    Attributes:
        classes_: [K].
        coef_: [1, p] for two classes, else [K, p]; float64, as is all that is computed.
        intercept_: [1] or [K].
        penalties_: like coef_, those that it was fitted with, the ridge included.
        n_iter_: the number of outer steps.
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

        Returns:
            The estimator itself.

        Raises:
            ValueError: if an argument is out of range, or there are fewer than two classes.

        Warns:
            ConvergenceWarning: if the weights fall short of the solution.
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
        held_out = held_out_masks(_CALL, numbers, self.validation, order)
        train, scale = 1 - held_out, 1.0
        ridge, theta0, weights = data.start(held_out, self.penalty, self.ridge, self.start)
        problem = data.problem(theta0, ridge, self.width, train, held_out)
        shift = torch.zeros(len(train), *theta0.shape, dtype=theta0.dtype)
        result = maid(
            problem,
            theta0,
            [weights, shift],
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            budget=self.budget,
        )
        self.n_iter_, self.history_ = len(result.history), result.history
        self.status_, self.message_ = result.status, result.message
        if self.refit:
            train, scale = torch.ones_like(train[:1]), float(train.mean())
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
        """Return the scores: [n] of the second of two classes, else [n, K].

        Args:
            X: [n, p].
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely class of each example, [n].

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
        require_choice(_CALL, "penalty", self.penalty, kinds, 'the default is "weight"')
        given = self.validation
        good = is_whole(given) and given >= 2 or is_number(given) and 0 < given < 1
        rule = "must be a number of folds from 2, or a part of the examples in (0, 1)"
        require(good, _CALL, "validation", given, rule, "the default is 5 folds")
        require_number(_CALL, "width", self.width, "try 2", above=0, finite=False)
        if self.ridge is not None:
            require_number(_CALL, "ridge", self.ridge, "None chooses one", above=0)
        if self.start is not None:
            require_number(_CALL, "start", self.start, "None chooses one")
