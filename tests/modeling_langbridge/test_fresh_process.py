# SPDX-License-Identifier: Apache-2.0
"""A saved LangBridge in the hands of someone who has transformers alone.

A fresh process that cannot import this project, another working directory, an empty module cache.
"""

import ast
import sys

from elsewhere import run_elsewhere
from tiny_parts import make_image
from tiny_training import save_langbridge
from transformers import pipeline

from modeling_langbridge import LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor


LOADS = """
sys.modules["av"] = None  # PyAV, which videos alone need
from PIL import Image
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, pipeline
)

try:
    import modeling_langbridge
    sys.exit("the project can be imported")
except ImportError:
    pass

folder, of_tiles, picture = sys.argv[1:]
try:
    AutoModel.from_pretrained(folder)
except ValueError as error:
    print(error)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__name__ == "LangBridgeProcessor", type(processor)


def ask(**image):
    return [{"role": "user", "content": [{"type": "image", **image}, {"type": "text", "text": "what is it?"}]}]


prompts = [ask(path=picture), ask(image=Image.open(picture)), ask(url=picture)]
captions = {}
for auto_class in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM, AutoModel):
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == "LangBridgeForConditionalGeneration", type(model)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    answer = pipe(text=ask(image=picture), max_new_tokens=5, do_sample=False)
    captions[auto_class.__name__] = answer[0]["generated_text"][-1]
assert len({str(caption) for caption in captions.values()}) == 1, captions

pipe = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
one = [pipe(text=prompt, max_new_tokens=5, do_sample=False)[0]["generated_text"][-1]["content"] for prompt in prompts]
assert one[0] == one[1] == one[2] == captions["AutoModel"]["content"] != "", one
batch = pipe(text=[prompts[0], ask(image=picture)], batch_size=2, max_new_tokens=5, do_sample=False)
assert [answer[0]["generated_text"][-1]["content"] for answer in batch] == [one[0], one[0]], batch
both = [{"role": "user", "content": [
    {"type": "image", "image": picture}, {"type": "image", "image": picture}, {"type": "text", "text": "which?"}
]}]
assert pipe(text=both, max_new_tokens=5, do_sample=False)[0]["generated_text"][-1]["content"] is not None
text = [{"role": "user", "content": [{"type": "text", "text": "no image at all"}]}]
assert pipe(text=text, max_new_tokens=5, do_sample=False)[0]["generated_text"][-1]["content"] is not None

model.save_pretrained(folder + "_again")
processor.save_pretrained(folder + "_again")
again = pipeline("image-text-to-text", model=folder + "_again", trust_remote_code=True)
answer = again(text=prompts[0], max_new_tokens=5, do_sample=False)
assert answer[0]["generated_text"][-1]["content"] == one[0]
try:
    processor.apply_chat_template([{"role": "user", "content": [{"type": "video", "video": b""}]}])
except ImportError as error:
    print(error)

assert type(AutoProcessor.from_pretrained(of_tiles, trust_remote_code=True)).__name__ == "LangBridgeNextProcessor"
for auto_class in (AutoModel, AutoModelForImageTextToText):
    model = auto_class.from_pretrained(of_tiles, trust_remote_code=True)
    assert type(model).__name__ == "LangBridgeNextForConditionalGeneration"
pipe = pipeline("image-text-to-text", model=of_tiles, trust_remote_code=True)
print("of tiles:", repr(pipe(text=prompts[0], max_new_tokens=5, do_sample=False)[0]["generated_text"][-1]["content"]))
"""


def test_every_auto_class_and_the_pipeline_load_it_and_a_langbridge_next_by_their_own_code(saved, vision, text):
    make_image(size=(90, 60)).save(saved / "picture.png")
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    of_tiles = save_langbridge(vision, text, processor, saved / "next", LangBridgeNextForConditionalGeneration)
    result = run_elsewhere(LOADS, saved / "model", of_tiles, saved / "picture.png", home=saved / "home")
    assert result.returncode == 0, result.stderr[-3000:]
    untrusted, no_videos, answered = result.stdout.splitlines()[-3:]
    assert "trust_remote_code=True" in untrusted
    assert "Videos are decoded by PyAV" in no_videos
    content = [{"type": "image", "path": str(saved / "picture.png")}, {"type": "text", "text": "what is it?"}]
    pipe = pipeline("image-text-to-text", model=of_tiles)
    expected = pipe(text=[{"role": "user", "content": content}], max_new_tokens=5, do_sample=False)
    assert answered == f"of tiles: {expected[0]['generated_text'][-1]['content']!r}"


def test_the_folder_holds_all_that_loading_needs(saved):
    names = {path.name for path in (saved / "model").iterdir()}
    assert names >= {"config.json", "generation_config.json", "processor_config.json", "chat_template.jinja"}
    assert not {path for path in names if path.endswith((".bin", ".pt", ".pkl"))}


def test_the_code_that_travels_needs_nothing_beside_torch_and_transformers(saved):
    files = sorted((saved / "model").glob("*.py"))
    assert "modeling_langbridge.py" in [file.name for file in files]
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        tried = {node for outer in nodes if isinstance(outer, ast.Try) for node in ast.walk(outer)}  # PyAV, for videos
        for node in nodes:
            if node in tried:
                continue
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and (saved / "model" / f"{node.module}.py").is_file(), f"{file}: {node.module}"
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                packages = {name.partition(".")[0] for name in names}
                assert packages <= {"torch", "transformers", "huggingface_hub", "PIL"} | sys.stdlib_module_names, (
                    f"{file}: {packages}"
                )
