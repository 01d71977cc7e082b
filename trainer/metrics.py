"""The run's figures for Prometheus, served by rank 0 while it trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, start_http_server

if TYPE_CHECKING:
    from trainer.data.loader import Loader

log = logging.getLogger(__name__)


class TrainingMetrics:
    """`training_*` metrics with the label `run`. Counters go on from where a resumed run stood."""

    def __init__(self, run: str, peak_flops: float | None = None) -> None:
        """`peak_flops`: what all ranks' GPUs together could do in a second, in BF16."""
        self._peak = peak_flops
        self._registry = CollectorRegistry()
        self._run = run
        self._server: WSGIServer | None = None
        self._tokens = self._counter("training_tokens_processed", "Target tokens trained on, over all ranks")
        self._restarts = self._counter("training_restarts", "How often the run was resumed")
        self._loss = self._gauge("training_loss", "Training loss of the last step, nats a token")
        self._validation_loss = self._gauge("training_validation_loss", "Held-out loss, nats a token")
        self._step = self._gauge("training_step", "Optimizer steps done")
        self._rate = self._gauge("training_learning_rate", "Learning rate of the last step")
        self._step_seconds = self._gauge("training_step_seconds", "Duration of the last step")
        self._data_seconds = self._gauge("training_data_seconds", "Part of the last step spent on reading samples")
        self._grad_norm = self._gauge("training_gradient_norm", "Global gradient norm before clipping")
        self._batches = self._gauge("training_data_batches", "Batches that rank 0 has taken")
        self._threads = self._gauge("training_data_threads", "Threads of rank 0's loader")
        self._starved = self._gauge("training_data_starved", "Batches that rank 0 had to wait for")
        self._lost = self._gauge("training_data_lost", "Samples left out as damaged, over all ranks")
        self._stages = Gauge(
            "training_stage_seconds",
            "Seconds of rank 0 by stage since it began; the loader's are summed over its threads",
            ["run", "stage"],
            registry=self._registry,
        )
        self._hits = Gauge(
            "training_data_hits", "Samples of rank 0 by where they came from", ["run", "level"], registry=self._registry
        )
        self._rewinds = self._counter("training_rewinds", "How often a step did not stand and the run went back")
        self._flops = self._gauge(
            "training_model_flops_per_second",
            "Model FLOPs of the last step by its duration, over all ranks: 6 N + 12 layers width length for each "
            "position that holds something, nothing recomputed (PaLM, appendix B)",
        )
        # Only where there is something to compare with: a 0 would be a measurement.
        self._mfu = self._gauge("training_mfu", "The same by the BF16 peak of all GPUs") if peak_flops else None
        self._goodput = self._gauge(
            "training_goodput", "Share of the time since the run began that went into steps that count, each once"
        )
        self._norms = Gauge(
            "training_modality_gradient_norm",
            "Running mean of a modality's gradient norm where it enters the decoder, after balancing",
            ["run", "modality"],
            registry=self._registry,
        )
        self._checkpoint_step = self._gauge("training_checkpoint_step", "Step of the newest checkpoint")
        self._checkpoint_time = self._gauge("training_checkpoint_timestamp_seconds", "When it was published, Unix time")

    def serve(self, port: int) -> int:
        """Answer on `port` (0 = any free one); returns the port. Training goes on without, should it be taken."""
        try:
            self._server, _ = start_http_server(port, registry=self._registry)
        except OSError as error:
            log.warning("the metrics port %d can't be opened (%s); training goes on without metrics", port, error)
            return 0
        return int(self._server.server_port)

    def page(self) -> str:
        """What it answers, in Prometheus' text format."""
        return generate_latest(self._registry).decode()

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def resumed(self, restarts: int, tokens: int, step: int) -> None:
        """Set what was so before this process."""
        self._restarts.inc(restarts)
        self._tokens.inc(tokens)
        self._step.set(step)

    def stepped(
        self, step: int, tokens: int, loss: float, rate: float, seconds: float, data_seconds: float, grad_norm: float
    ) -> None:
        """One optimizer step is done; `tokens` of this step alone."""
        self._tokens.inc(tokens)
        self._step.set(step)
        self._loss.set(loss)
        self._rate.set(rate)
        self._step_seconds.set(seconds)
        self._data_seconds.set(data_seconds)
        self._grad_norm.set(grad_norm)

    def rewound(self, step: int) -> None:
        """The run went back to `step`."""
        self._rewinds.inc()
        self._step.set(step)

    def efficiency(self, flops: float, goodput: float) -> None:
        """`flops` a second of the last step over all ranks; `goodput` as a share."""
        self._flops.set(flops)
        if self._mfu and self._peak:
            self._mfu.set(flops / self._peak)
        self._goodput.set(goodput)

    def balanced(self, norms: Mapping[str, float]) -> None:
        """Running means of the gradient norms by modality."""
        for modality, norm in norms.items():
            self._norms.labels(self._run, modality).set(norm)

    def loaded(self, loader: Loader, lost: int, stages: Mapping[str, float]) -> None:
        """What the loader did since this process began; `stages` in seconds, `lost` over all ranks."""
        for stage, seconds in stages.items():
            self._stages.labels(self._run, stage).set(seconds)
        for level, count in loader.reader.counts.hits.items():
            self._hits.labels(self._run, level).set(count)
        self._batches.set(loader.batches)
        self._threads.set(loader.threads)
        self._starved.set(loader.starved)
        self._lost.set(lost)

    def evaluated(self, loss: float) -> None:
        """The held-out loss is known."""
        self._validation_loss.set(loss)

    def checkpointed(self, step: int) -> None:
        """A checkpoint was published."""
        self._checkpoint_step.set(step)
        self._checkpoint_time.set_to_current_time()

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["run"], registry=self._registry).labels(self._run)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["run"], registry=self._registry).labels(self._run)
