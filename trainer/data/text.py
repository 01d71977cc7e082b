"""Notes → token ids, with the tokenizer that the data set carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medllm.errors import user_error

BEGIN, END, PAD = "<bos>", "<eos>", "<pad>"


class NoteTokenizer:
    """A byte-pair tokenizer with begin, end and padding marks."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        """Load `tokenizer.json`; `vocabulary` is how many ids the model has room for.

        Raises:
            UserError: unreadable, without the marks, or with ids beyond the model's vocabulary.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise user_error(
                f"the tokenizer can't be read ({str(error).splitlines()[0]})", "pack the data set again", file=path
            ) from None
        self.size = int(self._tokenizer.get_vocab_size())
        if self.size > vocabulary:
            raise user_error(
                f"the data set's tokenizer has {self.size} ids, the model room for {vocabulary}",
                f"train with --set model.vocabulary={self.size} or more, or pack with a smaller vocabulary",
                file=path,
                key="model.vocabulary",
            )
        marks = {mark: self._tokenizer.token_to_id(mark) for mark in (BEGIN, END, PAD)}
        missing = [mark for mark, number in marks.items() if number is None]
        if missing:
            raise user_error(
                f"the tokenizer has no {', '.join(missing)}", "pack the data set again with these marks", file=path
            )
        self.begin, self.end, self.pad = marks[BEGIN], marks[END], marks[PAD]

    def encode(self, text: str, limit: int) -> NDArray[np.int64]:
        """Begin mark, ids, end mark: int64 [n], n ≤ limit; what goes beyond is cut off at the end."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([self.begin, *ids, self.end][:limit], np.int64)
