# SPDX-License-Identifier: Apache-2.0
"""The vocabulary head: coefficients over V shared words, and the combination of word embeddings they stand for."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_langbridge import LangBridgeConfig


COEFFICIENTS_AT_ONCE = 2**23  # 32 MB of them in float32
WORDS_PER_COMBINATION = 8  # of words that stand for one that the tokenizer splits


def first_token_ids(num_words: int, pieces: int = 1) -> torch.Tensor:
    """What `token_ids` holds until someone says which words are shared: the first tokens, each a word."""
    token_ids = torch.arange(num_words)  # (V,)
    return token_ids if pieces == 1 else F.pad(token_ids[:, None], (0, pieces - 1), value=-1)  # (V, pieces)


def pack_token_ids(words: list[int] | list[list[int]]) -> torch.Tensor:
    """The ids of words, or of each word's pieces, as `token_ids` holds them: `(V,)`, or `(V, pieces)` with -1 behind a
    word's last piece. Raises `ValueError` for what holds no ids, such as the name of a file."""
    whole = isinstance(words, list) and all(type(word) is int for word in words)
    if not whole and not (isinstance(words, list) and all(isinstance(word, list) and word for word in words)):
        raise ValueError(f"`vocabulary` is {words!r:.60}: give SharedVocabulary.load(file), or a list of token ids.")
    if whole:
        return torch.tensor(words, dtype=torch.long)
    pieces = [torch.tensor(ids) for ids in words]
    return nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=-1).squeeze(1)


def look_up(embedding: nn.Module, token_ids: torch.Tensor) -> torch.Tensor:
    """The embeddings `(words, d)` of tokens `(words,)`, as the module computes them in inference.

    Through the module, which may scale, quantise or offload; as one sequence, the shape that hooks and wrappers know;
    and without what training adds to text, such as NEFTune's noise or a LoRA's dropout.
    """
    training = [module for module in embedding.modules() if module.training]
    for module in training:
        module.training = False
    try:
        return embedding(token_ids[None])[0]
    finally:
        for module in training:
            module.training = True


def find_head(model: nn.Module) -> "LangBridgeVocabularyHead":
    """A model's vocabulary head, also inside what PEFT puts around it: for its words, not for coefficients."""
    return next(module for module in model.modules() if isinstance(module, LangBridgeVocabularyHead))


def in_parts(function: Callable, rows_at_once: int, *tensors: torch.Tensor) -> list:
    """Runs a function on a few rows at a time, and again in the backward pass, so that one part's results are stored
    at most. By then a wrapper may have taken back a weight: the function must hold the weights it was made with."""
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():  # a graph is made for any number of rows
        return [function(*tensors)]
    parts = zip(*(tensor.split(max(1, rows_at_once)) for tensor in tensors), strict=True)
    if not torch.is_grad_enabled():
        return [function(*part) for part in parts]
    return [checkpoint(function, *part, use_reentrant=False) for part in parts]


class AffineMap(NamedTuple):
    """`a Wᵀ + b`: all that is behind the projector's activation, where the coefficients are linear."""

    weight: torch.Tensor  # (d, H)
    bias: torch.Tensor  # (d,)


class PooledCoefficients(NamedTuple):
    """The softmax coefficients of images' patches, pooled over each image, each patch weighted by its gate."""

    distribution: torch.Tensor  # (images, V), sums to 1
    entropy: torch.Tensor  # (images,), mean over the patches, in nats
    log_totals: torch.Tensor  # (images, tokens), a patch's logits minus this are log-probabilities


