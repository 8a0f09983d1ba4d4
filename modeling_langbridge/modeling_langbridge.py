# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""PyTorch LangBridge model: LLaVA whose projector ends in a vocabulary head.

Every visual token becomes coefficients over V shared words. The language model gets that combination of its own
embeddings of the words (LangBridge, arXiv 2503.19404, section 3):

    h = W2 gelu(W1 v + b1) + b2    multi_modal_projector
    c = W3 h + b3                  vocabulary_head
    x = c E                        E: the language model's embeddings of the words `vocabulary_head.token_ids`

Where the coefficients are distributions, `words_per_image` passes an image on as its strongest words instead.
For comparison, the projector alone may be the adapter: `adapter_type` `"mlp"` is LLaVA's, `"linear"` is VLAP's.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    GenerationMixin,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .chat_templates import STAND_IN as STAND_IN  # transformers before 5.10 copies only what this file names
from .composing import compose
from .configuration_langbridge import LangBridgeConfig
from .folded_adapter import FoldedAdapter, needs_gradients
from .image_opening import open_image as open_image  # likewise
from .processing_langbridge import LangBridgeProcessor
from .video_opening import open_video as open_video  # likewise
from .vocabulary_head import AffineMap, LangBridgeVocabularyHead, find_head, first_token_ids


IMAGES_AT_ONCE = 16
NOT_A_LLAVA = (
    "none, since this is a LangBridge, whose vocabulary head a LLaVA would leave out: load it with an Auto class and "
    "trust_remote_code=True, or export it as a LLaVA with scripts/export.py"
)


class LangBridgeMultiModalProjector(nn.Module):
    """LLaVA's two-layer MLP, or its first layer alone (VLAP's): H wide under a vocabulary head, otherwise d wide."""

    def __init__(self, config: LangBridgeConfig):
        super().__init__()
        layers, adapter, bias = config.vision_feature_layer, config.adapter_type, config.multimodal_projector_bias
        self.feature_size = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
        width = config.projector_hidden_size if adapter == "langbridge" else config.text_config.hidden_size
        self.width = width
        self.linear_1 = nn.Linear(self.feature_size, width, bias=bias)
        self.act = nn.Identity() if adapter == "linear" else ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Identity() if adapter == "linear" else nn.Linear(width, width, bias=bias)

    def forward(self, image_features: torch.Tensor, output_map: AffineMap | None = None) -> torch.Tensor:
        """Projects visual features.

        Args:
            image_features (`torch.Tensor` of shape `(..., d_v)`): What the vision tower gives.
            output_map ([`AffineMap`], *optional*): Stands in for the second layer and all that is behind it.

        Returns:
            `torch.Tensor` of shape `(..., H)`, or `(..., d)` with a map, or where it is the whole adapter.
        """
        if image_features.shape[-1] != self.feature_size:
            raise ValueError(
                f"The vision features are {image_features.shape[-1]} wide, but `vision_config.hidden_size` and "
                f"`vision_feature_layer` made the projector for {self.feature_size}."
            )
        # In a QLoRA run the tower has another dtype. A quantised layer, which may hold no tensor, casts by itself.
        dtypes = (parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())
        activated = self.act(self.linear_1(image_features.to(next(dtypes, image_features.dtype))))  # (..., H)
        if output_map is None:
            return self.linear_2(activated)
        return F.linear(activated.to(output_map.weight.dtype), *output_map)


def join_outputs(parts: list[ModelOutput]) -> ModelOutput:
    """The output of a model for a whole batch, out of those for its parts."""
    if len(parts) == 1:
        return parts[0]

    def join(values: tuple) -> Any:
        if isinstance(values[0], torch.Tensor):
            return torch.cat(values)
        return values[0] and tuple(map(join, zip(*values, strict=True)))  # None, or a tuple of the layers' states

    return type(parts[0])(
        **{name: join(values) for name, *values in zip(parts[0], *map(ModelOutput.values, parts), strict=True)}
    )


def pool_squares(features: torch.Tensor, width: int) -> torch.Tensor:
    """The means of squares of `width` by `width` patches, of those of square images `(images, patches, d_v)`."""
    if width == 1:
        return features
    length = math.isqrt(features.shape[1]) // width
    squares = features.unflatten(1, (length, width, length, width))  # (images, rows, width, columns, width, d_v)
    return squares.mean((2, 4)).flatten(1, 2)  # (images, rows * columns, d_v)


