# SPDX-License-Identifier: Apache-2.0
"""The stages of the ears in their order."""

from experiments.ears.heard import hear_split
from experiments.ears.measures import measure_language_model
from experiments.ears.report import write_report
from experiments.ears.sentences import write_sentences
from experiments.ears.speech import check_espeak
from experiments.ears.training import train
from experiments.ears.transcripts import write_transcripts
from experiments.ears.whole_sounds import transcribe
from experiments.ears.world import VOICES, EarsWorld
from experiments.stages import Stage, claim_output_dir, run_stages


def stages_of(world: EarsWorld) -> list[dict[str, Stage]]:
    """The stages in their order, one at a time."""
    stage = world.stage
    stages = {
        "sentences": stage(write_sentences),
        **{f"heard_{split}": stage(hear_split, split) for split in VOICES},
        "heard_whole": stage(transcribe),
        "trained": stage(train),
        "transcripts": stage(write_transcripts),
        **{f"measures_{name}": stage(measure_language_model, name) for name in world.language_models},
    }
    return [{name: one} for name, one in stages.items()]


def run_ears(world: EarsWorld) -> str:
    """
    Runs all stages, writes results.json, results.md and ears.png; returns the tables.

    Raises:
        `FileExistsError`: the output folder is not this run's.
        `FileNotFoundError`: there is no espeak-ng.
    """
    check_espeak()
    claim_output_dir(world.output_dir, world.settings)
    return write_report(world, run_stages(world.output_dir, stages_of(world)))
