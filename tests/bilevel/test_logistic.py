"""RegularizedLogisticRegression keeps scikit-learn's contract, and finds what to penalise."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hdet.bilevel import RegularizedLogisticRegression, Status
from hdet.bilevel.logistic.splits import held_out_masks


# Fewer steps than the default has, for the sake of time: the contract is the same.
@parametrize_with_checks([RegularizedLogisticRegression(max_steps=3)])
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def noisy(count: int = 150, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return 40 features of which the last 36 say nothing about the class."""
    draw = np.random.default_rng(seed)
    pull = np.zeros((40, classes))
    for feature in range(4):
        pull[feature, feature % classes] = 1.5
    x = draw.standard_normal((count, 40))
    return x, (x @ pull + draw.gumbel(size=(count, classes))).argmax(1)


def iris() -> tuple[np.ndarray, np.ndarray]:
    data: Any = load_iris()
    return StandardScaler().fit_transform(data.data), data.target


@pytest.mark.parametrize("penalty", ["weight", "feature"])
def test_features_that_say_nothing_are_penalised_more(penalty):
    classes = 2 if penalty == "weight" else 3
    model = RegularizedLogisticRegression(penalty).fit(*noisy(classes=classes))
    used, useless = model.penalties_[:, :4], model.penalties_[:, 4:]
    assert np.median(useless) > 1.5 * np.median(used)


def test_that_lowers_the_loss_on_new_examples():
    x, y = noisy()
    new_x, new_y = noisy(count=2150)
    new_x, new_y = new_x[150:], new_y[150:]
    losses = {
        kind: log_loss(
            new_y, RegularizedLogisticRegression(kind).fit(x, y).predict_proba(new_x)
        )
        for kind in ("one", "weight")
    }
    assert losses["weight"] < losses["one"]


@pytest.mark.parametrize(
    ("penalty", "different"), [("weight", 12), ("feature", 4), ("class", 3), ("one", 1)]
)
def test_what_has_a_penalty_of_its_own(penalty, different):
    x, y = iris()
    model = RegularizedLogisticRegression(penalty, tolerance=0.0, max_steps=3).fit(x, y)
    assert model.penalties_.shape == model.coef_.shape == (3, 4)
    assert len(np.unique(model.penalties_)) == different
    assert model.intercept_.shape == (3,)
    assert model.n_iter_ == len(model.history_) == 3


def test_two_classes_have_one_row_of_weights():
    x, y = iris()
    model = RegularizedLogisticRegression().fit(x[:100], np.array(["no", "yes"])[y[:100]])
    assert model.coef_.shape == model.penalties_.shape == (1, 4)
    assert model.intercept_.shape == (1,)
    assert model.decision_function(x).shape == (150,)
    assert model.predict_proba(x).shape == (150, 2)
    assert list(model.classes_) == ["no", "yes"]


def test_the_weights_are_those_of_scikit_learn_at_the_same_penalty():
    x, y = iris()
    model = RegularizedLogisticRegression("one").fit(x, y)
    # Its bias goes unpenalised: a column of ones takes the place of ours.
    ones = np.c_[x, np.ones(len(x))]
    c = 1 / (len(x) * model.penalties_[0, 0])
    scale = np.sqrt(model.penalties_[0, 0] / (0.8 * 0.5 * _single(x, y)))
    ones[:, -1] *= scale
    other = LogisticRegression(C=c, fit_intercept=False, tol=1e-8, max_iter=1000).fit(ones, y)
    assert np.allclose(other.coef_[:, :-1], model.coef_, atol=1e-4)
    assert np.allclose(other.coef_[:, -1] * scale, model.intercept_, atol=1e-4)


def _single(x: np.ndarray, y: np.ndarray) -> float:
    """Return the best single penalty: what a start that is left as it is ends with."""
    model = RegularizedLogisticRegression("one", tolerance=1e9).fit(x, y)
    assert model.n_iter_ == 0
    return model.penalties_[0, 0] / 0.8


def test_refitted_penalties_are_scaled_by_the_part_that_trained():
    x, y = iris()
    refitted = RegularizedLogisticRegression().fit(x, y)
    learned = RegularizedLogisticRegression(refit=False).fit(x, y)
    assert np.allclose(refitted.penalties_, 0.8 * learned.penalties_)
    assert not np.allclose(refitted.coef_, learned.coef_, rtol=1e-3)
    assert learned.score(x, y) > 0.9


def test_a_single_split_judges_with_the_part_that_is_asked_for():
    x, y = iris()
    part = RegularizedLogisticRegression(validation=0.3, refit=False).fit(x, y)
    whole = RegularizedLogisticRegression(validation=0.3).fit(x, y)
    assert np.allclose(whole.penalties_, 0.7 * part.penalties_)


