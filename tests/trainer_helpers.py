"""A small signed data set and ranks in one machine, for the trainer's tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.pack.shards import Sample, write_shards
from curation.pack.tokenizer import token_counter
from medllm.manifest import public_key_pem, sign_manifest
from medllm.shard_index import write_index
from trainer.config import TrainConfig, load_config
from trainer.request import Request

# Each finding stands in the note and in one modality, so that a model can learn to read it there.
DENSITIES = ("clear lungs", "small left effusion", "right lower lobe opacity")
RHYTHMS = ("sinus rhythm", "atrial fibrillation", "sinus tachycardia")


def write_dataset(
    directory: Path,
    *,
    train: int = 32,
    heldout: int = 8,
    seed: int = 1,
    image_size: int = 64,
    poisoned: Collection[int] = (),
) -> Path:
    """Write shards, tokenizer, manifest and signature; returns the public key's file (beside the directory).

    Args:
        poisoned: training samples whose recording holds a NaN, which `medllm data` would have refused
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    random = np.random.default_rng(seed)
    samples = {
        split: [_sample(f"{split}{number:04d}", random, number, image_size) for number in range(count)]
        for split, count in (("train", train), ("heldout", heldout))
    }
    for number in poisoned:
        broken = np.full((2, 400), np.nan, np.float32)
        samples["train"][number] = replace(samples["train"][number], ecg=broken)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        (sample.text for sample in samples["train"]),
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False),
    )
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    count_tokens = token_counter(tokenizer.to_str())
    index = [
        entry
        for split, members in samples.items()
        for entry in write_shards(directory, split, members, 1000, count_tokens)
    ]
    write_index(directory, index)
    key = Ed25519PrivateKey.generate()
    sign_manifest(directory, key, {"made_by": "tests"})
    public = directory.with_name(directory.name + ".pub")
    public.write_bytes(public_key_pem(key.public_key()))
    return public


def _sample(key: str, random: np.random.Generator, number: int, size: int) -> Sample:
    density, rhythm = random.integers(3), random.integers(3)
    age = int(random.integers(30, 90))
    note = f"Adult of {age} years. Chest film: {DENSITIES[density]}. ECG: {RHYTHMS[rhythm]}. No acute distress."
    image = random.integers(0, 200, (size, size)).astype(np.uint16)
    image[:, : size // 2] += np.uint16(400 * density)
    times = np.arange(400) / 400
    leads = np.stack([np.sin(2 * np.pi * times * (4 + 8 * rhythm) + lead) for lead in range(2)])
    waveform = (leads + random.normal(0, 0.1, leads.shape)).astype(np.float32)
    # One of five has no image, one of seven no waveform: both must work.
    return Sample(
        key, {"sample_id": key}, note, image if number % 5 != 4 else None, waveform if number % 7 != 6 else None
    )


def tiny_config(*overrides: str) -> TrainConfig:
    """The shipped configuration made smaller still: a step takes some 20 ms."""
    return load_config(
        "medllm-tiny",
        [
            "model.vocabulary=300",
            "model.width=32",
            "model.layers=2",
            "model.heads=2",
            "model.feed_forward=64",
            "model.tower_width=16",
            "model.waveform_samples=400",
            "data.sequence_length=64",
            "batch.global_size=4",
            "optimizer.learning_rate=0.01",
            "checkpoint.every_steps=4",
            "evaluation.every_steps=4",
            "evaluation.samples=8",
            "engine.collective_timeout_s=30",
            *overrides,
        ],
    )


def request_for(
    run: Path, data: Path, key: Path, steps: int, *, world_size: int = 2, config: TrainConfig | None = None
) -> Request:
    """A request as the launcher writes it."""
    return Request(
        run=run.name,
        run_directory=run,
        data_directory=data,
        public_key=key,
        cache_directory=run.with_name(run.name + ".cache"),
        config=config or tiny_config(),
        steps=steps,
        world_size=world_size,
        accelerator="cpu",
        metrics_port=0,
    )


class LocalRanks:
    """Ranks forked from a server that has loaded torch and DeepSpeed already: an import of seconds, paid once."""

    def __init__(self, request: Request, log: Path) -> None:
        os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["torch", "deepspeed", "torch._dynamo", "deepspeed.runtime.zero.muon.muon_optimizer",
             "deepspeed.runtime.pipe.engine", "trainer.loop", "trainer.metrics", "trainer.data.gate"]
        )  # fmt: skip
        log.mkdir(parents=True, exist_ok=True)
        file = log / "request.json"
        file.write_text(request.model_dump_json())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.logs = [log / f"rank{rank}.log" for rank in range(request.world_size)]
        self.processes = [
            context.Process(target=_rank, args=(rank, request.world_size, port, str(file), str(self.logs[rank])))
            for rank in range(request.world_size)
        ]
        for process in self.processes:
            process.start()

    def wait(self, deadline_s: float = 120) -> list[int | None]:
        """Exit status of each rank; those that outlive the deadline are killed (None)."""
        end = time.monotonic() + deadline_s
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def output(self) -> str:
        """What all ranks printed."""
        return "\n".join(log.read_text() for log in self.logs if log.is_file())


def _rank(rank: int, world_size: int, port: int, request: str, log: str) -> None:
    stream = open(log, "w", buffering=1)  # noqa: SIM115 (lives as long as the process)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from trainer.worker import main

    sys.exit(main(["--request", request]))
