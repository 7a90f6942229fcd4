"""Prometheus: vLLM's names where they exist, `stagetree_` for what only a staged tree has."""

from server.metrics.metrics import Metrics

__all__ = ["Metrics"]
