# SPDX-License-Identifier: Apache-2.0
"""The options of packing, TRL's, and what they do not go with."""

from dataclasses import dataclass, field


@dataclass
class PackingArguments:
    """Whether samples share a sequence."""

    packing: bool = field(
        default=False,
        metadata={"help": "Put several samples into one sequence of at most --max_length tokens, each on its own."},
    )
    eval_packing: bool | None = field(
        default=None, metadata={"help": "Likewise in evaluation; as --packing when left out."}
    )

    def packs_evaluation(self) -> bool:
        return self.packing if self.eval_packing is None else self.eval_packing

    def check_packing(self) -> None:
        """Raises `ValueError` where other options of a [`~trl.SFTConfig`] do not go with these."""
        if not (self.packing or self.eval_packing):
            return
        if self.packing_strategy != "bfd":
            raise ValueError(
                f"`packing_strategy` {self.packing_strategy} cuts samples, which would part images from their texts: "
                "set it to bfd."
            )
        if self.max_length is None:
            raise ValueError("`packing` needs `max_length`, the most tokens of a bin: give several times a sample's.")
        if self.packing and self.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
            raise ValueError(
                f"`train_sampling_strategy` {self.train_sampling_strategy} has no use beside `packing`, whose bins "
                "are about equally long: leave one of them out."
            )
