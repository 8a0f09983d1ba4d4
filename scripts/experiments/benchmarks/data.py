# SPDX-License-Identifier: Apache-2.0
"""From a file on disk to a batch: opening an image, the image processor, the tokens, and how long a step waits.

Photos are JPEGs of 640 x 480 pixels. The waiting is of a run that trains an adapter behind the tower of these shapes,
with so many worker processes.
"""

import argparse
import tempfile
from pathlib import Path

from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.images import open_image
from trainer.data.samples import read_sample

from .measuring import measure
from .models import make_langbridge
from .samples import make_processor, write_samples
from .shapes import Shapes
from .tables import Table


def answer(arguments: argparse.Namespace) -> list[Table]:
    shapes = Shapes(arguments.scale, image_size=arguments.image_size, layers=arguments.layers)
    processor = make_processor(shapes)
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_training_data(str(write_samples(Path(folder), rows=256)))
        return [
            time_stages(dataset, processor, arguments),
            time_waiting(dataset, processor, shapes, Path(folder), arguments),
        ]


def time_stages(dataset, processor, arguments: argparse.Namespace) -> Table:
    encoder = ConversationEncoder(processor)
    collate = ConversationCollator(encoder)
    rows = [dataset[number] for number in range(16)]
    paths = [read_sample(row)["images"][0] for row in rows]
    images = [open_image(path) for path in paths]
    timings = measure(
        {
            "opening": lambda: [open_image(path) for path in paths],
            "image processor": lambda: processor.image_processor(images, return_tensors="pt"),
            "tokens and targets": lambda: [encoder.encode(row) for row in rows],
            "all, as the collator does it": lambda: collate(rows),
        },
        arguments.rounds,
    )
    table_rows = [[name, 1000 * timing.median / 16, 16 / timing.median] for name, timing in timings.items()]
    title = f"One worker, images of {processor.image_processor.crop_size['height']} pixels a side"
    return Table(title, ["", "ms a sample", "samples/s"], table_rows)


def time_waiting(dataset, processor, shapes: Shapes, folder: Path, arguments: argparse.Namespace) -> Table:
    model = make_langbridge(shapes, projector_hidden_size=shapes.times(896))
    model.config.image_token_id = processor.image_token_id
    rows = []
    for workers in arguments.workers:
        options = LangBridgeSFTConfig(
            output_dir=str(folder / f"{workers}_workers"),
            max_steps=arguments.steps,
            logging_steps=arguments.steps,
            per_device_train_batch_size=arguments.images,
            dataloader_num_workers=workers,
            activation_checkpointing=False,
            save_strategy="no",
            report_to="none",
        )
        trainer = LangBridgeSFTTrainer(model, options, processor, dataset)
        trainer.train()
        log = trainer.state.log_history[0]
        rows.append([str(workers), log["images_per_second"], f"{log['data_wait_share']:.1%}"])
    title = f"Training an adapter, {arguments.images} samples a step, {arguments.steps} steps"
    return Table(title, ["worker processes", "images/s", "of the time waiting"], rows)
