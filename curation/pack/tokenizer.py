"""The byte-pair tokenizer of a data set, trained on its train split."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from curation.deid.kinds import Kind

MARKS = ("<pad>", "<bos>", "<eos>")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A tokenizer.json with at most `vocabulary` ids: the marks first, then a token for each redaction tag, then bytes.

    Byte-level, so that any text in any script can be written and read back exactly.
    """
    # One thread: the library's threads and a later fork do not go together.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*MARKS, *(kind.tag for kind in Kind)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    text: str = tokenizer.to_str(pretty=True)
    return text + "\n"


def token_counter(tokenizer: str) -> Callable[[str], int]:
    """How many ids a text takes with a begin and an end mark, by this tokenizer.json."""
    from tokenizers import Tokenizer

    known = Tokenizer.from_str(tokenizer)
    return lambda text: len(known.encode(text, add_special_tokens=False).ids) + 2