def test_the_split_is_the_random_states():
    x, y = iris()
    first, second = (RegularizedLogisticRegression().fit(x, y).penalties_ for _ in range(2))
    other = RegularizedLogisticRegression(random_state=1).fit(x, y).penalties_
    assert np.array_equal(first, second)
    assert not np.array_equal(other, first)


def test_each_fold_has_as_many_of_each_class_as_can_be():
    numbers = np.array([0] * 21 + [1] * 9 + [2])
    for validation, folds in ((5, 5), (0.2, 1)):
        made = held_out_masks(
            "fit", numbers, validation, np.random.default_rng(0).permutation(31)
        )
        assert made.shape == (folds, 31)
        for number in range(3):
            held_out = made.numpy()[:, numbers == number].sum(1)
            assert np.ptp(held_out) <= 1
            assert abs(held_out[0] - (numbers == number).sum() / 5) < 1


def test_a_few_examples_and_a_class_of_one_are_enough():
    x = np.array([[0.0], [1.0], [2.0], [3.0], [9.0], [1.5]])
    model = RegularizedLogisticRegression().fit(x, [0, 0, 1, 1, 2, 1])
    assert model.coef_.shape == (3, 1)
    assert np.isfinite(model.coef_).all()


def test_constant_features_get_no_weight_and_harm_nothing():
    x, y = iris()
    model = RegularizedLogisticRegression().fit(np.c_[x, np.zeros(len(x))], y)
    assert np.allclose(model.coef_[:, 4], 0)
    assert model.score(np.c_[x, np.zeros(len(x))], y) > 0.9


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match=r"y=\['a'\]\)` must have at least 2 classes"):
        RegularizedLogisticRegression().fit([[0.0], [1.0]], ["a", "a"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"penalty": "l1"}, r"penalty='l1'\)` must be \"weight\", \"feature\", \"class\" or"),
        ({"validation": 1}, r"validation=1\)` must be a number of folds from 2, or a part"),
        ({"validation": 2.5}, r"validation=2.5\)` must be a number of folds"),
        ({"validation": 151}, r"validation=151\)` must leave examples on either side.* 150"),
        ({"validation": 0.001}, r"validation=0.001\)` must leave examples on either side"),
        ({"width": 0.0}, r"width=0.0\)` must be above 0: try 2"),
        ({"ridge": 0.0}, r"ridge=0.0\)` must be finite and above 0: None chooses one"),
        ({"start": np.inf}, r"start=inf\)` must be a finite number: None chooses one"),
        ({"max_steps": 0}, r"max_steps=0\)` must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        RegularizedLogisticRegression(**given).fit(*iris())


def test_a_spent_budget_is_said():
    model = RegularizedLogisticRegression(budget=30).fit(*iris())
    assert model.status_ is Status.BUDGET
    assert "raise `budget`" in model.message_


def test_the_ridge_and_the_start_can_be_given():
    x, y = iris()
    model = RegularizedLogisticRegression(ridge=0.01, start=-3.0, tolerance=1e9).fit(x, y)
    assert model.n_iter_ == 0
    assert np.allclose(model.penalties_, 0.8 * (0.01 + np.exp(-3.0)))


def test_float32_gives_what_float64_does():
    x, y = iris()
    x = x.astype(np.float32)
    single = RegularizedLogisticRegression().fit(x, y)
    double = RegularizedLogisticRegression().fit(x.astype(np.float64), y)
    assert np.array_equal(single.coef_, double.coef_)


def test_it_survives_pickling_and_cloning():
    x, y = iris()
    model = RegularizedLogisticRegression("feature").fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.status_ is model.status_
    other: Any = clone(model)
    assert other.get_params() == model.get_params()


def test_it_works_in_a_pipeline_under_a_search_and_on_frames():
    pandas = pytest.importorskip("pandas")
    x, y = load_breast_cancer(return_X_y=True)
    frame = pandas.DataFrame(x[:, :5], columns=list("abcde"))
    pipeline = make_pipeline(
        StandardScaler().set_output(transform="pandas"), RegularizedLogisticRegression()
    )
    grid = {"regularizedlogisticregression__width": [1.0, 2.0]}
    found: Any = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(frame, y)
    best = found.best_estimator_[-1]
    assert list(best.feature_names_in_) == list("abcde")
    assert best.n_features_in_ == 5
    assert found.score(frame, y) > -0.2


def test_weights_short_of_the_solution_are_warned_of(monkeypatch):
    monkeypatch.setattr("hdet.bilevel.logistic.cross_entropy._FINE", 1e-30)
    with pytest.warns(ConvergenceWarning, match="standardise the features"):
        RegularizedLogisticRegression().fit(*iris())


def test_without_scikit_learn_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import hdet.bilevel\n"
        "assert not hasattr(hdet.bilevel, 'nothing')\n"
        "try: hdet.bilevel.RegularizedLogisticRegression\n"
        "except ImportError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "hdet[bilevel]"' in said.stdout
