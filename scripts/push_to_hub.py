# SPDX-License-Identifier: Apache-2.0
"""Publishes a model, an adapter, a shared vocabulary or an exported LLaVA on the Hugging Face Hub, with its card."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import run_script


if TYPE_CHECKING:
    from PIL.Image import Image

    from hub_cards.facts import Result
    from hub_cards.pushing import Publication


EPILOG = """examples:
  See what would be published, and the card:
    python scripts/push_to_hub.py --folder my-langbridge --repo_id user/my-langbridge --dry_run

  Publish it, naming what the card cannot find in the folder:
    python scripts/push_to_hub.py --folder my-langbridge --repo_id user/my-langbridge --license apache-2.0 \\
        --base_model openai/clip-vit-large-patch14-336 --base_model Qwen/Qwen2-0.5B --dataset user/captions \\
        --results results.json --photos dog.jpg beach.jpg

  An adapter alone (the folder `adapter` of every training run), and a vocabulary (a folder with its vocabulary.json):
    python scripts/push_to_hub.py --folder my-langbridge/adapter --repo_id user/my-adapter --works_with gpt2
    python scripts/push_to_hub.py --folder my-vocabulary --repo_id user/my-vocabulary

What the folder is, is told from its files. Of these only what loading needs is sent, by name: no pickles, no
optimizer's state, no code but the files of a LangBridge. A folder whose settings name a path of this machine is
refused.

A push that was interrupted goes on when the same command is run again. docs/hub.md says more.
"""
RESULTS = (
    'a JSON list such as [{"metric": "CIDEr-D", "value": 0.35, "dataset": "flickr8k", "split": "test", "command": '
    '"python scripts/reproduce.py", "date": "2026-11-25", "machine": "2 cores of an AMD EPYC"}]'
)


def read_results(path: Path) -> list["Result"]:
    from hub_cards.facts import Result

    try:
        return [Result(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must hold {RESULTS} ({error}).") from None


def refuse_another_picture(path: Path, picture: "Image") -> None:
    """A push that was interrupted has left the same picture; another one is not overwritten unasked."""
    from PIL import Image

    if not path.exists():
        return
    with Image.open(path) as found:
        same = found.mode == picture.mode and found.size == picture.size and found.tobytes() == picture.tobytes()
    if not same:
        raise ValueError(f"{path} exists and is another picture: remove it, or leave --photos out to publish it.")


def describe(publication: "Publication") -> str:
    sizes = {name: path.stat().st_size for name, path in publication.files.items()}
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    left_out = ", ".join(publication.left_out) or "nothing"
    head = f"{publication.folder} is a {publication.kind}. Its files, in bytes ({sum(sizes.values()):,} in all):"
    return "\n".join([head, *lines, f"Left out: {left_out}.", "The card, README.md:", "", str(publication.card)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="what to publish")
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="the repository, made if there is none")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    parser.add_argument("--exist_ok", action="store_true", help="write into a repository that holds files already")
    parser.add_argument("--token", help="one that may write (default: HF_TOKEN, or what `hf auth login` has kept)")
    parser.add_argument("--dry_run", action="store_true", help="print what would be sent, and send and write nothing")
    card = parser.add_argument_group("the card")
    card.add_argument(
        "--base_model",
        action="append",
        metavar="ID",
        help="a model this one was made of; may be repeated (default: those its configuration names)",
    )
    card.add_argument("--dataset", action="append", default=[], metavar="ID", help="trained on; may be repeated")
    card.add_argument("--license", metavar="ID", help="such as apache-2.0")
    card.add_argument("--language", action="append", default=[], metavar="CODE", help="such as en; may be repeated")
    card.add_argument("--tag", action="append", default=[], metavar="TAG", help="may be repeated")
    card.add_argument(
        "--results",
        type=Path,
        metavar="FILE.json",
        help=f"what was measured: {RESULTS}; `.eval_results` beside it is published, too",
    )
    card.add_argument(
        "--works_with",
        action="append",
        default=[],
        metavar="ID",
        help="a language model the adapter is known to work with; may be repeated",
    )
    card.add_argument(
        "--photos",
        type=Path,
        nargs="+",
        metavar="PHOTO",
        help="draw the words of these photos' patches into FOLDER/words.png (a model's only)",
    )
    arguments = parser.parse_args()
    from hub_cards.cards import PICTURE
    from hub_cards.facts import CardFacts
    from hub_cards.pushing import prepare, push_folder
    from hub_cards.words_picture import draw_words_picture
    from modeling_langbridge.utils.files import atomic_file

    facts = CardFacts(
        repo_id=arguments.repo_id,
        base_models=arguments.base_model,
        datasets=arguments.dataset,
        license=arguments.license,
        language=arguments.language,
        tags=arguments.tag,
        results=read_results(arguments.results) if arguments.results else [],
        evaluations=[arguments.results.parent] if arguments.results else [],
        transfers=arguments.works_with,
    )
    publication = prepare(arguments.folder, arguments.repo_id, facts)
    if arguments.photos and publication.kind != "model":
        raise ValueError(f"--photos are read by a model, but {arguments.folder} is a {publication.kind}.")
    picture = draw_words_picture(arguments.folder, arguments.photos) if arguments.photos else None
    if picture is not None:
        refuse_another_picture(arguments.folder / PICTURE, picture)
    if arguments.dry_run:
        print(describe(publication))
        return
    if picture is not None:
        with atomic_file(arguments.folder / PICTURE) as unfinished:
            picture.save(unfinished, "png")
    commit = push_folder(
        arguments.folder,
        arguments.repo_id,
        facts,
        private=arguments.private or None,
        token=arguments.token,
        exist_ok=arguments.exist_ok,
    )
    print(f"Published at {commit.repo_url}, commit {commit.oid}.")
    print(f"Load it by: {load_line(publication.kind, commit.repo_url.repo_id, commit.oid)}")


def load_line(kind: str, repo_id: str, revision: str) -> str:
    call = {
        "model": 'AutoModelForImageTextToText.from_pretrained("{}", trust_remote_code=True, revision="{}")',
        "adapter": 'LangBridgeAdapter.from_pretrained("{}", revision="{}").join(vision, text)',
        "vocabulary": 'SharedVocabulary.from_pretrained("{}", revision="{}")',
        "llava": 'AutoModelForImageTextToText.from_pretrained("{}", revision="{}")',
    }[kind]
    return call.format(repo_id, revision)


if __name__ == "__main__":
    run_script(main)