class LangBridgeVocabularyHead(nn.Module):
    """Coefficients over the shared words, and the combination of word embeddings that they stand for.

    Holds its own weight, not an `nn.Linear`, so that neither a quantiser nor LoRA's "all-linear" takes it by accident.
    Where PEFT does wrap it (`target_parameters`), its change of the weight holds during `forward` alone: call that.

    `token_ids` says where the language model keeps the words, `(V,)`; where its tokenizer splits some of them, it
    holds the pieces of each, `(V, pieces)`, with -1 behind a word's last. `get_word_ids` and `is_whole` read it.
    Where its embedding is not the mean of these, `combined_ids` and `combined_weights`, `(V, tokens)`, say of which
    tokens it is combined.
    """

    def __init__(self, config: LangBridgeConfig):
        super().__init__()
        V, H, d = config.bridge_vocab_size, config.projector_hidden_size, config.text_config.hidden_size
        self.embedding_size, self.activation = d, config.coefficient_activation
        self.words_per_image = config.words_per_image
        self.drops_split_words = config.split_words == "leave_out"
        self.weight = nn.Parameter(torch.empty(V, H))
        self.bias = nn.Parameter(torch.empty(V))
        gated = self.activation == "gated_softmax"
        self.gate_weight = nn.Parameter(torch.empty(1, H)) if gated else None
        self.gate_bias = nn.Parameter(torch.empty(1)) if gated else None
        # CODEPATH: models finetuned beside their words have it; grounded ones and the paper's have not.
        self.remainder_weight = nn.Parameter(torch.empty(d, H)) if config.linear_remainder else None
        pieces = config.pieces_per_word
        self.token_ids = nn.Buffer(first_token_ids(V, pieces))
        # CODEPATH: most tokenizers have all words whole, and then nothing is combined.
        combines = config.split_words == "combine" and pieces > 1
        shape = V, max(pieces, WORDS_PER_COMBINATION)
        self.register_buffer("combined_ids", torch.empty(shape, dtype=torch.long) if combines else None)
        self.register_buffer("combined_weights", torch.empty(shape) if combines else None)

    def get_word_ids(self) -> list[list[int]]:
        """The token ids of each word's pieces, one where the tokenizer has the word whole."""
        return [[i for i in pieces if i >= 0] for pieces in self.token_ids.view(len(self.token_ids), -1).tolist()]

    def is_whole(self) -> torch.Tensor:
        """Which words `(V,)` are single tokens of the language model."""
        return (self.token_ids.view(len(self.token_ids), -1) >= 0).sum(1) == 1

    def missing_words(self) -> torch.Tensor | None:
        """Which words `(V,)` the language model has to do without; `None` where it has them all."""
        return ~self.is_whole() if self.token_ids.dim() == 2 and self.drops_split_words else None

    def combine(self, token_ids: torch.Tensor, weights: torch.Tensor) -> None:
        """Makes each word's embedding of these tokens `(V, tokens)`, in place of its pieces, with these weights."""
        self.combined_ids = nn.Buffer(token_ids.to(self.token_ids.device))
        self.combined_weights = nn.Buffer(weights.to(self.weight))
        self.drops_split_words = False

    def weigh_tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The ids and the weights `(V, tokens)` of the tokens that make a word's embedding: its combination, its
        pieces alike, or none where the word is left out."""
        if self.combined_ids is not None:
            return self.combined_ids, self.combined_weights
        present = self.token_ids >= 0  # (V, pieces)
        if self.drops_split_words:
            present = present & self.is_whole()[:, None]
        return self.token_ids.clamp(min=0), present / present.sum(1, keepdim=True).clamp(min=1)

    def embed_words(self, embedding: nn.Module, words: slice = slice(None)) -> torch.Tensor:
        """The language model's embeddings of the words `(words, d)`; zeros for those that are left out."""
        if self.token_ids.dim() == 1:
            return look_up(embedding, self.token_ids[words])  # (words, d)
        total = 0
        for ids, weights in zip(*(table[words].unbind(1) for table in self.weigh_tokens()), strict=True):
            embeddings = look_up(embedding, ids)  # (words, d)
            exact = torch.promote_types(embeddings.dtype, torch.float32)
            total = total + embeddings * weights[:, None].to(embeddings.device, exact)
        return total.to(embeddings.dtype)

    def get_softmax_bias(self) -> torch.Tensor:
        """The bias `(V,)`, under which words that are left out have a probability of 0."""
        missing = self.missing_words()
        # Not minus infinity, whose product with a probability of 0 is not a number.
        return self.bias if missing is None else self.bias.masked_fill(missing, torch.finfo(self.bias.dtype).min / 2)

    def make_logits(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The map of `(..., H)` to the logits `(..., V)` of the softmax over the words, in float32 or better."""
        weight, bias = self.weight, self.get_softmax_bias()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return lambda hidden_states: F.linear(hidden_states, weight, bias).to(dtype)

    def get_gate(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """How much each visual token has to say, `(..., 1)` between 0 and 1; 1 where there is no gate."""
        if self.gate_weight is None:
            return hidden_states.new_ones(*hidden_states.shape[:-1], 1)
        return F.linear(hidden_states.to(self.weight.dtype), self.gate_weight, self.gate_bias).sigmoid()

    def get_coefficients(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the coefficients `(..., V)` of projected visual tokens `hidden_states` `(..., H)`."""
        hidden_states = hidden_states.to(self.weight.dtype)
        if self.activation != "linear":
            p = self.make_logits()(hidden_states).softmax(-1).to(hidden_states.dtype)  # (..., V)
            return p * self.get_gate(hidden_states)
        coefficients = F.linear(hidden_states, self.weight, self.bias)  # (..., V)
        missing = self.missing_words()
        return coefficients if missing is None else coefficients.masked_fill(missing, 0)

    def pool(self, hidden_states: torch.Tensor) -> PooledCoefficients:
        """Pools the coefficients of projected visual tokens `(images, tokens, H)`, each weighted by its gate.

        The softmax is taken whatever the activation; without a gate all tokens weigh the same.
        """
        get_logits = self.make_logits()

        def pool_part(hidden_states: torch.Tensor, gates: torch.Tensor) -> PooledCoefficients:
            logits = get_logits(hidden_states)  # (images, tokens, V)
            log_totals = logits.logsumexp(-1, keepdim=True)  # (images, tokens, 1)
            log_p = logits - log_totals
            p = log_p.exp()
            entropy = -(p * log_p).sum(-1, keepdim=True)  # (images, tokens, 1)
            return PooledCoefficients((gates * p).sum(1), (gates * entropy).sum((1, 2)), log_totals.squeeze(-1))

        hidden_states = hidden_states.to(self.weight.dtype)
        gates = self.get_gate(hidden_states).to(torch.promote_types(hidden_states.dtype, torch.float32))
        gates = gates / gates.sum(1, keepdim=True).clamp(min=1e-6)  # (images, tokens, 1)
        images_at_once = COEFFICIENTS_AT_ONCE // (hidden_states.shape[1] * len(self.weight))
        parts = in_parts(pool_part, images_at_once, hidden_states, gates)
        return PooledCoefficients(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def pick_words(self, hidden_states: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings of each image's strongest words, the strongest first, `(images, words_per_image, d)`."""
        pooled = self.pool(hidden_states)
        strengths, words = pooled.distribution.topk(self.words_per_image)  # (images, words_per_image)
        # A factor of 1: the words stay what they are, and the caption loss can strengthen those that help it.
        picked = embeddings[words] * (strengths / strengths.detach())[..., None].to(embeddings.dtype)
        if self.remainder_weight is None:
            return picked
        patches = self.attend_to_patches(hidden_states, words, pooled.log_totals)  # (images, words_per_image, H)
        return picked + F.linear(patches, self.remainder_weight)

    def attend_to_patches(
        self, hidden_states: torch.Tensor, words: torch.Tensor, log_totals: torch.Tensor
    ) -> torch.Tensor:
        """For each picked word `(images, words)` the mean of the patches, weighted by how much each says the word,
        `(images, words, H)`."""
        logits = torch.einsum("ith,iwh->iwt", hidden_states, self.weight[words]).float()  # (images, words, tokens)
        said = logits - log_totals[:, None] + self.get_gate(hidden_states).float().log().mT
        return said.softmax(-1).to(hidden_states.dtype) @ hidden_states

    def reassociation_pays(self, num_tokens: int, embedding_size: int) -> bool:
        """Whether `h (W3ᵀE)` takes fewer multiply-adds than `(h W3ᵀ) E` for this many visual tokens.

        With the backward pass, 2HVd + 3NHd against 3NHV + 2NVd; without, HVd + NHd against NHV + NVd.
        """
        (V, H), d, N = self.weight.shape, embedding_size, num_tokens
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return 2 * H * V * d + 3 * N * H * d < 3 * N * H * V + 2 * N * V * d
        return H * V * d + N * H * d < N * H * V + N * V * d

    def joining_pays(self, num_tokens: int) -> bool:
        """Whether `a (W3ᵀE)ᵀW2` takes fewer multiply-adds than `(a W2ᵀ) (W3ᵀE)` for this many visual tokens, and than
        the order without reassociation: H²d instead of NH², three times with the backward pass."""
        return num_tokens > self.embedding_size and self.reassociation_pays(num_tokens, self.embedding_size)

    def join(self, embeddings: torch.Tensor, linear: nn.Linear) -> AffineMap:
        """The map of what the layer before the head reads to visual tokens, through which gradients flow."""
        words = embeddings.T @ self.weight  # (d, H)
        bias = self.bias @ embeddings  # (d,)
        weight = words @ linear.weight.to(words)
        return AffineMap(weight, bias if linear.bias is None else bias + words @ linear.bias.to(words))

    def forward(
        self,
        hidden_states: torch.Tensor | None,
        embeddings: torch.Tensor | None = None,
        pool: bool = False,
        after: nn.Linear | None = None,
    ) -> torch.Tensor | PooledCoefficients | AffineMap:
        """Mixes the word embeddings, or picks them; without embeddings, returns the coefficients.

        Args:
            hidden_states (`torch.Tensor` of shape `(..., H)`): Projected visual tokens; `(images, tokens, H)` where
                words are picked; `None` with `after`.
            embeddings (`torch.Tensor` of shape `(V, d)`, *optional*): The language model's embeddings E of the words.
            pool (`bool`, *optional*, defaults to `False`): Without embeddings, whether to pool the coefficients.
            after (`nn.Linear`, *optional*): The layer whose output the hidden states would be, to be joined with the
                head, whose coefficients are linear.

        Returns:
            `torch.Tensor` of shape `(..., d)`, or `(images, words_per_image, d)`: Visual tokens for the language
            model. Without embeddings the coefficients `(..., V)`, or [`PooledCoefficients`]; with `after` the
            [`AffineMap`] of both.
        """
        if after is not None:
            return self.join(embeddings.to(self.weight), after)
        if embeddings is None:
            return self.pool(hidden_states) if pool else self.get_coefficients(hidden_states)
        hidden_states = hidden_states.to(self.weight.dtype)
        embeddings = embeddings.to(hidden_states)
        if self.words_per_image is not None:
            return self.pick_words(hidden_states, embeddings)
        if self.activation != "linear":
            tokens = hidden_states.flatten(0, -2)  # (tokens, H)
            get_logits = self.make_logits()

            def mix_part(tokens: torch.Tensor) -> torch.Tensor:
                return get_logits(tokens).softmax(-1).to(tokens.dtype) @ embeddings  # (tokens, d)

            parts = in_parts(mix_part, COEFFICIENTS_AT_ONCE // len(self.weight), tokens)
            mixture = torch.cat(parts).unflatten(0, hidden_states.shape[:-1])  # (..., d)
            if self.gate_weight is not None:  # comes last, where it meets d numbers of a token and not V
                mixture = mixture * self.get_gate(hidden_states)
            if self.remainder_weight is None:
                return mixture  # (..., d)
            return mixture + F.linear(hidden_states, self.remainder_weight)
        if self.reassociation_pays(hidden_states.shape[:-1].numel(), embeddings.shape[1]):
            return F.linear(hidden_states, embeddings.T @ self.weight, self.bias @ embeddings)  # (..., d)
        return F.linear(hidden_states, self.weight, self.bias) @ embeddings  # (..., d)
