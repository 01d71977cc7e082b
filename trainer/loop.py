"""The training loop: step, measure, evaluate, checkpoint; from the newest good checkpoint, to the asked step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)

from medllm.errors import user_error
from planner.model_size import flops_per_token
from trainer.balance import Balance
from trainer.checkpoint import store
from trainer.checkpoint.state import (
    ENGINE,
    Progress,
    TrainerState,
    digest,
    load_random_state,
    own_files,
    save_random_state,
    val_loss_of,
)
from trainer.config import TrainConfig
from trainer.data.cache import DiskCache, MemoryCache, ObjectStore, SampleReader
from trainer.data.collate import IGNORED, Batch, Collator, batches_of
from trainer.data.gate import Dataset
from trainer.data.loader import Loader, rank_batches
from trainer.data.order import micro_batch_positions
from trainer.data.stages import COMMUNICATE, COMPUTE, SAVE, StageClock
from trainer.engine import build_engine, learning_rate, set_learning_rate
from trainer.metrics import TrainingMetrics
from trainer.ranks import Ranks
from trainer.run_files import RunFiles
from trainer.stability import SpikeWatch, UnstableError
from trainer.stop import StopRequest
from trainer.tracking import Curves


class Trainer:
    """One rank of a run. `files` and `metrics` are rank 0's and None elsewhere."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        run: Path,
        cache: Path,
        ranks: Ranks,
        files: RunFiles | None,
        metrics: TrainingMetrics | None,
        stop: StopRequest,
        objects: ObjectStore | None = None,
    ) -> None:
        self.config, self.dataset, self.run, self.cache, self.ranks = config, dataset, run, cache, ranks
        self.files, self.metrics, self.stop = files, metrics, stop
        self.collator = Collator(config, dataset.tokenizer)
        self.memory = MemoryCache(config.loader.memory_mib * 2**20)
        self.objects, self.clock = objects, StageClock()
        self.heldout = SampleReader(dataset.heldout, self.memory, objects=objects)
        self.accumulation = config.batch.accumulation(ranks.world_size)
        self.engine = build_engine(config, ranks)
        self.progress = Progress()
        self.state_sha256 = ""
        self._saved_at = time.monotonic()
        self._watch = SpikeWatch(config.stability.window, config.stability.spike_factor)
        self.balance = Balance(config.balance.limit, config.balance.memory)
        self.curves: Curves | None = None
        # How often it went back since the last checkpoint.
        self._rewinds = 0
        # The step of the last evaluation, and its loss.
        self._evaluated: tuple[int, float] | None = None

    def train(self, steps: int) -> bool:
        """Train up to `steps` optimizer steps in the run's whole life. False when it was asked to stop before."""
        if self.files:
            self.curves = Curves(self.run, self.progress.step)
        try:
            if self.progress.step == 0:
                self._evaluate()
            stopped = False
            while self.progress.step < steps and not stopped:
                # A new one after each rewind: it reads from where the run stands.
                with self._loader() as loader:
                    stopped = self._steps(loader, steps)
        finally:
            if self.curves:
                self.curves.close()
        finished = self.progress.step >= steps
        self._event("stop", reason="finished" if finished else "SIGTERM", state_sha256=self.state_sha256)
        return finished

    def _steps(self, loader: Loader, steps: int) -> bool:
        """Steps until all are done, one did not stand (the run was taken back), or it was asked to stop: True then."""
        while self.progress.step < steps:
            try:
                stop, due = self._step(loader)
            except UnstableError as unstable:
                self._rewind(unstable)
                return False
            step = self.progress.step
            if step % self.config.evaluation.every_steps == 0 or step == steps:
                self._evaluate()
            if step % self.config.checkpoint.every_steps == 0 or step == steps or stop or due:
                with self.clock.stage(SAVE):
                    self._save()
            if stop:
                return True
        return False

    def _loader(self) -> Loader:
        """This rank's micro-batches from where the run stands."""
        settings, ranks, train = self.config.loader, self.ranks, self.dataset.train
        disk = DiskCache(self.cache, settings.nvme_gib * 2**30, share=ranks.local_rank, shares=ranks.local_size)
        reader = SampleReader(train, self.memory, disk, self.objects)
        consumed, per_step = self.progress.samples, self.config.batch.per_step
        return Loader(
            reader,
            self.collator,
            lambda: rank_batches(batches_of(train, self.config), consumed, per_step, ranks.rank, ranks.world_size),
            threads=settings.threads,
            ahead=settings.ahead_batches,
            pin_memory=torch.device(self.engine.device).type == "cuda",
            on_lost=self._lost,
            clock=self.clock,
        )

    def _lost(self, keys: Sequence[str]) -> None:
        """Samples that no storage could give whole: the run goes on without them, and says so."""
        print(f"rank {self.ranks.rank}: left out, damaged where they lie: {', '.join(keys)}", flush=True)

    def _step(self, loader: Loader) -> tuple[bool, bool]:
        """One optimizer step; whether any rank was asked to stop, and whether by rank 0's clock a checkpoint is due."""
        begin = time.perf_counter()
        step = self.progress.step + 1
        rate = learning_rate(self.config.optimizer, step)
        set_learning_rate(self.engine, rate)
        loss_sum, tokens, data_seconds, positions = 0.0, 0, 0.0, 0.0
        for _ in range(self.accumulation):
            reading = time.perf_counter()
            batch, samples = next(loader)
            data_seconds += time.perf_counter() - reading
            # Only where all its samples were lost has a batch no target.
            targets = max(1, batch.target_tokens)
            with self.clock.stage(COMPUTE):
                loss = self._loss(batch) / targets
                self.engine.backward(loss)
                self.engine.step()
                loss_sum += loss.item() * targets
            tokens += batch.target_tokens
            positions += self._positions(batch)
        stop = self.stop.asked
        with self.clock.stage(COMMUNICATE):
            loss_sum, all_tokens, stopping, lost, due, positions, *squares = self.ranks.sum(
                [loss_sum, tokens, stop, loader.lost, self._is_due(), positions, *self.engine.module.gates.take()]
            )
        tokens = int(all_tokens)
        mean = loss_sum / max(1, tokens)
        seconds = time.perf_counter() - begin
        if problem := self._watch.judge(mean):
            raise UnstableError(step, samples, problem)
        self.progress = Progress(step, samples, self.progress.tokens + tokens)
        norms = self.balance.update(squares)
        self.engine.module.gates.scales = self.balance.scales()
        if self.files and self.metrics:
            norm = float(self.engine.get_global_grad_norm() or 0.0)
            self.metrics.stepped(step, tokens, mean, rate, seconds, data_seconds, norm)
            flops = positions * flops_per_token(self.config.model.shape, self.config.positions) / seconds
            goodput = self.files.goodput(step, seconds)
            self.metrics.efficiency(flops, goodput)
            self.metrics.balanced(self.balance.balanced())
            if self.curves:
                self.curves.add(
                    step,
                    {
                        "train/loss": mean,
                        "train/learning_rate": rate,
                        "train/gradient_norm": norm,
                        "speed/tokens_per_s": tokens / seconds,
                        "speed/model_tflops": flops / 1e12,
                        "speed/step_s": seconds,
                        "speed/data_s": data_seconds,
                        "speed/goodput": goodput,
                        **{f"gradient/{name}": value for name, value in norms.items()},
                    },
                )
            self.metrics.loaded(loader, int(lost), self.clock.seconds())
            self.files.metrics(
                step=step,
                loss=mean,
                lr=rate,
                grad_norm=norm,
                tokens=self.progress.tokens,
                tokens_per_s=tokens / seconds,
                step_s=seconds,
                data_s=data_seconds,
                lost=int(lost),
            )
        return stopping > 0, due > 0

    def _is_due(self) -> bool:
        """Whether the time for a checkpoint has come; rank 0's clock says so for all."""
        minutes = self.config.checkpoint.every_minutes
        return self.ranks.rank == 0 and minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _positions(self, batch: Batch) -> int:
        """Positions of the decoder that hold something: targets, and those of images and waveforms that are there."""
        model = self.config.model
        images, waveforms = int(batch.image_present.sum()), int(batch.waveform_present.sum())
        return batch.target_tokens + images * model.image_tokens + waveforms * model.waveform_tokens

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Sum of the cross-entropies of a batch's targets, nats, float32 scalar."""
        device = self.engine.device
        logits = self.engine(*(part.to(device) for part in batch.inputs()))
        return F.cross_entropy(
            logits.float().flatten(0, 1), batch.targets.to(device).flatten(), ignore_index=IGNORED, reduction="sum"
        )

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Loss over the first held-out samples. All ranks run the same number of batches; ZeRO-3 would hang else."""
        self.engine.eval()
        heldout, micro = self.heldout, self.config.batch.micro_size
        count = min(len(heldout.shards), self.config.evaluation.samples)
        loss_sum, tokens = 0.0, 0
        for index in range(-(-count // (micro * self.ranks.world_size))):
            positions = micro_batch_positions(0, index, micro, self.ranks.rank, self.ranks.world_size)
            batch = self.collator.collate([heldout.read(place) if place < count else None for place in positions])
            loss_sum += self._loss(batch).item()
            tokens += batch.target_tokens
        self.engine.train()
        loss_sum, all_tokens = self.ranks.sum([loss_sum, tokens])
        self._evaluated = self.progress.step, loss_sum / all_tokens
        if self.files and self.metrics:
            self.files.evaluation(self.progress.step, loss_sum / all_tokens)
            self.metrics.evaluated(loss_sum / all_tokens)
            if self.curves:
                self.curves.add(self.progress.step, {"validation/loss": loss_sum / all_tokens})

    def _save(self) -> None:
        """Publish a checkpoint of the present step."""
        begin = time.perf_counter()
        step = self.progress.step
        if self.ranks.rank == 0:
            store.new_draft(self.run, step)
        self.ranks.barrier()
        draft = store.draft_path(self.run, step)
        self.engine.save_checkpoint(str(draft), tag=ENGINE, save_latest=False)
        save_random_state(draft, self.ranks.rank)
        state = self._state()
        self.state_sha256 = state.state_sha256
        if self.ranks.rank == 0:
            state.write(draft)
        self.ranks.barrier()
        sealed = self.ranks.gather(store.seal(draft, own_files(draft, self.ranks.rank)))
        if self.files and self.metrics:
            hashes = {name: entry for part in sealed for name, entry in part.items()}
            store.commit(self.run, step, hashes)
            kept = self.config.checkpoint
            deleted = store.prune(self.run, kept.keep_last, kept.keep_best, val_loss_of)
            self.metrics.checkpointed(step)
            self._event(
                "checkpoint",
                state_sha256=self.state_sha256,
                seconds=time.perf_counter() - begin,
                deleted=[checkpoint.path.name for checkpoint in deleted],
            )
        self.ranks.barrier()
        self._saved_at, self._rewinds = time.monotonic(), 0

    def _state(self) -> TrainerState:
        own = digest(self.engine.optimizer.state_dict())
        step, loss = self._evaluated or (-1, math.nan)
        measured = loss if step == self.progress.step else None
        return TrainerState(
            self.progress, self.ranks.world_size, tuple(self.ranks.gather(own)), measured, self.balance.means
        )

    def _rewind(self, unstable: UnstableError) -> None:
        """Back to the newest good checkpoint, and on behind the samples that led to the step that does not stand.

        What a run of hundreds of steps learned of them is lost with it; others go back about a hundred steps and pass
        some hundred batches over (Chowdhery et al. 2022, PaLM, section 5.1).

        Raises:
            FloatingPointError: there is no checkpoint yet, or it went back too often without reaching a new one.
        """
        begin = time.perf_counter()
        self._rewinds += 1
        checkpoint = self._newest_good()
        if checkpoint is None or self._rewinds > self.config.stability.rewinds:
            often = "there is no checkpoint to go back to" if checkpoint is None else f"{self._rewinds} times in a row"
            raise FloatingPointError(f"step {unstable.step} does not stand, {often}: {unstable.reason}")
        self._load(checkpoint)
        self._evaluated = None
        skipped = unstable.samples - self.progress.samples
        self.progress = replace(self.progress, samples=unstable.samples)
        self._event(
            "rewind",
            step=unstable.step,
            to=checkpoint.step,
            samples=unstable.samples,
            skipped=skipped,
            reason=unstable.reason,
            seconds=time.perf_counter() - begin,
        )
        self._say(f"step {unstable.step} does not stand ({unstable.reason}): back to {checkpoint.path.name}")
        if self.metrics and self.curves:
            self.metrics.rewound(self.progress.step)
            self.curves.rewound(self.progress.step)
        self._remember()

    def _remember(self) -> None:
        """Begin the watch with the losses before the present step; rank 0 has them."""
        own = self.files.losses(self.progress.step, self.config.stability.window) if self.files else []
        [losses, *_] = self.ranks.gather(own)
        self._watch.begin(losses)

    def restore(self) -> None:
        """Load the newest checkpoint whose files are what was written; older ones when it is not.

        Raises:
            UserError, on all ranks: there are checkpoints, and none is good. (A silent new start would lose the run.)
        """
        begin = time.perf_counter()
        checkpoint = self._newest_good()
        if checkpoint is None:
            self._event("start")
            if self.files and self.metrics:
                self.metrics.resumed(self.files.restart, 0, 0)
            return
        self._load(checkpoint)
        # Samples that the run has passed over since it was saved: it must not meet them again.
        own = self.files.rewound_to(checkpoint.step) if self.files else None
        [samples, *_] = self.ranks.gather(own)
        self.progress = replace(self.progress, samples=max(self.progress.samples, samples or 0))
        self._remember()
        self._event("resume", checkpoint=checkpoint.path.name, seconds=time.perf_counter() - begin)
        self._say(f"resumed from {checkpoint.path.name}")
        if self.files and self.metrics:
            self.metrics.resumed(self.files.restart, self.progress.tokens, self.progress.step)
            self.metrics.checkpointed(checkpoint.step)

    def _newest_good(self) -> store.Checkpoint | None:
        """The newest checkpoint whose files are what was written; None where there is none at all.

        Raises:
            UserError, on all ranks: there are checkpoints, and none is good.
        """
        [candidates, *_] = self.ranks.gather(store.published(self.run))
        for checkpoint in candidates:
            problem = store.problem_of(checkpoint.path, self.ranks.rank, self.ranks.world_size)
            problems = [found for found in self.ranks.gather(problem) if found]
            if problems:
                self._event("refused", step=checkpoint.step, checkpoint=checkpoint.path.name, reason=problems[0])
                self._say(f"checkpoint {checkpoint.path.name} is refused ({problems[0]}); trying the one before")
                continue
            return checkpoint  # type: ignore[no-any-return]
        if candidates:
            raise user_error(
                f"none of the {len(candidates)} checkpoints is good",
                "restore one from a backup, or begin anew with --fresh",
                file=self.run / store.DIRECTORY,
            )
        return None

    def _load(self, checkpoint: store.Checkpoint) -> None:
        recorded = TrainerState.read(checkpoint.path)
        self.engine.load_checkpoint(str(checkpoint.path), tag=ENGINE)
        load_random_state(checkpoint.path, self.ranks.rank)
        self.progress = recorded.progress
        self.balance.begin(recorded.balance)
        self.engine.module.gates.scales = self.balance.scales()
        self.engine.module.gates.take()
        self.state_sha256 = self._state().state_sha256
        if self.state_sha256 != recorded.state_sha256:
            raise RuntimeError(
                f"{checkpoint.path.name} was loaded, but the state in memory is not the recorded one "
                f"({self.state_sha256[:12]}… instead of {recorded.state_sha256[:12]}…)"
            )

    def _event(self, event: str, step: int | None = None, **more: Any) -> None:
        if self.files:
            self.files.event(event, self.progress.step if step is None else step, **more)

    def _say(self, text: str) -> None:
        if self.ranks.rank == 0:
            print(text, flush=True)
