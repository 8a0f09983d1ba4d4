# SPDX-License-Identifier: Apache-2.0
"""A trainer's pushes to the Hub: whole repositories with their card, as scripts/push_to_hub.py makes them.

transformers' own would send the output folder as it lies there: a pickle of the arguments, logs that name the host,
and no code files from a checkpoint.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import CommitInfo
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hub_cards.cards import find_base_models
from hub_cards.facts import CardFacts
from hub_cards.pushing import explain_hub_errors, push_folder


logger = logging.getLogger(__name__)


class PublishingMixin:
    """Before [`~transformers.Trainer`] among a trainer's bases. `published` is what of a saved folder is published."""

    published: ClassVar[str] = "."

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: each save writes its own card, and TRL's would call the model a text generator."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository, before training, so that a wrong token or name is known by then."""
        with explain_hub_errors(self.args.hub_model_id or Path(self.args.output_dir).name):
            super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | None:
        """
        Saves the model and publishes what loading it needs, with its card, on the branch `main`. Returns when all has
        arrived.

        Args:
            commit_message (`str`, *optional*), blocking (`bool`, *optional*), revision (`str`, *optional*):
                Of [`~transformers.Trainer.push_to_hub`], of no use here.
            token (`str`, *optional*), private (`bool`, *optional*):
                In place of `hub_token` and `hub_private_repo`.

        Returns:
            `CommitInfo`, in process zero.

        Raises: as [`~hub_cards.pushing.push_folder`].
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        return self._publish(Path(self.args.output_dir), token, private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.args.hub_strategy == HubStrategy.END:
            return
        try:
            self._publish(Path(checkpoint_folder))
        except (OSError, ValueError) as error:
            # The checkpoint is whole, and a later push brings what this one did not.
            logger.warning("%s was not published, training goes on: %s", checkpoint_folder, error)

    def _publish(self, folder: Path, token: str | None = None, private: bool | None = None) -> CommitInfo | None:
        if not self.is_world_process_zero():
            return None
        folder = folder / self.published
        return push_folder(
            folder,
            self.hub_model_id,
            CardFacts(base_models=find_base_models(folder)),
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
            exist_ok=True,
        )


def check_publishing(arguments: TrainingArguments) -> None:
    """Raises `ValueError` where arguments ask for pushes to a branch, or of the optimizer's state, a pickle."""
    if arguments.push_to_hub and arguments.hub_revision is not None:
        raise ValueError("`hub_revision` is not supported: pushes go to `main`, and loading pins a commit.")
    if arguments.push_to_hub and arguments.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"`hub_strategy` {arguments.hub_strategy.value} would publish the optimizer's pickles: take every_save or "
            "end."
        )
