"""Families of figures in one registry, and the buckets of those that are distributions.

Each application has a registry of its own. Buckets begin at 0.5 ms: a step of a small model on
good hardware is shorter than vLLM's first bucket.
"""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
LENGTHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 32.0)
COUNTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0)
TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, *(100.0 * 2**i for i in range(12)))


class Families:
    """Makes families in one registry, all of them labelled with the model's name."""

    def __init__(self, model: str) -> None:
        # `_created` series would be read as counts by scrapers that match on the prefix.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._model = model

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name"], registry=self.registry).labels(self._model)

    def counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self.registry).labels(self._model)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        family = Histogram(name, text, ["model_name"], buckets=buckets, registry=self.registry)
        return family.labels(self._model)

    def gauge_by(self, label: str, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name", label], registry=self.registry)

    def counter_by(self, label: str, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["model_name", label, *labels], registry=self.registry)

    def histogram_by(
        self, label: str, name: str, text: str, *more: str, buckets: tuple[float, ...] = COUNTS
    ) -> Histogram:
        labels = ["model_name", label, *more]
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
