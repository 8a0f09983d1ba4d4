# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""PyTorch LangBridge model: LLaVA whose projector ends in a vocabulary head.

Every visual token becomes coefficients over V shared words and is handed to the language model as that combination of
the model's own embeddings of those words (LangBridge, arXiv 2503.19404, section 3):

    h = W2 gelu(W1 v + b1) + b2    multi_modal_projector
    c = W3 h + b3                  vocabulary_head
    x = c E                        E: the language model's embeddings of the words `vocabulary_head.token_ids`

Where the coefficients are distributions, `words_per_image` hands an image over as its strongest words instead.
To compare with, the projector alone may be the adapter: `adapter_type` `"mlp"` is stock LLaVA, `"linear"` is VLAP's.
"""

import os
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import select_hidden_states

from .configuration_langbridge import LangBridgeConfig
from .processing_langbridge import LangBridgeProcessor, find_vision_config, measure_vision_tower


COEFFICIENTS_AT_ONCE = 2**25  # 128 MB of them in float32


def word_blocks(weight: torch.Tensor) -> list[slice]:
    """Cuts the V rows of a tensor into blocks small enough that tokens x block fits the memory at hand."""
    return [slice(start, start + 2048) for start in range(0, len(weight), 2048)]


def first_token_ids(num_words: int, pieces: int = 1) -> torch.Tensor:
    """What `token_ids` holds before anyone says which the words are: the first tokens, each a word."""
    token_ids = torch.arange(num_words)  # (V,)
    return token_ids if pieces == 1 else F.pad(token_ids[:, None], (0, pieces - 1), value=-1)  # (V, pieces)


class SoftmaxMixture(torch.autograd.Function):
    """`softmax(h Wᵀ + b) E` in blocks of words, so that the (tokens, V) coefficients are never stored.

    The forward pass keeps a running maximum and sum per token (Milakov and Gimelshein, arXiv 1805.02867); the backward
    pass computes each block's coefficients again. E receives no gradient.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, embeddings):
        exact = torch.promote_types(hidden.dtype, torch.float32)
        maximum = hidden.new_full((len(hidden), 1), -torch.inf, dtype=exact)  # (tokens, 1)
        total = torch.zeros_like(maximum)  # (tokens, 1)
        mixture = maximum.new_zeros(len(hidden), embeddings.shape[1])  # (tokens, d)
        with torch.autocast(hidden.device.type, enabled=False):
            for block in word_blocks(weight):
                logits = F.linear(hidden, weight[block], bias[block]).to(exact)  # (tokens, block)
                new_maximum = torch.maximum(maximum, logits.amax(-1, keepdim=True))
                shrink = (maximum - new_maximum).exp()
                exponentials = (logits - new_maximum).exp()
                total = total * shrink + exponentials.sum(-1, keepdim=True)
                mixture = mixture * shrink + exponentials.to(embeddings.dtype) @ embeddings[block]
                maximum = new_maximum
        mixture = mixture / total
        ctx.save_for_backward(hidden, weight, bias, embeddings, maximum + total.log(), mixture)
        return mixture.to(hidden.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_mixture):
        hidden, weight, bias, embeddings, log_total, mixture = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden)  # (tokens, H)
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)  # (V, H), (V,)
        mean_grad = (grad_mixture * mixture).sum(-1, keepdim=True)  # (tokens, 1)
        with torch.autocast(hidden.device.type, enabled=False):
            for block in word_blocks(weight):
                logits = F.linear(hidden, weight[block], bias[block]).to(log_total.dtype)  # (tokens, block)
                grad_coefficients = grad_mixture @ embeddings[block].T  # (tokens, block)
                grad_logits = ((logits - log_total).exp() * (grad_coefficients - mean_grad)).to(hidden.dtype)
                grad_hidden += grad_logits @ weight[block]
                grad_weight[block] = grad_logits.T @ hidden
                grad_bias[block] = grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None


