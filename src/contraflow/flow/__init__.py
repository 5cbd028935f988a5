"""A flow as a probability density on data, and estimates of its log-density with standard errors."""

from contraflow.flow.flow import Flow
from contraflow.flow.log_prob_estimate import LogProbEstimate

__all__ = ["Flow", "LogProbEstimate"]
