# SPDX-License-Identifier: Apache-2.0
"""A training step on tensors without content: what it holds in memory at its peak, and what it multiplies."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
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
# What a part makes in the forward pass; most of it is kept for the backward pass.
TOWER, ADAPTER = "activations of the vision tower", "activations of the adapter"
LANGUAGE_MODEL, LOSS = "activations of the language model", "the loss"
BACKWARD, UPDATE = "the backward pass", "the optimizer's step"
KINDS = (WEIGHTS, GRADIENTS, OPTIMIZER, COPIES, BATCH, TOWER, ADAPTER, LANGUAGE_MODEL, LOSS, BACKWARD, UPDATE)
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


@contextmanager
def fake_weights_pass() -> Iterator[None]:
    """Lets the model take fake weights for plain ones, and leaves out its checks of values, which they lack."""
    with (
        patch.dict(os.environ, TRANSFORMERS_DISABLE_TORCH_CHECK="1"),
        patch("modeling_langbridge.folded_adapter.are_plain", are_without_hooks),
        patch("modeling_langbridge.folded_adapter.versions_of", lambda *tensors: [id(tensor) for tensor in tensors]),
    ):
        yield


def are_without_hooks(*modules: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


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
        self.config, self.make_batch, self.num_answer_tokens, self.on_gpu = (
            config,
            make_batch,
            num_answer_tokens,
            on_gpu,
        )
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
        self.bare.model.folded_adapter.drop()  # so that what it keeps is counted
        memory.track([*self.model.parameters(), *self.model.buffers(), *self.constants], WEIGHTS)
        states = (value for state in self.optimizer.state.values() for value in state.values())
        memory.track((value for value in states if isinstance(value, torch.Tensor)), OPTIMIZER)
        with ExitStack() as contexts:
            for context in (self.mode, fake_weights_pass(), naming(memory, self.bare.model, self.trained)):
                contexts.enter_context(context)
            for context in (memory, products, *((AutocastOfGpus(), kernels_of_gpus()) if self.on_gpu else ())):
                contexts.enter_context(context)
            # Batches that are accumulated beyond two take no more memory.
            batches = min(2, self.config.gradient_accumulation_steps)
            for _ in range(batches):
                self.forward_backward(memory, batch_size)
            with memory.counting(UPDATE):
                if self.config.max_grad_norm:
                    nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
                self.optimizer.step()
            self.optimizer.zero_grad()
        times = self.config.gradient_accumulation_steps // batches
        return StepCost(memory.peak, Counter({dtype: n * times for dtype, n in products.multiply_adds.items()}))

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
        """TRL's caption loss of the answers `(batch, answer tokens, d)`, which end the samples."""
        answers = slice(-1 - self.num_answer_tokens, -1)
        head, text_config = self.bare.get_output_embeddings(), self.bare.config.get_text_config()
        log_probs, *_ = ChunkedLogProbFunction.apply(
            hidden_states[:, answers].reshape(-1, hidden_states.shape[-1]),
            head.weight,
            head.bias,
            input_ids[:, 1:][:, -self.num_answer_tokens :].reshape(-1),
            1.0,
            LOGITS_AT_ONCE,
            getattr(text_config, "final_logit_softcapping", None),
            1.0,
            LOSS_OUTPUTS,
        )
        return -log_probs.mean()


@contextmanager
def naming(memory: LiveMemory, model: nn.Module, trained: Iterable[nn.Parameter]) -> Iterator[None]:
    """Says what the tensors are for that a model makes, while it runs."""
    adapt, hooks = model.adapt, []

    def begin_tower(module, inputs):
        memory.kind = TOWER

    def end_tower(module, inputs, output):
        memory.kind = LANGUAGE_MODEL

    def adapt_named(*inputs):  # hooks on its modules would change what the adapter does
        with memory.counting(ADAPTER):
            return adapt(*inputs)

    hooks += [
        model.vision_tower.register_forward_pre_hook(begin_tower),
        model.vision_tower.register_forward_hook(end_tower),
    ]
    for parameter in trained:
        hook = parameter.register_post_accumulate_grad_hook(lambda p: memory.track([p.grad], GRADIENTS))
        hooks.append(hook)
    with patch.object(model, "adapt", adapt_named):
        yield
    for hook in hooks:
        hook.remove()
