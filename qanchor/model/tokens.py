"""Words to token ids: for queries, questions and answers, and for the texts of events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

PAD, BOS, EOS, UNKNOWN, USER_EMBEDDING = "[PAD]", "[BOS]", "[EOS]", "[UNK]", "<|user_emb|>"
SPECIALS = (PAD, BOS, EOS, UNKNOWN, USER_EMBEDDING)


@dataclass(frozen=True)
class TokenisedTexts:
    """Event texts as token ids, one row for each entry of EventArrays.texts.

    Args:
        ids: int64 [texts, tokens], filled up on the right with pad_id.
        lengths: int64 [texts], tokens of each text; at least 1.
        pad_id: id of padding.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    pad_id: int


class TextTokenizer:
    """The tokenizer of a model; any text can be encoded.

    Args:
        language: tokenizer of queries, questions and answers.
        pad_id: padding id of `language`.
        end_id: id that ends an answer.
        events: tokenizer of event texts; None: the same one.
    """

    def __init__(
        self, language: Tokenizer, pad_id: int, end_id: int, events: Tokenizer | None = None
    ) -> None:
        if language.token_to_id(USER_EMBEDDING) is None:
            language.add_special_tokens([USER_EMBEDDING])
        self._language = language
        self._events = events
        self.pad_id = pad_id
        self.end_id = end_id
        self.user_id = _first_id(language, (USER_EMBEDDING,))

    @property
    def vocabulary(self) -> int:
        """How many tokens queries and answers may use, `<|user_emb|>` included."""
        return int(self._language.get_vocab_size())

    @property
    def event_vocabulary(self) -> int:
        """How many tokens event texts may use."""
        return int((self._events or self._language).get_vocab_size())

    def encode_queries(self, queries: Sequence[str], max_tokens: int = 96) -> Tensor:
        """Token ids of queries, or of pre-training questions, each ending in `<|user_emb|>`.

        Args:
            queries: texts.
            max_tokens: longest row; the rest is cut, never the last token.

        Returns:
            int64 [queries, tokens], filled up on the right with pad_id.
        """
        return self._encode(queries, max_tokens, self.user_id)

    def encode_answers(self, answers: Sequence[str], max_tokens: int = 200) -> Tensor:
        """As `encode_queries`, of answers: each ends in the end token, which the semantic tower reads."""
        return self._encode(answers, max_tokens, self.end_id)

    def tokenise_events(self, texts: Sequence[str], max_tokens: int = 24) -> TokenisedTexts:
        """Token ids of event texts, for `collate`; an empty text is one padding token."""
        events = self._events or self._language
        pad_id = self.pad_id if self._events is None else _first_id(events, (PAD, "<pad>"))
        encoded = events.encode_batch(list(texts), add_special_tokens=self._events is not None)
        rows = [item.ids[:max_tokens] for item in encoded]
        ids, lengths = _padded(rows, pad_id)
        return TokenisedTexts(ids, np.maximum(lengths, 1), pad_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The words of token ids, special tokens left out."""
        return str(self._language.decode(list(ids), skip_special_tokens=True)).strip()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and event_tokenizer.json where events have another one."""
        self._language.save(str(folder / "tokenizer.json"))
        if self._events is not None:
            self._events.save(str(folder / "event_tokenizer.json"))

    @classmethod
    def load(cls, folder: Path, pad_id: int, end_id: int) -> "TextTokenizer":
        """The tokenizer that `save` wrote; the checkpoint has checked the files' hashes."""
        path = folder / "event_tokenizer.json"
        events = Tokenizer.from_file(str(path)) if path.exists() else None
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), pad_id, end_id, events)

    def _encode(self, texts: Sequence[str], max_tokens: int, last: int) -> Tensor:
        encoded = self._language.encode_batch(list(texts), add_special_tokens=False)
        rows = [[*item.ids[: max_tokens - 1], last] for item in encoded]
        return torch.from_numpy(_padded(rows, self.pad_id)[0])


def train_tokenizer(texts: Iterable[str], vocabulary: int, events: Tokenizer | None = None) -> TextTokenizer:
    """A byte-level BPE tokenizer, lower-cased, trained on event texts, questions and answers.

    Every byte is a token, so that any text in any script can be encoded.

    Args:
        texts: texts like those to be encoded; each distinct one once is enough.
        vocabulary: most tokens, special ones and the 256 bytes included.
        events: tokenizer of event texts; None: the trained one.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer, _first_id(tokenizer, (PAD,)), _first_id(tokenizer, (EOS,)), events)


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.full((len(rows), max(1, int(lengths.max(initial=0)))), pad_id, dtype=np.int64)
    inside = np.arange(ids.shape[1]) < lengths[:, None]
    ids[inside] = np.fromiter((token for row in rows for token in row), np.int64, int(lengths.sum()))
    return ids, lengths


def _first_id(tokenizer: Tokenizer, names: Sequence[str]) -> int:
    ids = [tokenizer.token_to_id(name) for name in names]
    return int(next((token for token in ids if token is not None), 0))
