# SPDX-License-Identifier: Apache-2.0
"""The language models that an adapter is trained with."""

from dataclasses import dataclass, field


@dataclass
class LanguageModelsArguments:
    """One language model, or several."""

    language_model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the language model."})
    language_models: list[str] | None = field(
        default=None,
        metadata={
            "help": "Instead of --language_model: several, all frozen, which train one adapter in turn, batch by "
            "batch; the model that is saved has the first."
        },
    )

    def take_first(self) -> None:
        """
        Makes the first of several language models that of the model.

        Raises:
            `ValueError`: there are fewer than two, one is named twice, or `language_model` is given, too.
        """
        if self.language_models is None:
            return
        if self.language_model is not None:
            raise ValueError("`language_model` and `language_models` both say with what to train: leave one out.")
        if len(set(self.language_models)) < max(2, len(self.language_models)):
            raise ValueError("`language_models` needs two or more, each once: for one there is `language_model`.")
        self.language_model = self.language_models[0]
