# SPDX-License-Identifier: Apache-2.0
"""The adapter folded into one affine map for inference, where its coefficients are linear."""

import torch
from torch import nn

from .vocabulary_head import LangBridgeVocabularyHead


WORDS_AT_ONCE = 2048


class FoldedAdapter:
    """The adapter after its activation, `W3 (W2 a + b2) + b3` times E, as one affine map `a Wᵀ + b` for inference.

    Folding takes as long as a few images. It is done in float64, and so is more exact than the products it replaces.
    The map is kept until a tensor it came from is replaced, moved or edited, which PyTorch's version counters tell.
    They miss edits through `.data`: call `model.train().eval()` after these, which drops the map.
    """

    def __init__(self):
        self.drop()

    def drop(self) -> None:
        self.versions = self.weight = self.bias = None

    @staticmethod
    def is_possible(projector: nn.Module, head: nn.Module | None, embedding: nn.Module) -> bool:
        """Whether these fold: linear coefficients in inference, and plain modules and tensors, which neither PEFT, a
        quantiser, sharding, offloading nor forward hooks have touched."""
        if torch.compiler.is_compiling() or type(head) is not LangBridgeVocabularyHead or head.activation != "linear":
            return False
        if type(projector.linear_2) is not nn.Linear or not isinstance(embedding, nn.Embedding):
            return False
        modules = (projector, projector.linear_2, head, embedding)
        # A parametrised embedding computes its weight.
        tensors = [*projector.linear_2.parameters(), *head.parameters(), embedding.weight, *embedding.parameters()]
        return (
            not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
            and not any(type(t) is not nn.Parameter or t.is_meta or t.is_inference() for t in tensors)
        )

    # What is kept must not become an inference tensor, which a later gradient could not pass.
    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self, linear: nn.Linear, head: LangBridgeVocabularyHead, embedding: nn.Embedding) -> "FoldedAdapter":
        """Folds again where a tensor has changed. `weight` `(d, H)` and `bias` `(d,)` are the map."""
        tensors = [head.token_ids, head.weight, head.bias, embedding.weight, *linear.parameters()]
        versions = [(id(tensor), tensor.data_ptr(), tensor.dtype, tensor._version) for tensor in tensors]
        if versions != self.versions:
            self.fold(linear, head, embedding)
            self.versions = versions
        return self

    def fold(self, linear: nn.Linear, head: LangBridgeVocabularyHead, embedding: nn.Embedding) -> None:
        # Metal has no float64.
        exact = torch.float32 if head.weight.device.type == "mps" else torch.float64
        words = head.weight.new_zeros(embedding.embedding_dim, linear.out_features, dtype=exact)  # (d, H)
        constant = head.bias.new_zeros(embedding.embedding_dim, dtype=exact)  # (d,)
        # In blocks of words: at the paper's sizes W3 and E would take 0.9 GB in float64.
        for start in range(0, len(head.weight), WORDS_AT_ONCE):
            block = slice(start, start + WORDS_AT_ONCE)
            embeddings = head.embed_words(embedding, block).to(words)  # (block, d)
            words += embeddings.T @ head.weight[block].to(exact)
            constant += head.bias[block].to(exact) @ embeddings
        if linear.bias is not None:
            constant += words @ linear.bias.to(words)
        self.weight = (words @ linear.weight.to(words)).to(linear.weight)  # (d, H)
        self.bias = constant.to(linear.weight)  # (d,)