class PooledCoefficients(NamedTuple):
    """The softmax coefficients of images' patches, each image's pooled, each patch weighed by its gate."""

    distribution: torch.Tensor  # (images, V), sums to 1
    entropy: torch.Tensor  # (images,), mean of the patches' own, in nats
    log_totals: torch.Tensor  # (images, tokens), what a patch's logits must be lessened by to be log-probabilities


class LangBridgeVocabularyHead(nn.Module):
    """Coefficients over the shared words, and the combination of word embeddings that they stand for.

    Holds its own weight, not an `nn.Linear`, so that neither a quantiser nor LoRA's "all-linear" takes it by accident.

    `token_ids` says where the language model keeps the words, `(V,)`; or, where its tokenizer cuts some of them into
    pieces, which these are, `(V, pieces)`, with -1 behind a word's last.
    """

    def __init__(self, config: LangBridgeConfig):
        super().__init__()
        V, H = config.bridge_vocab_size, config.projector_hidden_size
        self.activation = config.coefficient_activation
        self.words_per_image = config.words_per_image
        self.leaves_out_split_words = config.split_words == "leave_out"
        self.weight = nn.Parameter(torch.empty(V, H))
        self.bias = nn.Parameter(torch.empty(V))
        gated = self.activation == "gated_softmax"
        self.gate_weight = nn.Parameter(torch.empty(1, H)) if gated else None
        self.gate_bias = nn.Parameter(torch.empty(1)) if gated else None
        d = config.text_config.hidden_size
        # CODEPATH: models that are finetuned with their words kept have it; grounded ones and the paper's have not.
        self.remainder_weight = nn.Parameter(torch.empty(d, H)) if config.linear_remainder else None
        self.token_ids = nn.Buffer(first_token_ids(V, config.pieces_per_word))

    def find_left_out(self) -> torch.Tensor | None:
        """Which words the language model is to do without, `(V,)`; `None` where it has them all."""
        if self.token_ids.dim() == 1 or not self.leaves_out_split_words:
            return None
        return self.token_ids[:, 1] >= 0

    def embed_words(self, embedding: nn.Module, words: slice = slice(None)) -> torch.Tensor:
        """The language model's embeddings of the words `(words, d)`: for one cut into pieces, their mean, or zeros
        where it is left out."""
        token_ids = self.token_ids[words]
        if token_ids.dim() == 1:
            return embedding(token_ids)  # (words, d)
        present = token_ids >= 0  # (words, pieces)
        total = sum(
            embedding(ids.clamp(min=0)) * there[:, None]
            for ids, there in zip(token_ids.unbind(1), present.unbind(1), strict=True)
        )  # (words, d)
        left_out = self.find_left_out()
        if left_out is not None:
            total = total.masked_fill(left_out[words, None].to(total.device), 0)
        return total / present.sum(1, keepdim=True).to(total.device)

    def get_softmax_bias(self) -> torch.Tensor:
        """The bias `(V,)`, under which words that are left out have a probability of nothing."""
        left_out = self.find_left_out()
        # Not minus infinity, since a block of words may hold no other.
        return self.bias if left_out is None else self.bias.masked_fill(left_out, torch.finfo(self.bias.dtype).min / 2)

    def get_coefficients(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the coefficients `(..., V)` of projected visual tokens `hidden_states` `(..., H)`."""
        hidden_states = hidden_states.to(self.weight.dtype)
        if self.activation != "linear":
            logits = F.linear(hidden_states, self.weight, self.get_softmax_bias())  # (..., V)
            return logits.softmax(-1) * self.get_gate(hidden_states)
        coefficients = F.linear(hidden_states, self.weight, self.bias)  # (..., V)
        left_out = self.find_left_out()
        return coefficients if left_out is None else coefficients.masked_fill(left_out, 0)

    def get_gate(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """How much each visual token has to say, `(..., 1)` between 0 and 1; 1 where there is no gate."""
        if self.gate_weight is None:
            return hidden_states.new_ones(*hidden_states.shape[:-1], 1)
        return F.linear(hidden_states.to(self.weight.dtype), self.gate_weight, self.gate_bias).sigmoid()

    def pool(self, hidden_states: torch.Tensor) -> PooledCoefficients:
        """Pools the softmax coefficients of an image's patches, each patch by its gate.

        A few images at a time, and computed again in the backward pass: tokens x V coefficients are never stored.

        Args:
            hidden_states (`torch.Tensor` of shape `(images, tokens, H)`): Projected visual tokens.

        Returns:
            [`PooledCoefficients`]. The softmax is taken whatever the activation; without a gate all patches count
            alike.
        """
        hidden_states = hidden_states.to(self.weight.dtype)
        images_at_once = max(1, COEFFICIENTS_AT_ONCE // (hidden_states.shape[1] * len(self.weight)))
        parts = [checkpoint(self._pool, part, use_reentrant=False) for part in hidden_states.split(images_at_once)]
        return PooledCoefficients(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _pool(self, hidden_states: torch.Tensor) -> PooledCoefficients:
        logits = F.linear(hidden_states, self.weight, self.get_softmax_bias()).float()  # (images, tokens, V)
        log_totals = logits.logsumexp(-1, keepdim=True)  # (images, tokens, 1)
        log_p = logits - log_totals
        gates = self.get_gate(hidden_states).float()
        gates = gates / gates.sum(1, keepdim=True).clamp(min=1e-6)  # (images, tokens, 1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1, keepdim=True)  # (images, tokens, 1)
        return PooledCoefficients((gates * p).sum(1), (gates * entropy).sum((1, 2)), log_totals.squeeze(-1))

    def pick_words(self, hidden_states: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings of each image's strongest words, the strongest first, `(images, words_per_image, d)`."""
        pooled = self.pool(hidden_states)
        strengths, words = pooled.distribution.topk(self.words_per_image)  # (images, words_per_image)
        # A factor of 1: the words stay what they are, and the caption loss can strengthen those that help it.
        picked = embeddings[words] * (strengths / strengths.detach())[..., None].to(embeddings.dtype)
        if self.remainder_weight is None:
            return picked
        return picked + F.linear(self.look_again(hidden_states, words, pooled.log_totals), self.remainder_weight)

    def look_again(self, hidden_states: torch.Tensor, words: torch.Tensor, log_totals: torch.Tensor) -> torch.Tensor:
        """For each picked word `(images, words)` the mean of the patches that say it, as far as they do,
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

    def forward(self, hidden_states: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Mixes the word embeddings, or picks them.

        Args:
            hidden_states (`torch.Tensor` of shape `(..., H)`): Projected visual tokens; `(images, tokens, H)` where
                words are picked.
            embeddings (`torch.Tensor` of shape `(V, d)`): The language model's embeddings E of the shared words.

        Returns:
            `torch.Tensor` of shape `(..., d)`, or `(images, words_per_image, d)`: Visual tokens for the language
            model.
        """
        hidden_states = hidden_states.to(self.weight.dtype)
        embeddings = embeddings.to(hidden_states)
        if self.words_per_image is not None:
            return self.pick_words(hidden_states, embeddings)
        if self.activation != "linear":
            tokens = hidden_states.flatten(0, -2)  # (tokens, H)
            mixture = SoftmaxMixture.apply(tokens, self.weight, self.get_softmax_bias(), embeddings)  # (tokens, d)
            mixture = mixture.unflatten(0, hidden_states.shape[:-1]) * self.get_gate(hidden_states)  # (..., d)
            if self.remainder_weight is None:
                return mixture
            return mixture + F.linear(hidden_states, self.remainder_weight)
        if self.reassociation_pays(hidden_states.shape[:-1].numel(), embeddings.shape[1]):
            return F.linear(hidden_states, embeddings.T @ self.weight, self.bias @ embeddings)  # (..., d)
        return F.linear(hidden_states, self.weight, self.bias) @ embeddings  # (..., d)


class FoldedAdapter:
    """The adapter after its activation, `W3 (W2 a + b2) + b3` times E, as one affine map `a Wᵀ + b` for inference.

    Folding takes as long as a few images: it is done in float64, and so more exact than the products it replaces.
    The map is kept until the tensors it came from change. Each is known by its identity, version counter, place and
    type and by a sample of its values that meets every row and every column, so that edits which bypass the version
    counter (`weight.data[3] = 0`) are seen too, unless they touch single values that the sample does not.
    """

    def __init__(self):
        self.fingerprint = self.weight = self.bias = None

    # What is kept must not become an inference tensor, which a later gradient could not pass.
    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self, linear: nn.Linear, head: LangBridgeVocabularyHead, embedding: nn.Embedding) -> "FoldedAdapter":
        fingerprint = self.take_fingerprint(linear, head, embedding)
        if self.fingerprint is None or not self.same(fingerprint, self.fingerprint):
            self.fold(linear, head, embedding)
            self.fingerprint = fingerprint
        return self

    @staticmethod
    def take_fingerprint(linear, head, embedding) -> tuple[list, list[torch.Tensor]]:
        tensors = [head.token_ids, embedding.weight, head.weight, linear.weight, head.bias]
        tensors += [] if linear.bias is None else [linear.bias]
        identities = [(id(t), t._version, t.data_ptr(), t.device, t.dtype, t.shape) for t in tensors]
        samples = [t.detach().clone() for t in tensors if t.dim() == 1 or t is head.token_ids]
        for tensor, rows in (
            (embedding.weight, head.token_ids.flatten().clamp(min=0)),
            (head.weight, torch.arange(len(head.weight))),
            (linear.weight, torch.arange(len(linear.weight))),
        ):
            position = torch.arange(max(len(rows), tensor.shape[1]), device=tensor.device)
            rows = rows.to(tensor.device)[position % len(rows)]
            samples.append(tensor.detach()[rows, position % tensor.shape[1]])
        return identities, samples

    @staticmethod
    def same(one, other) -> bool:
        return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))

    def fold(self, linear, head, embedding):
        # Metal has no float64.
        exact = torch.float32 if head.weight.device.type == "mps" else torch.float64
        words = head.weight.new_zeros(embedding.embedding_dim, linear.out_features, dtype=exact)  # (d, H)
        constant = head.bias.new_zeros(embedding.embedding_dim, dtype=exact)  # (d,)
        # In blocks of words: at the paper's sizes W3 and E would take 0.9 GB in float64.
        for block in word_blocks(head.weight):
            embeddings = head.embed_words(embedding, block).to(words)  # (block, d)
            words += embeddings.T @ head.weight[block].to(exact)
            constant += head.bias[block].to(exact) @ embeddings
        if linear.bias is not None:
            constant += words @ linear.bias.to(words)
        self.weight = (words @ linear.weight.to(words)).to(linear.weight)  # (d, H)
        self.bias = constant.to(linear.weight)  # (d,)


