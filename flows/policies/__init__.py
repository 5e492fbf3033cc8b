"""Policies, which turn candidates into labels: settings in policy.py, and one numpy module per technique."""

from flows.policies.policy import Consensus, Mixture, Policy, Quantile, TargetPrecision

__all__ = ["Consensus", "Mixture", "Policy", "Quantile", "TargetPrecision"]