class LangBridgeLMHead(nn.Linear):
    """The language model's output layer, with the soft-capping of logits that Gemma 2 does outside of it."""

    def __init__(self, config: LangBridgeConfig):
        super().__init__(config.text_config.hidden_size, config.text_config.vocab_size, bias=config.lm_head_bias)
        self.softcapping = getattr(config.text_config, "final_logit_softcapping", None)

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
            if module.combined_ids is not None:
                first = first_token_ids(*module.combined_ids.shape)
                init.copy_(module.combined_ids, first.clamp(min=0))
                init.copy_(module.combined_weights, first >= 0)


@auto_docstring(custom_intro="The LangBridge model without a language modeling head.")
class LangBridgeModel(LangBridgePreTrainedModel, LlavaModel):
    # A quantiser leaves it as it is: it is small, trained beside a quantised language model, and folded for inference.
    _keep_in_fp32_modules = ["multi_modal_projector"]

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
        self.folded_adapter.drop()
        if not needs_gradients(self.vision_tower):
            # A frozen convolutional tower would otherwise go on learning its batch statistics.
            self.vision_tower.eval()
        return self

    @merge_with_config_defaults
    def get_vision_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Runs the vision tower; `pooler_output` holds what the adapter reads, `(images, tokens, d_v)`.

        In place of pixels, `pixel_values` may be such features, computed before: they are handed on as they are.
        """
        if pixel_values.dim() == 3:
            return BaseModelOutputWithPooling(pooler_output=pixel_values)
        layers = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
        # A layer's number keeps it alone; transformers before 5.23 takes all but 0 for `True`, and keeps every layer.
        kwargs["output_hidden_states"] = kwargs.get("output_hidden_states") or (len(layers) == 1 and layers[0]) or True
        # PEFT lets every embedding's output require gradients, for checkpointing's sake: a frozen tower would run
        # backward for nothing.
        needed = torch.is_grad_enabled() and (pixel_values.requires_grad or needs_gradients(self.vision_tower))
        # Many tiles or frames are read a few at a time. Processes that share the weights must call them equally often,
        # and a graph holds any number of images.
        together = needed or dist.is_initialized() or torch.compiler.is_compiling()
        parts = [pixel_values] if together else pixel_values.split(IMAGES_AT_ONCE)
        with torch.set_grad_enabled(needed):
            outputs = join_outputs([self.vision_tower(part, return_dict=True, **kwargs) for part in parts])
        if outputs.last_hidden_state.dim() == 4:  # a convolutional tower's map (images, d_v, rows, columns)
            features = outputs.last_hidden_state.flatten(2).transpose(1, 2)  # (images, tokens, d_v)
        else:
            first = 1 if vision_feature_select_strategy == "default" else 0
            features = torch.cat([outputs.hidden_states[layer][:, first:] for layer in layers], dim=-1)
        outputs.pooler_output = pool_squares(features, self.config.pool_patches)
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

    def get_patch_features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """What the adapter reads of each image, images x `(tokens, d_v)`."""
        return list(self.get_vision_features(pixel_values).pooler_output)

    def get_image_coefficients(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns the coefficients `(images, tokens, V)` of `pixel_values` `(images, channels, height, width)`.

        They run over the words `vocabulary_head.token_ids`; times those words' embeddings they are the visual tokens
        of [`LangBridgeModel.get_image_features`]. Raises `ValueError` where the adapter is not made of words.
        """
        self.config.require_words("`get_image_coefficients`")
        features = self.get_vision_features(pixel_values).pooler_output  # (images, tokens, d_v)
        return self.vocabulary_head(self.multi_modal_projector(features))

    def adapt(self, image_features: torch.Tensor) -> torch.Tensor:
        """The adapter: visual features `(images, tokens, d_v)` to visual tokens `(images, tokens, d)`."""
        projector, head, embedding = self.multi_modal_projector, self.vocabulary_head, self.get_input_embeddings()
        output_map = head and self.folded_adapter.find_map(projector, head, embedding, image_features)
        if output_map is None:
            return self.mix(projector(image_features))
        return projector(image_features, output_map)

    def mix(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The visual tokens `(..., d)` of what the projector gives, `(..., H)`, or `(..., d)` without words."""
        head = self.vocabulary_head
        return hidden_states if head is None else head(hidden_states, self.get_word_embeddings())

    def get_word_embeddings(self) -> torch.Tensor:
        """Returns the language model's embeddings E of the shared words, `(V, d)`, through which no gradient flows."""
        self.config.require_words("`get_word_embeddings`")
        return self.folded_adapter.embed_words(find_head(self.vocabulary_head), self.get_input_embeddings())  # (V, d)

    def get_word_ids(self) -> list[list[int]]:
        """Returns the token ids of each shared word's pieces, one where the tokenizer has the word whole."""
        self.config.require_words("`get_word_ids`")
        return find_head(self.vocabulary_head).get_word_ids()


@auto_docstring(custom_intro="The LangBridge model: a vision tower, an adapter made of words and a language model.")
class LangBridgeForConditionalGeneration(LangBridgePreTrainedModel, LlavaForConditionalGeneration, GenerationMixin):
    _keep_in_fp32_modules = ["model.multi_modal_projector"]
    model_class = LangBridgeModel
    processor_class = LangBridgeProcessor

    def __init__(self, config: LangBridgeConfig):
        LangBridgePreTrainedModel.__init__(self, config)
        self.model = self.model_class(config)
        self.lm_head = LangBridgeLMHead(config)
        # Families name their embedding differently (GPT-2 `wte`, GPT-NeoX `embed_in`).
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        # Resizing gives a plain `nn.Linear`, which would lose the soft-capping.
        self.lm_head.weight, self.lm_head.bias = new_embeddings.weight, new_embeddings.bias
        self.lm_head.out_features = new_embeddings.out_features

    def get_image_coefficients(self, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor | list[torch.Tensor]:
        """Returns the coefficients of images, see [`LangBridgeModel.get_image_coefficients`]."""
        return self.model.get_image_coefficients(pixel_values, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        # transformers itself writes only the entry of the one Auto class that the class was registered for.
        classes = type(self), self.config_class
        model, config = (f"{one.__module__.rpartition('.')[2]}.{one.__name__}" for one in classes)
        autos = "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM"
        models = dict.fromkeys(autos, model)
        self.config.auto_map = {"AutoConfig": config, **models}
        # LLaVA's own classes would load it without its head. Of a file they read the part of their own type.
        for llava in ("llava", "llava_next"):
            setattr(self.config, llava, {"model_type": llava, "image_token_index": NOT_A_LLAVA})
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
                Hub id, folder or loaded model of a tower (CLIP, SigLIP, DINOv2, ViT, MobileNetV2, ConvNeXt, ResNet …),
                or of a whole CLIP or SigLIP, whose tower is taken.
            text (`str` or `PreTrainedModel`):
                Hub id, folder or loaded model of a causal language model. A loaded one becomes part of the result.
            vocabulary (`SharedVocabulary`, `list[int]` or `list[list[int]]`, *optional*):
                The shared words, in the order that makes a transfer meaningful, or their token ids in the language
                model (of split words, the ids of their pieces). Adapters without words ignore it.
            processor (`LangBridgeProcessor`, *optional*):
                The model's processor, which also says `words_per_image`. Composed of `vision` and `text` by default.
            split_words (`str`, *optional*):
                What to do with words that the tokenizer splits: `"leave_out"` or `"mean"`. An error by default. To
                combine them of others, use [`~LangBridgeAdapter.join`].
            adapter_type, config_fields:
                Fields of [`LangBridgeConfig`], such as `projector_hidden_size` or `coefficient_activation`.

        Returns:
            `LangBridgeForConditionalGeneration` in eval mode, in the language model's dtype and on its device.

        Raises:
            `ValueError`: the vocabulary is missing or not the language model's, or the language model transforms its
            logits in a way that this class does not.
        """
        fields = {"adapter_type": adapter_type, **config_fields}
        return compose(cls, vision, text, vocabulary, processor, split_words, **fields)


__all__ = ["LangBridgeForConditionalGeneration", "LangBridgeModel", "LangBridgePreTrainedModel"]