class LangBridgeMultiModalProjector(nn.Module):
    """LLaVA's two-layer MLP, or its first layer alone (VLAP's): H wide under a vocabulary head, otherwise d wide."""

    def __init__(self, config: LangBridgeConfig):
        super().__init__()
        layers, adapter, bias = config.vision_feature_layer, config.adapter_type, config.multimodal_projector_bias
        feature_size = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
        width = config.projector_hidden_size if adapter == "langbridge" else config.text_config.hidden_size
        self.linear_1 = nn.Linear(feature_size, width, bias=bias)
        self.act = nn.Identity() if adapter == "linear" else ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Identity() if adapter == "linear" else nn.Linear(width, width, bias=bias)

    def activate(self, image_features: torch.Tensor) -> torch.Tensor:
        if image_features.shape[-1] != self.linear_1.in_features:
            raise ValueError(
                f"The vision features are {image_features.shape[-1]} wide, but `vision_config.hidden_size` and "
                f"`vision_feature_layer` made the projector for {self.linear_1.in_features}."
            )
        if self.linear_1.weight.is_floating_point():
            # The tower's dtype is not the adapter's in a QLoRA run; a quantised layer casts by itself.
            image_features = image_features.to(self.linear_1.weight.dtype)
        return self.act(self.linear_1(image_features))

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """Projects `(..., d_v)` visual features to `(..., H)`, or to `(..., d)` where it is the whole adapter."""
        return self.linear_2(self.activate(image_features))


