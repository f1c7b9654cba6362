"""Small transformers: one block, a classifier of images and a decoder of text."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["LanguageTransformer", "TransformerBlock", "VisionTransformer"]


class TransformerBlock(nn.Module):
    """Self-attention and a perceptron four times as wide, each normalised before and passed around.

    Args:
        width: features of a token.
        heads: of the attention, a divisor of `width`.
        dropout: rate on the output of both branches.
        causal: whether a token sees only itself and those before.
    Source: Vaswani et al., arXiv 1706.03762; Xiong et al., arXiv 2002.04745 (norm before).
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, shape (batch, tokens, width), to the same shape."""
        x = x + self.dropout(self._attention(self.norm_attention(x)))
        passed: Tensor = self.dropout(self.perceptron(self.norm_perceptron(x)))
        return x + passed

    def _attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.queries_keys_values(x).view(batch, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        mixed: Tensor = self.mix(seen.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class VisionTransformer(nn.Module):
    """Patches of an image as tokens, their mean classified.

    Args:
        size: edge of the square images in pixels, a multiple of `patch`.
        patch: edge of a patch in pixels.
        width, depth, heads: features of a token, blocks, heads of each.
        classes: outputs.
        dropout: rate within the blocks.
    Source: Dosovitskiy et al., arXiv 2010.11929; Beyer et al., arXiv 2205.01580 (mean of the tokens in place of a class token).
    """

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (batch, 3, size, size), to logits, shape (batch, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.classify(self.norm(self.blocks(tokens)).mean(1))
        return logits


class LanguageTransformer(nn.Module):
    """A decoder: each token is predicted from those before it.

    Args:
        vocabulary: how many tokens there are.
        context: tokens seen at most.
        width, depth, heads: features of a token, blocks, heads of each.
        dropout: rate on the embedding and within the blocks.
    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners (shape and initialisation).
    """

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers, shape (batch, tokens), to logits of the next, shape (batch, tokens, vocabulary)."""
        embedded = self.dropout(self.tokens(x) + self.positions[: x.shape[1]])
        logits: Tensor = self.predict(self.norm(self.blocks(embedded)))
        return logits
