# SPDX-License-Identifier: Apache-2.0
"""Whether a language model keeps the samples of a packed sequence apart, found by trying it."""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested


LENGTHS = [5, 9, 7]  # tokens of three samples
MARGIN = 10  # times what rounding does to states


@torch.no_grad()
def require_exact_packing(language_model: PreTrainedModel) -> None:
    """
    Compares a language model's states of three short texts in one packed sequence with those of each text alone.

    They are the same but for rounding, whose size is measured too, on the texts padded to one length. They are not
    where a model carries a state from token to token (Mamba, Qwen 3.5), or makes its own positions (OPT, BLOOM).

    Args:
        language_model (`PreTrainedModel`): without its output layer, wherever it is.

    Raises:
        `ValueError`: the states differ.
    """
    embedding, config = language_model.get_input_embeddings(), language_model.config
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(embedding.num_embeddings, (sum(LENGTHS),), generator=generator)
    texts = list(embedding(input_ids.to(embedding.weight.device)).split(LENGTHS))  # each (tokens, d)
    device, was_training = texts[0].device, language_model.training

    def states(inputs_embeds: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        return language_model(inputs_embeds=inputs_embeds, use_cache=False, **inputs).last_hidden_state.float()

    implementation = config._attn_implementation
    if is_flash_attention_requested(config) and device.type == "cpu":  # it runs on a GPU, where a model comes later
        config._attn_implementation = "eager"
    language_model.eval()
    position_ids = torch.cat([torch.arange(length) for length in LENGTHS])[None].to(device)  # (1, tokens)
    mask = pad_sequence([torch.ones(length) for length in LENGTHS], batch_first=True).to(device)  # (texts, tokens)
    alone = torch.cat([states(text[None])[0] for text in texts])  # (tokens, d)
    padded = states(pad_sequence(texts, batch_first=True), attention_mask=mask.long())[mask.bool()]
    packed = states(torch.cat(texts)[None], position_ids=position_ids)[0]
    language_model.train(was_training)
    config._attn_implementation = implementation

    def largest_difference(others: torch.Tensor) -> float:
        return ((others - alone).norm(dim=-1) / alone.norm(dim=-1)).max().item()

    rounding = max(largest_difference(padded), torch.finfo(embedding.weight.dtype).eps)
    if language_model._is_stateful or not largest_difference(packed) <= MARGIN * rounding:
        raise ValueError(
            f"`packing` is not exact with a language model of type {config.model_type}, whose samples "
            "in one sequence do not stay apart: leave `packing` out."
        )