class LangBridgeLMHead(nn.Linear):
    """The language model's output layer, with the soft-capping of logits that Gemma 2 does outside of it."""

    def __init__(self, config: LangBridgeConfig):
        text_config = config.text_config
        super().__init__(text_config.hidden_size, text_config.vocab_size, bias=config.lm_head_bias)
        self.softcapping = getattr(text_config, "final_logit_softcapping", None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits = super().forward(hidden_states)  # (batch, sequence, vocabulary)
        return logits if self.softcapping is None else self.softcapping * torch.tanh(logits / self.softcapping)


@auto_docstring
class LangBridgePreTrainedModel(LlavaPreTrainedModel):
    config: LangBridgeConfig
    _no_split_modules = ["LangBridgeMultiModalProjector", "LangBridgeVocabularyHead"]

    def post_init(self):
        super().post_init()
        # CLIP's tower lists the layers of its text encoder too; FSDP fails on a class that it cannot find.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LangBridgeVocabularyHead):
            std = self.config.text_config.initializer_range
            # Visual tokens start about as long as a word's embedding, however many words raw coefficients add up.
            init.normal_(module.weight, std=std / len(module.weight) ** 0.5 if module.activation == "linear" else std)
            init.zeros_(module.bias)
            if module.gate_weight is not None:
                init.normal_(module.gate_weight, std=std)
                init.zeros_(module.gate_bias)
            if module.remainder_weight is not None:
                init.zeros_(module.remainder_weight)
            init.copy_(module.token_ids, first_token_ids(*module.token_ids.shape))


@auto_docstring(custom_intro="The LangBridge model without a language modeling head.")
class LangBridgeModel(LangBridgePreTrainedModel, LlavaModel):
    def __init__(self, config: LangBridgeConfig):
        LangBridgePreTrainedModel.__init__(self, config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = LangBridgeMultiModalProjector(config)
        # CODEPATH: every LangBridge has the head; the `mlp` and `linear` that it is compared with have none.
        self.vocabulary_head = LangBridgeVocabularyHead(config) if config.adapter_type == "langbridge" else None
        self.language_model = AutoModel.from_config(config.text_config)
        self.folded_adapter = FoldedAdapter()
        self.post_init()

    def train(self, mode: bool = True) -> "LangBridgeModel":
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.vision_tower.parameters()):
            # A frozen convolutional tower would otherwise go on learning its batch statistics.
            self.vision_tower.eval()
        return self

    @merge_with_config_defaults
    @select_hidden_states("vision_feature_layer")
    def get_vision_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Runs the vision tower; `pooler_output` holds what the adapter reads, `(images, tokens, d_v)`."""
        outputs = self.vision_tower(pixel_values, return_dict=True, **kwargs)
        if outputs.last_hidden_state.dim() == 4:  # a convolutional tower's map (images, d_v, rows, columns)
            outputs.pooler_output = outputs.last_hidden_state.flatten(2).transpose(1, 2)  # (images, tokens, d_v)
            return outputs
        layers = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
        first = 1 if vision_feature_select_strategy == "default" else 0
        outputs.pooler_output = torch.cat([outputs.hidden_states[layer][:, first:] for layer in layers], dim=-1)
        return outputs

    @can_return_tuple
    @auto_docstring(custom_intro="Encodes images into visual tokens, by default made of the language model's words.")
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        if image_sizes is not None:
            raise ValueError("LangBridge reads images of one size: leave out `image_sizes`.")
        # A batch of text alone may come with no image, (0, channels, height, width): a blank one that leaves no tokens
        # then runs through tower and adapter, so that gradients and several processes' collectives meet.
        no_images = len(pixel_values) == 0
        outputs = self.get_vision_features(
            pixel_values.new_zeros(1, *pixel_values.shape[1:]) if no_images else pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            **kwargs,
        )
        visual_tokens = self.adapt(outputs.pooler_output)  # (images, tokens, d)
        outputs.pooler_output = [visual_tokens[0, :0]] if no_images else list(visual_tokens)  # images x (tokens, d)
        return outputs

    def get_image_coefficients(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the coefficients `(images, tokens, V)` of `pixel_values` `(images, channels, height, width)`.

        They run over the words `vocabulary_head.token_ids`; times those words' embeddings they are the visual tokens
        of [`LangBridgeModel.get_image_features`]. Raises `ValueError` where the adapter is not made of words.
        """
        self.config.require_words("`get_image_coefficients`")
        features = self.get_vision_features(pixel_values).pooler_output  # (images, tokens, d_v)
        return self.vocabulary_head.get_coefficients(self.multi_modal_projector(features))

    def adapt(self, image_features: torch.Tensor) -> torch.Tensor:
        """The adapter: visual features `(images, tokens, d_v)` to visual tokens `(images, tokens, d)`."""
        if self.can_fold():
            folded = self.folded_adapter.refresh(
                self.multi_modal_projector.linear_2, self.vocabulary_head, self.get_input_embeddings()
            )
            return F.linear(self.multi_modal_projector.activate(image_features), folded.weight, folded.bias)
        if self.vocabulary_head is None:
            return self.multi_modal_projector(image_features)  # (images, tokens, d)
        return self.vocabulary_head(self.multi_modal_projector(image_features), self.get_word_embeddings())

    def get_word_embeddings(self) -> torch.Tensor:
        """Returns the language model's embeddings E of the shared words, `(V, d)`, through which no gradient flows.

        Raises `ValueError` where the adapter is not made of words.
        """
        self.config.require_words("`get_word_embeddings`")
        return self.vocabulary_head.embed_words(self.get_input_embeddings()).detach()  # (V, d)

    def can_fold(self) -> bool:
        """Whether the adapter may run folded: of linear coefficients, in inference, and made of plain modules and
        tensors, which neither PEFT, a quantiser, sharding, offloading nor anyone's forward hooks have touched."""
        projector, head, embedding = self.multi_modal_projector, self.vocabulary_head, self.get_input_embeddings()
        if self.training or torch.compiler.is_compiling():
            return False
        if not isinstance(projector, LangBridgeMultiModalProjector) or not isinstance(head, LangBridgeVocabularyHead):
            return False
        if not isinstance(embedding, nn.Embedding) or type(projector.linear_2) is not nn.Linear:
            return False
        if head.activation != "linear":
            return False
        modules = (projector, projector.linear_2, head, embedding)
        tensors = [*projector.linear_2.parameters(), *head.parameters(), *embedding.parameters()]
        return (
            not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
            and not any(type(t) is not nn.Parameter or t.is_meta or t.is_inference() for t in tensors)
        )


@auto_docstring(custom_intro="The LangBridge model: a vision tower, an adapter made of words and a language model.")
class LangBridgeForConditionalGeneration(LangBridgePreTrainedModel, LlavaForConditionalGeneration, GenerationMixin):
    def __init__(self, config: LangBridgeConfig):
        LangBridgePreTrainedModel.__init__(self, config)
        self.model = LangBridgeModel(config)
        self.lm_head = LangBridgeLMHead(config)
        # Families name their embedding differently (GPT-2 `wte`, GPT-NeoX `embed_in`).
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        # Resizing hands over a plain `nn.Linear`, which would lose the soft-capping.
        self.lm_head.weight, self.lm_head.bias = new_embeddings.weight, new_embeddings.bias
        self.lm_head.out_features = new_embeddings.out_features

    def get_image_coefficients(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the coefficients `(images, tokens, V)`, see [`LangBridgeModel.get_image_coefficients`]."""
        return self.model.get_image_coefficients(pixel_values)

    def save_pretrained(self, save_directory, **kwargs):
        # transformers itself writes only the entry of the one Auto class that the class was registered for.
        name = "modeling_langbridge.LangBridgeForConditionalGeneration"
        self.config.auto_map = {
            "AutoConfig": "configuration_langbridge.LangBridgeConfig",
            "AutoModel": name,
            "AutoModelForImageTextToText": name,
            "AutoModelForMultimodalLM": name,
        }
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel,
        vocabulary=None,
        processor: LangBridgeProcessor | None = None,
        adapter_type: str = "langbridge",
        split_words: str | None = None,
        **config_fields,
    ) -> "LangBridgeForConditionalGeneration":
        r"""Joins a pretrained vision tower and a pretrained language model with a new, untrained adapter.

        Args:
            vision (`str` or `PreTrainedModel`):
                Hub id, folder or loaded model: a tower (CLIP, SigLIP, DINOv2, ViT, MobileNetV2, ConvNeXt, ResNet …)
                or a whole CLIP or SigLIP, whose tower is taken.
            text (`str` or `PreTrainedModel`):
                Hub id, folder or loaded model: a causal language model. A loaded one becomes part of the result.
            vocabulary (`SharedVocabulary`, `list[int]` or `list[list[int]]`, *optional*):
                The shared words, in the order that makes a transfer meaningful, or their ids in the language model
                (of words that are cut, the pieces', with -1 behind the last).
                Only an adapter made of words needs them; the others do not look at them.
            processor (`LangBridgeProcessor`, *optional*):
                The processor the model will be used with, whose `words_per_image` becomes the model's. Composed from
                `vision` and `text` when left out.
            adapter_type (`str`, *optional*, defaults to `"langbridge"`):
                `"langbridge"`, `"mlp"` or `"linear"`, see [`LangBridgeConfig`].
            split_words (`str`, *optional*):
                What becomes of words that the tokenizer has not as single tokens: `"leave_out"` or `"mean"`, see
                [`LangBridgeConfig`]. They are refused when left out.
            config_fields:
                Fields of [`LangBridgeConfig`], such as `projector_hidden_size` or `coefficient_activation`.

        Returns:
            `LangBridgeForConditionalGeneration` in eval mode, in the language model's dtype and on its device.

        Raises:
            `ValueError`: where the words are missing, or one is not in the language model's vocabulary, or the model
            does more to its logits than this class can do alike.
        """
        if adapter_type != "langbridge":
            vocabulary = []
        elif vocabulary is None:
            raise ValueError("`vocabulary` is missing: give one, or an `adapter_type` without words (mlp, linear).")
        processor = processor or LangBridgeProcessor.from_vision_text_pretrained(vision, text)
        vision_tower = load_vision_tower(vision)
        language_model = text if isinstance(text, PreTrainedModel) else AutoModelForCausalLM.from_pretrained(text)
        if language_model.config.get_text_config() is not language_model.config:
            raise ValueError(
                f"`{language_model.config.model_type}` is itself a multimodal model: give its language model alone as "
                "`text`."
            )
        token_ids = find_token_ids(vocabulary, processor.tokenizer, split_words)  # (V,) or (V, pieces)
        head = language_model.get_output_embeddings()
        num_words = language_model.get_input_embeddings().num_embeddings
        outside = token_ids[(token_ids < (0 if token_ids.dim() == 1 else -1)) | (token_ids >= num_words)]
        if len(outside):
            raise ValueError(
                f"`vocabulary` holds {len(outside)} token ids outside the language model's {num_words} embeddings, "
                f"the first is {outside[0]}: it was made for another language model."
            )

        _, features = measure_vision_tower(vision_tower.config, processor.image_processor)
        # Convolutional towers do not state the width of what they give.
        vision_tower.config.hidden_size = features[1] if len(features) == 4 else features[2]
        config = LangBridgeConfig(
            vision_config=vision_tower.config,
            text_config=language_model.config,
            adapter_type=adapter_type,
            words_per_image=processor.words_per_image,
            bridge_vocab_size=len(token_ids),
            pieces_per_word=1 if token_ids.dim() == 1 else token_ids.shape[1],
            split_words=split_words or "leave_out",
            image_token_index=processor.image_token_id,
            image_seq_length=processor.num_image_tokens,
            vision_feature_select_strategy=processor.vision_feature_select_strategy,
            lm_head_bias=head.bias is not None,
            **config_fields,
        )
        for part in (config.vision_config, config.text_config):
            if os.path.exists(part.name_or_path):
                part.name_or_path = ""  # a path of this machine has no place in a checkpoint; a Hub id stays
        with torch.device("meta"):
            model = cls(config)
        model.model.vision_tower = vision_tower
        model.model.language_model = language_model.base_model
        model.lm_head.weight, model.lm_head.bias = head.weight, head.bias
        model.model.multi_modal_projector = LangBridgeMultiModalProjector(config)
        adapter = [model.model.multi_modal_projector]
        if adapter_type == "langbridge":
            model.model.vocabulary_head = LangBridgeVocabularyHead(config)
            adapter.append(model.model.vocabulary_head)
        for module in (module for part in adapter for module in part.modules()):
            model._init_weights(module)
        if adapter_type == "langbridge":
            model.model.vocabulary_head.token_ids.copy_(token_ids)
        for part in (vision_tower, *adapter):
            part.to(device=language_model.device, dtype=language_model.dtype)
        model.generation_config = language_model.generation_config
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        # A placeholder that the model wrote itself would have no image when its answer is read again.
        suppressed = model.generation_config.suppress_tokens or []
        model.generation_config.suppress_tokens = [*suppressed, processor.image_token_id]
        model.eval()
        check_same_logits(model, language_model)
        if len(processor.tokenizer) > num_words:
            model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
            # Not random, so that the same parts always make the same model.
            for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
                weight.data[num_words:] = weight.data[:num_words].mean(0, dtype=torch.float32)
        return model


def find_token_ids(vocabulary, tokenizer: PreTrainedTokenizerBase, split_words: str | None) -> torch.Tensor:
    """Where a language model keeps the words of a `SharedVocabulary`, or of a list of ids, as `token_ids` has it:
    `(V,)`, or `(V, pieces)` where its tokenizer lacks some and `split_words` says what becomes of these."""
    if isinstance(vocabulary, list):
        return torch.tensor(vocabulary, dtype=torch.long)
    if split_words is None:
        return torch.tensor(vocabulary.token_ids(tokenizer))
    pieces = [torch.tensor(ids) for ids in vocabulary.piece_ids(tokenizer)]
    return nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=-1).squeeze(1)


def load_vision_tower(vision: str | PreTrainedModel) -> PreTrainedModel:
    """Loads a vision tower, or takes it out of a model that joins it with a text encoder, as CLIP and SigLIP do."""
    if isinstance(vision, PreTrainedModel):
        return vision if find_vision_config(vision.config) is vision.config else vision.vision_model
    return AutoModel.from_pretrained(vision, config=find_vision_config(AutoConfig.from_pretrained(vision)))


@torch.no_grad()
def check_same_logits(model: LangBridgeForConditionalGeneration, language_model: PreTrainedModel):
    """Refuses language models whose own class does more to the logits than [`LangBridgeLMHead`], as Cohere's."""
    input_ids = torch.arange(1, 5, device=language_model.device)[None]  # (1, 4)
    expected = language_model(input_ids=input_ids).logits
    difference = (model(input_ids=input_ids).logits - expected).abs().max()
    if not difference <= 1e-3 * expected.abs().max():
        raise ValueError(
            f"Language models of type `{language_model.config.model_type}` are not supported: they scale their "
            f"logits, which LangBridge does not (difference {difference:.2g})."
        )


__all__ = ["LangBridgeForConditionalGeneration", "LangBridgeModel", "LangBridgePreTrainedModel"]
