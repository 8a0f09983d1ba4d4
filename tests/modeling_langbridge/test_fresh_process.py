# SPDX-License-Identifier: Apache-2.0
"""A saved LangBridge in the hands of someone who has transformers alone.

A fresh process that cannot import this project, another working directory, an empty module cache.
"""

import ast
import sys

from elsewhere import run_elsewhere


LOADS = """
from PIL import Image
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, pipeline
)

try:
    import modeling_langbridge
    sys.exit("the project can be imported")
except ImportError:
    pass

folder, picture = sys.argv[1:]
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
print("all loads work")
"""


def test_every_auto_class_and_the_pipeline_load_it(saved):
    result = run_elsewhere(LOADS, str(saved / "model"), str(saved / "picture.png"), home=saved / "home")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "all loads work" in result.stdout


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


def test_loading_without_trust_remote_code_says_what_to_set(saved):
    code = "from transformers import AutoModel\nAutoModel.from_pretrained(sys.argv[1])"
    result = run_elsewhere(code, str(saved / "model"), home=saved / "home")
    assert result.returncode != 0
    assert "trust_remote_code=True" in result.stderr
