# SPDX-License-Identifier: Apache-2.0
"""Whether a feature cache pays, by a short trial: on a fast GPU, or with a slow disk, it may not."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ..data.dataset_images import DatasetImages
from ..data.feature_cache import FeatureCache
from .computing import FeatureComputer


logger = logging.getLogger(__name__)

TRIAL_STEPS, TRIAL_IMAGES = 20, 512
TRIAL_SECONDS = 30.0  # after which a slow tower has shown itself


def default_folder() -> Path:
    """Where `auto` keeps features: `~/.cache/langbridge/features`, or that in `$XDG_CACHE_HOME`, as for the Hub's."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "langbridge" / "features"


@dataclass
class Costs:
    """
    What an image costs, in seconds.

    Args:
        prepare, compute (`float`): To open and prepare it, and in the tower.
        write, read (`float`): To add its features to the cache, and to read them there.
        missing (`float`): The share of the images whose features are not in the cache yet.
        num_workers (`int`): Processes that prepare or read beside a GPU; 0 where both wait for one another.
    """

    prepare: float
    compute: float
    write: float
    read: float
    missing: float
    num_workers: int

    def uncached(self) -> float:
        """In a pass without a cache."""
        if self.num_workers:
            return max(self.prepare / self.num_workers, self.compute)
        return self.prepare + self.compute

    def cached(self) -> float:
        """In a pass with one."""
        return self.read / max(self.num_workers, 1)

    def filling(self) -> float:
        """Before the first pass with one: every image is looked up, and the missing ones are computed and written."""
        return self.cached() + self.missing * (self.uncached() + self.write)

    def pays(self, passes: float) -> bool:
        return self.filling() + passes * self.cached() < passes * self.uncached()


def caching_pays(computer: FeatureComputer, cache: FeatureCache, datasets: Sequence[Dataset], passes: float) -> bool:
    """
    Tries both ways on about twenty batches of images, and says in one line what was found. All processes must call it;
    the first tries and decides.

    Args:
        computer ([`FeatureComputer`]): Of the run.
        cache ([`FeatureCache`]): Keeps the trial's features where it pays.
        datasets (`Sequence[Dataset]`): Whose images are read.
        passes (`float`): Over the images, that the run will make.
    """
    decision = [False]
    if computer.accelerator.is_main_process:
        images = DatasetImages.find(datasets)
        with computer.tower_at_work():
            costs = measure_costs(computer, cache, images) if len(images) else None
        decision = [costs is not None and decide(costs, cache, len(images), passes)]
    return broadcast_object_list(decision)[0]


def measure_costs(computer: FeatureComputer, cache: FeatureCache, images: DatasetImages) -> Costs:
    """The costs of an image, by images from all over the data, whose features are then in the cache."""
    size = computer.batch_size
    number = min(len(images), TRIAL_STEPS * size, max(TRIAL_IMAGES, size))
    places = [place * len(images) // number for place in range(number)]
    prepared, reading = images.using(computer.prepare, places), images.using(cache.read, places)
    seconds = dict.fromkeys(("prepare", "compute", "write", "read"), 0.0)

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[what] += time.perf_counter() - began

    cache.shape = computer.measure()  # which warms the tower up, too
    tried = lacking = 0
    while tried < number and sum(seconds.values()) < TRIAL_SECONDS:
        chosen = range(tried, min(tried + size, number))
        with timed("prepare"):
            keys, pixels = zip(*(prepared[place] for place in chosen), strict=True)
        with timed("compute"):
            features = computer.compute(pixels)
        new = {key: row for row, key in enumerate(keys) if key not in cache}
        with timed("write"):
            cache.add(new, features[list(new.values())])
        tried, lacking = chosen.stop, lacking + len(new)
    with timed("write"):
        cache.save()
    cache.refresh()
    if len(images) * cache.bytes_per_image > psutil.virtual_memory().available:
        for path in cache.shards:
            forget(path)
    for start in range(0, tried, size):
        with timed("read"):
            cache.stack([reading[place] for place in range(start, min(start + size, tried))])
    counts = {"prepare": tried, "compute": tried, "write": max(lacking, 1), "read": tried}
    beside = 0 if computer.accelerator.device.type == "cpu" else min(computer.num_workers, os.cpu_count())
    return Costs(
        **{what: total / counts[what] for what, total in seconds.items()},
        missing=lacking / tried,
        num_workers=beside,
    )


def forget(path: Path) -> None:
    """Empties the system's memory of a file, whose next reading is from the disk, as in passes over large sets."""
    if sys.platform == "linux":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet stays
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def decide(costs: Costs, cache: FeatureCache, images: int, passes: float) -> bool:
    """Says what pays; where a cache does not, the trial's files are removed."""
    pays, reason = costs.pays(passes), ""
    try:
        cache.require_room(round(costs.missing * images))
    except OSError as error:
        pays, reason = False, f" {error}"
    ways = passes * costs.uncached(), costs.filling() + passes * costs.cached()
    without, within = (timedelta(seconds=round(images * each)) for each in ways)
    logger.info(
        "`feature_cache` auto: %s. An image takes %.1f ms to open and prepare and %.1f ms in the tower, or %.1f ms "
        "from the cache; %.3g x %s images take about %s without it, and %s with it, computing them included.%s",
        *(f"features are kept in {cache.folder}" if pays else "no features are kept", costs.prepare * 1e3),
        *(costs.compute * 1e3, costs.read * 1e3, passes, f"{images:,}", without, within, reason),
    )
    if not pays:
        cache.remove_written()
    return pays
