"""Logistic regression that learns its penalties; importing this loads scikit-learn."""

from .estimator import RegularizedLogisticRegression as RegularizedLogisticRegression
