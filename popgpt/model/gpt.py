"""The transformer: pre-norm, learned positions, tied to nothing but its inputs.

Shapes: B rows, T positions, S positions held in the cache, D model width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from popgpt.config import Config

QK_GAIN = 1.44  # of the scores, over 1 / sqrt(d_head)


class KVCache:
    """The keys and values of the characters that a block has read, [B, H, S, D/H] each; `used` of the S are filled."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor):
        self.keys, self.values = (torch.empty(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.used = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of the next T characters [B, H, T, D/H]. Returns all so far."""
        before, self.used = self.used, self.used + keys.shape[2]
        self.keys[:, :, before : self.used] = keys
        self.values[:, :, before : self.used] = values
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def keep(self, rows: Tensor) -> None:
        """Forget all but these of the B rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class RowDropout(nn.Module):
    """Dropout whose mask is a pure function of (row key, position, feature, site).

    A row keeps its mask whatever the batch it is in, so a run does not depend on how its rows are shared out
    between micro-steps and workers. The bits are MurmurHash3's 32-bit finalizer over a counter, but for its last
    shift, which mixes the low bits.
    """

    def __init__(self, rate: float, site: int):
        super().__init__()
        self.rate = rate
        self.site = site

    def forward(self, x: Tensor, row_keys: Tensor | None) -> Tensor:
        """x [B, T, D], row_keys int32 [B] (None: no dropout) -> [B, T, D]."""
        if row_keys is None or self.rate == 0:
            return x
        counter = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device).view(x[0].shape)
        bits = _mix32((counter * -1640531527 + self.site * 40503) ^ row_keys.view(-1, 1, 1))
        keep = bits >= int(self.rate * 2**32) - 2**31
        return x * keep / (1 - self.rate)


def _mix32(bits: Tensor) -> Tensor:
    """Mix the high bits of int32 numbers in place; masks turn PyTorch's arithmetic shifts into logical ones."""
    shifted = bits >> 16
    bits.bitwise_xor_(shifted.bitwise_and_(0xFFFF)).mul_(-2048144789)
    torch.bitwise_right_shift(bits, 13, out=shifted)
    return bits.bitwise_xor_(shifted.bitwise_and_(0x7FFFF)).mul_(-1028477387)


class Attention(nn.Module):
    """Causal attention of heads whose queries and keys are normalized (QK-norm, Dehghani et al. 2023).

    A score is then bounded, so that a high learning rate does not make attention collapse onto single positions.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.n_head = config.n_head
        self.scale = QK_GAIN / math.sqrt(config.d_head)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, D // self.n_head).permute(2, 0, 3, 1, 4)  # [B, H, T, D/H]
        q, k = (F.layer_norm(heads, heads.shape[-1:]) for heads in (q, k))
        if cache is not None:
            k, v = cache.extend(k, v)
        if cache is not None and T == 1:  # PyTorch 2.13's fused attention takes twice as long for a single query
            y = (q @ k.transpose(2, 3) * self.scale).softmax(3) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, config: Config, index: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.down = nn.Linear(4 * config.d_model, config.d_model, bias=config.bias)
        self.attention_dropout = RowDropout(config.dropout, 2 * index + 1)
        self.mlp_dropout = RowDropout(config.dropout, 2 * index + 2)

    def forward(self, x: Tensor, mask: Tensor | None, row_keys: Tensor | None, cache: KVCache | None) -> Tensor:
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), mask, cache), row_keys)
        return x + self.mlp_dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))), row_keys)


class GPT(nn.Module):
    """Character logits from characters.

    Args:
        config: n_layer, d_model, n_head, positions, dropout, bias and seed are read.
        vocab_size: V.
    """

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(vocab_size, config.d_model)
        self.positions = nn.Embedding(config.positions, config.d_model)
        self.dropout = RowDropout(config.dropout, 0)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.head = nn.Linear(config.d_model, vocab_size, bias=config.bias)
        self._initialize(torch.Generator().manual_seed(config.seed))

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        """GPT-2's initialization (Radford et al. 2019): what a block adds is scaled down by its depth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds = name.endswith(("attention.out.weight", "down.weight"))
                parameter.normal_(0, 0.02 / math.sqrt(2 * self.config.n_layer) if adds else 0.02, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        row_keys: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:
        """tokens, positions [B, T] -> logits [B, T, V].

        Args:
            mask: [B, 1, T, T], added to attention's scores, or booleans, True where a position may look; None: at all
                before it.
            row_keys: int32 [B], the key of each row's dropout; None: no dropout.
            caches: one for each block, extended in place; the characters are their rows' first ones, or one more.
        """
        x = self.dropout(self.tokens(tokens) + self.positions(positions), row_keys)
        for index, block in enumerate(self.blocks):
            x = block(x, mask, row_keys, None if caches is None else caches[index])
        return self.head(self.norm(x))

    def empty_caches(self, batch: int, characters: int) -> list[KVCache]:
        """Return a cache for each block, for `batch` rows of up to `characters`."""
        shape = (batch, self.config.n_head, characters, self.config.d_head)
        return [KVCache(shape, self.tokens.weight) for _ in self.blocks]


def shapes(config: Config, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a GPT's tensors in its order, without making one."""
    V, D = vocab_size, config.d_model

    def linear(name: str, width: int, height: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (height, width), **({f"{name}.bias": (height,)} if config.bias else {})}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (D,), **({f"{name}.bias": (D,)} if config.bias else {})}

    found: dict[str, tuple[int, ...]] = {"tokens.weight": (V, D), "positions.weight": (config.positions, D)}
    for block in (f"blocks.{index}" for index in range(config.n_layer)):
        found |= norm(f"{block}.attention_norm")
        found |= linear(f"{block}.attention.qkv", D, 3 * D) | linear(f"{block}.attention.out", D, D)
        found |= norm(f"{block}.mlp_norm") | linear(f"{block}.up", D, 4 * D) | linear(f"{block}.down", 4 * D, D)
    return found | norm("norm") | linear("head", D, V)


def line_mask(segments: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return [B, 1, T, T], of segments [B, T] (lines): 0 where a position sees its line up to itself, else -inf.

    It is of numbers, in the dtype that attention computes in, so that no block has to make them of booleans again.
    """
    T = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(T, T, dtype=torch.bool, device=segments.device).tril()
    mask = torch.zeros(same.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~(same & causal), -math.inf)[:, None]


def parameter_count(model: nn.Module) -> int:
    """Return how many numbers training can change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
