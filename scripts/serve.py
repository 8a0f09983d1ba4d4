# SPDX-License-Identifier: Apache-2.0
"""Serves a LangBridge by OpenAI's API with `transformers serve`, which by itself serves transformers' models alone."""

import argparse
from typing import TYPE_CHECKING

from trainer.command_line import one_line, run_script
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse


EPILOG = """examples:
  python scripts/serve.py --model my-langbridge
  python scripts/serve.py --model my-langbridge --port 8080 --dtype bfloat16 --quantization bnb-4bit

All other options are those of `transformers serve`, whose --help lists them. It is this package's code that runs, not
the checkpoint's. docs/serving.md has a request, and says what a client can make this server open.
"""


def register_names() -> None:
    """Adds LangBridge to the table of names that `transformers serve` looks in, which classes do not register with."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeNextForConditionalGeneration

    for model in (LangBridgeForConditionalGeneration, LangBridgeNextForConditionalGeneration):
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[model.config_class.model_type] = model.__name__


def refuse(request: "Request", error: Exception) -> "JSONResponse":
    from serving.errors import RequestError

    return RequestError(400, one_line(error), "invalid_request").to_response()


def refuse_bad_requests() -> None:
    """Makes the server answer status 400 and a sentence where a request's text or images cannot be read, not 500."""
    from jinja2 import TemplateError
    from transformers.cli.serving import server

    build_server = server.build_server

    def build_refusing_server(*arguments, **options) -> "FastAPI":
        app = build_server(*arguments, **options)
        for error in (ValueError, TemplateError):  # images and counts of placeholders; the chat template's own
            app.add_exception_handler(error, refuse)
        return app

    server.build_server = build_refusing_server


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="a LangBridge checkpoint, by folder or Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=at_least(0), default=8000, help="port to listen on (default: 8000; 0: any)")
    arguments, others = parser.parse_known_args()
    from transformers.cli.transformers import app

    from modeling_langbridge.adapter.loading import check_weights, open_processor
    from serving.listening import listen

    listen(arguments.host, arguments.port).close()  # before anything is loaded; the server itself looks after
    config, _ = open_processor(arguments.model)
    check_weights(arguments.model, config)
    register_names()
    refuse_bad_requests()
    app(["serve", arguments.model, "--host", arguments.host, "--port", str(arguments.port), *others])


if __name__ == "__main__":
    run_script(main)
