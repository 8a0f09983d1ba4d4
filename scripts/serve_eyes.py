# SPDX-License-Identifier: Apache-2.0
"""Gives a text-only language model eyes: a proxy before its server, which turns the images in chats into words."""

import argparse

from trainer.command_line import run_script
from trainer.number_arguments import at_least


EPILOG = """examples:
  python scripts/serve_eyes.py --adapter grounded/adapter --vision_tower openai/clip-vit-large-patch14-336 \\
      --upstream http://localhost:8000/v1
  curl http://localhost:8001/v1/chat/completions -H 'Content-Type: application/json' -d @chat.json

The upstream is any server of OpenAI's chat API: llama.cpp's, Ollama's, vLLM, `transformers serve`, or a hosted one.
Clients keep their keys and settings, and use this server's address in place of the upstream's. docs/serving.md says
what a language model reads in place of an image, and what it is worth.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", required=True, help="a grounded adapter, by folder or Hub id")
    parser.add_argument("--vision_tower", required=True, help="the vision tower it was trained with")
    parser.add_argument(
        "--upstream", required=True, metavar="URL", help="the text server's API, such as http://localhost:8000/v1"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=at_least(0), default=8001, help="port to listen on (default: 8001; 0: any)")
    reading = parser.add_argument_group("what stands for an image")
    reading.add_argument("--words", type=int, default=8, help="words of an image (default: 8)")
    reading.add_argument(
        "--sure",
        type=float,
        default=0.04,
        help="share of an image's coefficients below which a word is marked as uncertain (default: 0.04)",
    )
    reading.add_argument(
        "--template", help="text with {words} in it, and {number}, its place (default: as docs/serving.md shows it)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max_images", type=at_least(1), default=32, help="images in a request (default: 32)")
    limits.add_argument("--max_megabytes", type=at_least(1), default=32, help="size of a request (default: 32)")
    limits.add_argument(
        "--max_megapixels", type=at_least(1), default=50, help="pixels of an image, in millions (default: 50)"
    )
    limits.add_argument("--timeout", type=at_least(1), default=600, help="seconds of silence (default: 600)")
    limits.add_argument(
        "--allow_web_images",
        action="store_true",
        help="fetch images from http(s) URLs of public addresses (default: data: URLs alone)",
    )
    arguments = parser.parse_args()
    if not arguments.upstream.startswith(("http://", "https://")):
        raise ValueError(f"--upstream {arguments.upstream} is no URL: give one such as http://localhost:8000/v1.")
    if arguments.template is not None and "{words}" not in arguments.template:
        raise ValueError("--template has no {words} in it: an image would be left out without a word.")
    if not 0 <= arguments.sure <= 1:
        raise ValueError(f"--sure is {arguments.sure:g}, but must be a share from 0 to 1.")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    import uvicorn

    from modeling_langbridge.image_opening import MAX_PIXELS
    from serving.app import Limits, Proxy, build_app
    from serving.listening import listen
    from serving.seeing import Eyes, open_eyes
    from serving.upstream import Upstream
    from serving.wording import TEMPLATE

    with listen(arguments.host, arguments.port) as listening:
        model, processor = open_eyes(arguments.adapter, arguments.vision_tower, arguments.words)
        eyes = Eyes(model, processor, arguments.sure, min(MAX_PIXELS, arguments.max_megapixels * 10**6))
        upstream = Upstream(arguments.upstream, arguments.timeout)
        limits = Limits(arguments.max_images, arguments.max_megabytes * 2**20, arguments.allow_web_images)
        app = build_app(Proxy(eyes, upstream, arguments.template or TEMPLATE, limits))
        # Requests are not logged: their URLs may hold keys, too.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=5,
        )
        host, port = listening.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1 passes on to {upstream.name}", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    run_script(main)
