"""What the server counts, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # CPU time and memory, where the system tells them
        self._requests = Counter("rl_rerank_requests", "Answered requests.", ("path", "status"), registry=self.registry)
        self._latency = self._histogram(
            "rl_rerank_request_seconds", "Time of a request, waiting included.", SECONDS, "path"
        )
        self._batch_requests = self._histogram("rl_rerank_batch_requests", "Requests that were ranked together.", SIZES)
        self._batch_documents = self._histogram("rl_rerank_batch_documents", "Documents ranked together.", SIZES)
        self._batch_seconds = self._histogram("rl_rerank_batch_seconds", "Time of the engine for a batch.", SECONDS)
        self.waiting = Gauge("rl_rerank_waiting_requests", "Requests that wait for the engine.", registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(path, status).inc()
        self._latency.labels(path).observe(seconds)

    def batch(self, *, requests: int, documents: int, seconds: float) -> None:
        """Count a batch of the engine."""
        self._batch_requests.observe(requests)
        self._batch_documents.observe(documents)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Format everything for a scraper."""
        return generate_latest(self.registry)
