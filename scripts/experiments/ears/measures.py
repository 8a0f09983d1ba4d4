# SPDX-License-Identifier: Apache-2.0
"""What a language model that nothing was trained for makes of sentences in every form."""

import json
from pathlib import Path

from tqdm import tqdm

from experiments.ears.adapter import join
from experiments.ears.forms import FORMS, hand_over
from experiments.ears.questions import answer, ask, rate_things
from experiments.ears.sentences import read_utterances
from experiments.ears.world import EarsWorld
from experiments.flickr8k.few_shot import FewShot, caption_examples, caption_prompt
from modeling_langbridge import LangBridgeAdapter


OF_OTHERS = ("nothing", "heard", "text")  # the forms for language models after the first
CAPTIONED = ("nothing", "heard", "steps", "text")  # the forms after which the first one writes captions


def measure_language_model(world: EarsWorld, name: str, folder: Path) -> None:
    """
    What a language model makes of the sentences: the loss of what another person wrote about the same photo, its
    answers to questions about what was said, and captions of its own.
    """
    adapter = LangBridgeAdapter.from_pretrained(world.output_dir / "trained" / "adapter")
    parts, is_first = join(adapter, world.language_models[name]), world.is_first(name)
    count = world.sizes.read_sentences if is_first else world.sizes.read_by_others
    examples, dev, test = (read_utterances(world, split)[:count] for split in ("examples", "dev", "test"))
    dev_questions, questions = (list(ask([one.sentence for one in split])) for split in (dev, test))
    truth = [f" {one.others[0]}" for one in test]
    captions = [one.others[0] for one in examples]
    found, usual = {"questions": questions}, {}
    for form in tqdm(FORMS if is_first else OF_OTHERS, desc=name):
        shown, dev_seen, seen = (hand_over(world, parts, form, split) for split in ("examples", "dev", "test"))
        few_shot = FewShot(*parts, prefix=caption_examples(captions, shown), bf16=world.bf16)
        prompts = [few_shot.embed(caption_prompt(seen and seen[place])) for place in range(len(test))]
        measured = {"losses": few_shot.losses(prompts, truth).tolist()}
        if form == "nothing":
            usual = rate_things(few_shot)
        else:
            measured["answers"] = answer(few_shot, usual, (dev_questions, dev_seen), (questions, seen))
        if form == "heard":
            half = len(test) // 2
            others = prompts[half:] + prompts[:half]
            measured["losses_of_another"] = few_shot.losses(others, truth).tolist()
        if is_first and form in CAPTIONED:
            measured["captions"] = few_shot.complete(prompts[: world.sizes.captioned_sentences])
        found[form] = measured
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (folder / "measures.json").write_text(text, encoding="utf-8")
