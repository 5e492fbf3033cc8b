"""What turns candidates into labels: settings in policy.py, the arithmetic in a module a technique, without torch."""

from flows.policies.policy import Consensus, Mixture, Policy, Quantile, TargetPrecision

__all__ = ["Consensus", "Mixture", "Policy", "Quantile", "TargetPrecision"]
