"""Language models: Penn Treebank by words with an LSTM, any text by bytes with a small decoder-only transformer."""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optevolve.errors import TaskError
from optevolve.records import Split
from optevolve.tasks.base import Batch, Task, require_counts
from optevolve.tasks.text import Corpus, byte_corpus, windows, word_corpus
from optevolve.tasks.transformers import LanguageTransformer

__all__ = ["LanguageTask", "PtbLstm", "TextGpt"]


@dataclass(frozen=True)
class LanguageTask(Task):
    """Predicts each token from those before it within its window; the model gives logits, shape (batch, tokens, vocabulary).

    The loss is the mean cross-entropy in nats per token and the score minus it, so that perplexity is exp(−score).
    """

    def __post_init__(self) -> None:
        require_counts(self)
        dropout = getattr(self, "dropout", 0.0)
        if not 0 <= dropout < 1:
            raise TaskError(f"Option 'dropout' of task {type(self).__name__} is from 0 to below 1; found {dropout:g}.")

    @abstractmethod
    def corpus(self) -> Corpus:
        """The text."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten())

    def count_classes(self) -> int:
        return self.corpus().vocabulary


@dataclass(frozen=True)
class PtbLstm(LanguageTask):
    """Penn Treebank by words: embedding, LSTM of `layers`, linear. Every window of `context` words begins with an empty state.

    Files are ptb.train.txt, ptb.valid.txt and ptb.test.txt. Without the first, nine tenths of the lines of the second are trained on and
    its last tenth is the validation split, with the vocabulary of the part trained on: a real but smaller task, whose scores are not to be
    compared with published ones.

    Source: Zaremba et al., arXiv 1409.2329 (small model: width 200, two layers, 20 windows a batch).
    """

    summary: ClassVar[str] = "Penn Treebank by words, LSTM; the score is minus nats per word"
    budget: ClassVar[str] = "4.7 million parameters at 10,000 words; 5,000 to 20,000 steps of 20 x 35 words (4 to 15 passes)"
    data_source: ClassVar[str] = (
        "ptb.train.txt, ptb.valid.txt, ptb.test.txt in ptb/ of the data folder; without the first, 9/10 of the second"
    )
    licence: ClassVar[str] = "Linguistic Data Consortium's user agreement"
    citation: ClassVar[str] = "Marcus et al. 1993, aclanthology J93-2004; Mikolov et al. 2010 (this preparation)"

    width: int = 200
    layers: int = 2
    context: int = 35
    dropout: float = 0.2
    batch_size: int = 20

    def corpus(self) -> Corpus:
        return word_corpus("ptb")

    def model(self) -> nn.Module:
        return LanguageLstm(self.count_classes(), self.width, self.layers, self.dropout)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return windows(self.corpus().splits[split], self.context, split, seed, self.batch_size)


@dataclass(frozen=True)
class TextGpt(LanguageTask):
    """Any text by bytes: a decoder-only transformer. Nine tenths of the text are trained on, then a twentieth each validates and tests.

    `file` is the text; without it, the .txt files in text-gpt/ of the data folder; without those, the topics of Python's own help.
    """

    summary: ClassVar[str] = "any text by bytes, small decoder-only transformer; the score is minus nats per byte"
    budget: ClassVar[str] = "279,760 parameters; 2,000 to 10,000 steps of 32 x 64 bytes (10 to 50 passes of the default text)"
    data_source: ClassVar[str] = "option file, or text-gpt/*.txt in OPTEVOLVE_DATA, or the help topics that come with Python"
    licence: ClassVar[str] = "the text's own; Python's help: PSF License 2"
    citation: ClassVar[str] = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners (the model)"

    file: str = ""
    width: int = 80
    depth: int = 3
    heads: int = 4
    context: int = 64
    dropout: float = 0.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise TaskError(f"text-gpt needs heads to divide width; found heads {self.heads} and width {self.width}.")

    def corpus(self) -> Corpus:
        return byte_corpus(self.file)

    def model(self) -> nn.Module:
        return LanguageTransformer(256, self.context, self.width, self.depth, self.heads, self.dropout)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return windows(self.corpus().splits[split], self.context, split, seed, self.batch_size)

    def count_classes(self) -> int:
        return 256


class LanguageLstm(nn.Module):
    """Embedding, LSTM, linear, with dropout between them.

    Args:
        vocabulary: how many tokens there are.
        width: features of a token and of each layer's state.
        layers: of the LSTM.
        dropout: rate on the embedding, between layers and before the linear layer.
    Source: Zaremba et al., arXiv 1409.2329 (where dropout goes; weights uniform within 0.1).
    """

    def __init__(self, vocabulary: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.predict = nn.Linear(width, vocabulary)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers, shape (batch, tokens), to logits of the next, shape (batch, tokens, vocabulary)."""
        states, _ = self.lstm(self.dropout(self.embed(x)))
        logits: Tensor = self.predict(self.dropout(states))
        return logits
