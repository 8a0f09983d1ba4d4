# SPDX-License-Identifier: Apache-2.0
"""All behind the projector's activation as one affine map, where the coefficients are linear."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from .vocabulary_head import AffineMap, LangBridgeVocabularyHead, find_head


WORDS_AT_ONCE = 2048

Made = TypeVar("Made", bound=tuple[torch.Tensor, ...])


class Kept:
    """Tensors that were computed of others, until one of all these is replaced, moved or edited.

    PyTorch's version counters tell, which miss edits through `.data`: call `model.train().eval()` after these, which
    drops what is kept. Tensors made in inference mode count no versions: nothing is kept of them.
    """

    def __init__(self):
        self.drop()

    def drop(self) -> None:
        self.versions, self.made = [], ()

    def get(self, compute: Callable[[], Made], *tensors: torch.Tensor) -> Made:
        if any(tensor.is_inference() for tensor in tensors):
            return compute()
        if versions_of(*tensors, *self.made) != self.versions:
            # They must not become inference tensors, which a later gradient could not pass.
            with torch.inference_mode(False), torch.no_grad():
                self.made = compute()
            self.versions = versions_of(*tensors, *self.made)
        return self.made


def versions_of(*tensors: torch.Tensor) -> list[tuple]:
    return [(id(tensor), tensor.data_ptr(), tensor.dtype, tensor._version) for tensor in tensors]


def are_plain(*modules: nn.Module) -> bool:
    """Whether modules hold their own weights, whole and on a device: no sharding, offloading, parametrisation or
    forward hook has touched them."""
    weights = [weight for module in modules for weight in module._parameters.values() if weight is not None]
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules) and not any(
        type(weight) is not nn.Parameter or weight.is_meta or not weight.numel() for weight in weights
    )


def needs_gradients(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def fold(linear: nn.Linear, head: LangBridgeVocabularyHead, embedding: nn.Embedding) -> AffineMap:
    """The adapter after its activation, `W3 (W2 a + b2) + b3` times E, as one map.

    It takes as long as a few images. It is done in float64, and so is more exact than the products it replaces.
    """
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
    weight = (words @ linear.weight.to(words)).to(linear.weight)  # (d, H)
    return AffineMap(weight, constant.to(linear.weight))


class FoldedAdapter:
    """The adapter's affine map, and the embeddings of its words, as long as what they are made of stays the same."""

    def __init__(self):
        self.map, self.words = Kept(), Kept()

    def drop(self) -> None:
        self.map.drop()
        self.words.drop()

    def find_map(
        self, projector: nn.Module, head: nn.Module, embedding: nn.Module, image_features: torch.Tensor
    ) -> AffineMap | None:
        """All behind the projector's activation as one map: folded in inference; joined at each step of training that
        has so many visual tokens `(..., d_v)` that it pays. `None` where neither is, where the coefficients are not
        linear, or where something has wrapped or hooked the layers that the map stands for."""
        linear, bare_head = projector.linear_2, find_head(head)
        if bare_head.activation != "linear" or type(linear) is not nn.Linear:
            return None
        if not are_plain(projector, linear, head):
            return None
        if self.can_fold(linear, head, embedding):
            tensors = *head.buffers(), head.weight, head.bias, embedding.weight, *linear.parameters()
            return self.map.get(lambda: fold(linear, head, embedding), *tensors)
        if not bare_head.joining_pays(image_features.shape[:-1].numel()):
            return None
        return head(None, self.embed_words(bare_head, embedding), after=linear)

    def can_fold(self, linear: nn.Module, head: nn.Module, embedding: nn.Module) -> bool:
        """Whether the map is wanted without gradients, and of the weights as they are."""
        if head.training or torch.compiler.is_compiling() or type(head) is not LangBridgeVocabularyHead:
            return False
        wanted = torch.is_grad_enabled() and any(map(needs_gradients, (linear, head, embedding)))
        return self.is_lookup(embedding) and not wanted

    def embed_words(self, head: LangBridgeVocabularyHead, embedding: nn.Module) -> torch.Tensor:
        """The embeddings of the words `(V, d)`, without gradients."""

        def embed() -> tuple[torch.Tensor]:
            return (head.embed_words(embedding).detach(),)  # (V, d)

        # An optimizer may edit what it trains in ways that no version counter sees.
        still = not (embedding.training and needs_gradients(embedding)) and self.is_lookup(embedding)
        keeps = still and not torch.compiler.is_compiling()
        (words,) = self.words.get(embed, *head.buffers(), embedding.weight) if keeps else embed()
        return words

    @staticmethod
    def is_lookup(embedding: nn.Module) -> bool:
        """Whether tokens' embeddings are rows of a weight, which may be scaled, and nothing else."""
        return isinstance(embedding, nn.Embedding) and "weight" in embedding._parameters and are_plain(embedding)
