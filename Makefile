# Everything a newcomer, a developer and CI run. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
# The folder of photos that `make demo` indexes; empty: a few that come with Python packages.
PHOTOS ?=
# `make test PYTEST="-k filters"` hands this to pytest; `-n 0`: one test at a time.
PYTEST ?=
# `make chaos SEED=7 SECONDS=600`; `CHAOS="--lite"` for Milvus Lite with one gateway.
SEED ?= 1
SECONDS ?= 60
CHAOS ?=
# Tests wait for servers half of the time, so three at a time keep two cores busy.
WORKERS ?= -n 3 --dist worksteal
# A test that fails runs once more. One that passes then is listed as RERUN: a fault to mend, too.
AGAIN := --reruns 1
# What runs again with TLS and keys: every method, over every path of the clients.
SECURE := $(addprefix tests/,client app/test_details_page.py app/test_index_tab.py embedder_server/api \
	e2e/test_connection_age.py e2e/test_ingest_restart.py \
	$(addprefix search_server/,api collections items search test_health.py test_startup_faults.py \
	embedders/test_worker_choice.py embedders/test_worker_discovery.py))
# The servers need the client of their own version, which pip finds in its folder only.
CLIENT := -e clients/python
CODE := hatch_build.py bulk_indexer embedder_server search_server sentinel_core sentinel_store clients deploy scripts tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help demo up test test-slow test-secure test-clients chaos lint format types imports proto protos-dist models bench lock lock-images clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## Index real photos and ask for them in plain words (PHOTOS=folder for your own)
	@$(BIN)/python scripts/demo.py $(if $(PHOTOS),--photos "$(PHOTOS)")

up: $(VENV)/.demo ## Run a worker and a gateway on this machine until Ctrl-C
	@$(BIN)/sentinel up

test: $(VENV)/.dev ## Run the tests: real servers, real Milvus, real model, real photos; 10 minutes
	$(BIN)/python -m pytest $(WORKERS) $(AGAIN) -m "not slow" $(PYTEST)

test-slow: $(VENV)/.dev ## Run the slow tests: kills, packaging, whole benchmarks, what `make models` adds
	$(BIN)/python -m pytest $(WORKERS) $(AGAIN) -m "slow and not long" $(PYTEST)
	$(if $(PYTEST),,$(MAKE) --no-print-directory test-secure)

test-secure: $(VENV)/.dev ## Run tests again with TLS and keys on all servers; `make test-slow` does it, too
	SENTINEL_TEST_SECURE=1 $(BIN)/python -m pytest $(WORKERS) $(AGAIN) -m "not slow and not milvus" $(SECURE) $(PYTEST)

test-clients: $(VENV)/.dev ## Test the clients of other languages on live gateways, where their toolchains are installed
	-$(BIN)/python -m tests.clients.go_toolchain
	$(BIN)/python -m pytest -n 0 $(AGAIN) -m slow tests/clients $(PYTEST)

chaos: $(VENV)/.dev ## Kill, pause and cut at random under load, check all that was stored (SEED=, SECONDS=)
	$(BIN)/python -m tests.chaos --seed $(SEED) --seconds $(SECONDS) $(CHAOS)

lint: $(VENV)/.dev $(PROTO_VENV)/.installed ## Check style, types, import rules, contract, generated files
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(MAKE) --no-print-directory types imports
	$(BIN)/python scripts/protos.py lint
	$(PROTO_VENV)/bin/python scripts/protos.py check
	$(BIN)/python scripts/config_docs.py --check
	$(BIN)/python scripts/build_class_matrix.py --check

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check who imports whom
	$(BIN)/lint-imports

proto: $(PROTO_VENV)/.installed ## Generate the stubs and the descriptor set from protos/
	$(PROTO_VENV)/bin/python scripts/protos.py generate

protos-dist: $(VENV)/.created ## Pack protos, buf's settings and the descriptor set into dist/, for other languages
	@$(BIN)/python scripts/protos.py dist

models: $(VENV)/.models ## Add torch, transformers, open_clip, OpenVINO and Ray, for the CLIP families, the bulk indexer, their tests

bench: $(VENV)/.models ## Measure worker and gateway against model and Milvus called directly, and against peers
	$(BIN)/python -m benchmarks.embedder
	$(BIN)/python -m benchmarks.search

lock: ## Pin what CI and the demo install to the newest versions that pyproject.toml allows
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet $(CLIENT) -e '.[demo,app,torch,openvino,bulk]' --group dev
	.venv-lock/bin/python -m pip install --quiet --no-deps open-clip-torch timm
	.venv-lock/bin/python -m pip freeze --exclude-editable --exclude pip | sed "s/+cpu$$//" > constraints.txt
	rm -rf .venv-lock

lock-images: ## Pin what the images install, by version and hash, after a change of constraints.txt
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	UV=.venv-lock/bin/uv deploy/docker/lock.sh
	rm -rf .venv-lock

clean: ## Remove what the targets above made, the demo's data included
	rm -rf $(VENV) $(PROTO_VENV) demo-out dist build

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sentinel needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@echo "setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: pyproject.toml clients/python/pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing Sentinel into $(VENV), about a minute …"
	@# Of an older Sentinel, pip would remove the command `sentinel` after the client has brought it.
	@$(BIN)/python -m pip uninstall -qq --yes sentinel-retrieval
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(CLIENT) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml clients/python/pyproject.toml constraints.txt | $(VENV)/.demo
	@echo "installing the development tools into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(CLIENT) -e '.[demo,app]' --group dev
	@touch $@

$(VENV)/.models: pyproject.toml clients/python/pyproject.toml constraints.txt | $(VENV)/.dev
	@echo "installing torch, transformers, open_clip, OpenVINO and Ray into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(CLIENT) -e '.[demo,app,torch,openvino,bulk]'
	@# open_clip without torchvision, which PyPI has for CUDA only. Its tests bring what it uses of that.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps open-clip-torch timm
	@touch $@

$(PROTO_VENV)/.installed: protos/requirements.txt
	@$(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r protos/requirements.txt
	@touch $@
