# SPDX-License-Identifier: Apache-2.0
"""A training step on tensors without content: what it holds in memory at its peak, and what it multiplies."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch
from peft import get_peft_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel, Trainer
from trl.kernels import ChunkedLogProbFunction

from ..parts import keep_trained_in_float32, prepare_parts
from ..sft_config import LangBridgeSFTConfig
from .counted_products import CountedProducts
from .four_bits import quantize_layers
from .live_memory import COPIES, WEIGHTS, LiveMemory


GRADIENTS, OPTIMIZER, BATCH = "gradients", "optimizer's state", "batch"
# What a part makes in the forward pass and keeps for the backward pass, for the most part.
TOWER, ADAPTER = "activations of the vision tower", "activations of the adapter"
LANGUAGE_MODEL, LOSS = "activations of the language model", "the loss"
BACKWARD, UPDATE = "the backward pass", "the optimizer's step"
KINDS = (WEIGHTS, GRADIENTS, OPTIMIZER, COPIES, BATCH, TOWER, ADAPTER, LANGUAGE_MODEL, LOSS, BACKWARD, UPDATE)
ACTIVATIONS_OF = {
    "vision_tower": TOWER,
    "multi_modal_projector": ADAPTER,
    "vocabulary_head": ADAPTER,
    "language_model": LANGUAGE_MODEL,
}
# What TRL's `add_fused_lm_head` hands to its kernel, which SFTTrainer calls so.
LOGITS_AT_ONCE = 32768
LOSS_OUTPUTS = ("log_probs", "entropy", "is_top1")


class AutocastOfGpus(TorchFunctionMode):
    """On a GPU, autocast computes these in float32; on the CPU, where the step is simulated, it does not."""

    IN_FLOAT32 = (F.layer_norm, F.group_norm, F.softmax, torch.softmax, torch.pow, torch.rsqrt)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.IN_FLOAT32 and torch.is_autocast_enabled("cpu") and isinstance(args[0], torch.Tensor):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def kernels_of_gpus() -> Iterator[None]:
    """On a GPU, TRL's loss works inside the logits; its stand-ins for the CPU make several tensors of their size."""
    nothing = {name: lambda *args, **kwargs: None for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")}
    with patch.multiple("trl.kernels.chunked_logprob", **nothing):
        yield


@dataclass
class StepCost:
    """What a training step takes. `memory`: bytes by kind at the peak; `multiply_adds`: of its matrix products."""

    memory: Counter[str]
    multiply_adds: Counter[torch.dtype]


class SimulatedTraining:
    """
    The trainer's step without data and weights, under the same options; to be made and used in a `FakeTensorMode`.

    Runs the model's own code, so that every architecture, LoRA, autocast and checkpointing count as they are. What
    does not run are the trainer's further objectives, sharding and communication.

    Args:
        model (`PreTrainedModel`): The LangBridge, of fake tensors in the dtype that it is loaded in.
        config ([`LangBridgeSFTConfig`]): The run's options.
        make_batch (`Callable[[int], dict]`): The model's inputs for so many samples, fake.
        num_answer_tokens (`int`): How many tokens of a sample are targets.
        on_gpu (`bool`): Whether to count as on a GPU or as on the CPU, where the loss takes more.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: LangBridgeSFTConfig,
        make_batch: Callable[[int], dict[str, torch.Tensor]],
        num_answer_tokens: int,
        on_gpu: bool,
    ):
        self.config, self.make_batch, self.num_answer_tokens, self.on_gpu = config, make_batch, num_answer_tokens, on_gpu
        self.bare = model
        lora = prepare_parts(model, config)
        with torch.device("meta"):
            self.model: nn.Module = model if lora is None else get_peft_model(model, lora)
        if lora is not None and config.gradient_checkpointing:
            self.model.enable_input_require_grads()
        keep_trained_in_float32(self.model)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable(config.activation_checkpointing_kwargs)
        self.model.train()
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            self.model.to_empty(device="cpu")
            model.tie_weights()
            quantization = getattr(model.config, "quantization_config", None)
            self.constants = [] if quantization is None else [*quantize_layers(self.model, quantization)]
            self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            kind, options = Trainer.get_optimizer_cls_and_kwargs(config)
            self.optimizer = kind(self.trained, **options)
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()  # makes its state
            self.optimizer.zero_grad()

    def step(self, batch_size: int) -> StepCost:
        """Makes one optimizer step, of batches of `batch_size` samples."""
        memory, products = LiveMemory(), CountedProducts()
        memory.track([*self.model.parameters(), *self.model.buffers(), *self.constants], WEIGHTS)
        states = (value for state in self.optimizer.state.values() for value in state.values())
        memory.track((value for value in states if isinstance(value, torch.Tensor)), OPTIMIZER)
        hooks = [*self.name_activations(memory)]
        as_on_gpu = (AutocastOfGpus(), kernels_of_gpus()) if self.on_gpu else (nullcontext(), nullcontext())
        # Fake tensors have no values that the model could check.
        unchecked = patch.dict(os.environ, TRANSFORMERS_DISABLE_TORCH_CHECK="1")
        with self.mode, unchecked, memory, products, as_on_gpu[0], as_on_gpu[1]:
            # What is accumulated beyond two batches takes no more memory.
            for _ in range(min(2, self.config.gradient_accumulation_steps)):
                self.forward_backward(memory, batch_size)
            with memory.counting(UPDATE):
                if self.config.max_grad_norm:
                    nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
                self.optimizer.step()
            self.optimizer.zero_grad()
        for hook in hooks:
            hook.remove()
        batches = self.config.gradient_accumulation_steps / min(2, self.config.gradient_accumulation_steps)
        multiply_adds = {dtype: round(number * batches) for dtype, number in products.multiply_adds.items()}
        return StepCost(memory.peak, Counter(multiply_adds))

    def forward_backward(self, memory: LiveMemory, batch_size: int) -> None:
        with memory.counting(BATCH):
            batch = self.make_batch(batch_size)
        low = torch.bfloat16 if self.config.bf16 else torch.float16 if self.config.fp16 else None
        with torch.autocast("cpu", dtype=low, enabled=low is not None):
            with memory.counting(LANGUAGE_MODEL):
                hidden_states = self.bare.base_model(**batch, use_cache=False).last_hidden_state  # (batch, tokens, d)
            with memory.counting(LOSS):
                loss = self.compute_loss(hidden_states, batch["input_ids"])
        with memory.counting(BACKWARD):
            loss.backward()

    def compute_loss(self, hidden_states: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """The caption loss, which TRL computes on the answers alone where there is a GPU, elsewhere on every token."""
        first = -1 - self.num_answer_tokens if self.on_gpu else 0
        hidden_states, targets = hidden_states[:, first:-1], input_ids[:, first:][:, 1:]
        head, text_config = self.bare.get_output_embeddings(), self.bare.config.get_text_config()
        log_probs, *_ = ChunkedLogProbFunction.apply(
            hidden_states.reshape(-1, hidden_states.shape[-1]),
            head.weight,
            head.bias,
            targets.reshape(-1),
            1.0,
            LOGITS_AT_ONCE,
            getattr(text_config, "final_logit_softcapping", None),
            1.0,
            LOSS_OUTPUTS,
        )
        return -log_probs.mean()

    def name_activations(self, memory: LiveMemory) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Hooks that say what the tensors are for that are made."""
        for part, kind in ACTIVATIONS_OF.items():
            module = getattr(self.bare.model, part)
            if module is None:  # adapters without words have no head
                continue

            def begin(module, args, kind=kind):
                memory.kind = kind

            def end(module, args, output):
                memory.kind = LANGUAGE_MODEL

            yield module.register_forward_pre_hook(begin)
            yield module.register_forward_hook(end)
        for parameter in self.trained:
            yield parameter.register_post_accumulate_grad_hook(lambda p: memory.track([p.grad], GRADIENTS))
