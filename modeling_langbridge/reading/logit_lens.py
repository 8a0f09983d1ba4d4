# SPDX-License-Identifier: Apache-2.0
"""The logit lens: what a language model's layers say at the patches of a photo, among the shared words."""

from collections.abc import Iterator

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, ProcessorMixin

from .questions import prepare_question


def read_layers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    image: Image.Image,
    visual_tokens: torch.Tensor,
    num_layers: int,
) -> Iterator[tuple[int, torch.Tensor]]:
    """
    Reads the language model's states at a photo's patches with its own final norm and output layer.

    Args:
        model (`LangBridgeForConditionalGeneration`): A model whose visual tokens are patches.
        processor (`LangBridgeProcessor`): The model's.
        image (`PIL.Image.Image`): The photo. It comes first in a prompt, so that no question changes its states.
        visual_tokens (`torch.Tensor` of shape `(tokens, d)`): What the adapter made of it.
        num_layers (`int`): How many layers to read, evenly spread, the last one included.

    Yields:
        `tuple(int, torch.Tensor)`: a layer's number, from 1, and the probabilities `(tokens, V)` among the shared
        words, float32 on the CPU. Words that are split have none.
    """
    if not num_layers:
        return
    bridge = model.model
    inputs = prepare_question(processor, [image], "").to(model.device)
    is_patch = inputs["input_ids"] == processor.image_token_id  # (1, sequence)
    embeddings = bridge.get_input_embeddings()(inputs["input_ids"])  # (1, sequence, d)
    embeddings[is_patch] = visual_tokens.to(embeddings)
    states, norm = run_with_norm(bridge.language_model, embeddings, inputs["attention_mask"])
    last = len(states) - 1
    head = bridge.vocabulary_head
    whole = head.is_whole()  # (V,)
    token_ids = head.token_ids.view(len(whole), -1)[whole, 0]
    weight = model.lm_head.weight[token_ids].float()  # (whole words, d)
    bias = None if model.lm_head.bias is None else model.lm_head.bias[token_ids].float()
    cap = model.lm_head.softcapping
    for number in sorted({max(1, round(last * part / num_layers)) for part in range(1, num_layers + 1)}):
        patches = states[number][is_patch]  # (tokens, d)
        normed = patches if number == last else norm(patches)
        logits = F.linear(normed.float(), weight, bias)  # (tokens, whole words)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        probabilities = logits.new_zeros(len(patches), len(whole))  # (tokens, V)
        probabilities[:, whole] = logits.softmax(-1)
        yield number, probabilities.cpu()


def lacks_positions(model: PreTrainedModel, processor: ProcessorMixin, image: Image.Image) -> str | None:
    """Why the language model cannot read a photo's prompt, where it has fewer positions than that has tokens."""
    positions = getattr(model.config.text_config, "max_position_embeddings", None)  # some families have no limit
    num_tokens = prepare_question(processor, [image], "")["input_ids"].shape[1]
    if positions is None or num_tokens <= positions:
        return None
    return (
        f"There are no layers: a photo's prompt takes {num_tokens:,} tokens, and the language model has "
        f"{positions:,} positions (`max_position_embeddings`). Use a tower of fewer patches or `words_per_image`."
    )


def run_with_norm(
    language_model: PreTrainedModel, embeddings: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], nn.Module]:
    """The states `(1, sequence, d)` before the first and after each layer, the last one normed, and the final norm."""
    run = [nn.Identity()]

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, torch.Tensor):
            run.append(module)

    # Families name their final norm differently (Llama `norm`, GPT-2 `ln_f`); it runs last in all of them.
    hooks = [child.register_forward_hook(note) for child in language_model.children()]
    try:
        outputs = language_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, output_hidden_states=True, use_cache=False
        )
    finally:
        for hook in hooks:
            hook.remove()
    return outputs.hidden_states, run[-1]
