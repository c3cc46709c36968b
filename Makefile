# Everything from a fresh clone with Python 3.11, 3.12 or 3.13: each target makes its own .venv.
VENV ?= .venv
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$name && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUNS ?= 200000
SETUP := setup.cfg pyproject.toml constraints.txt

NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: demo test test-all lint types bench-smoke notebooks render-notebooks docs docs-serve fuzz protos vendor clean

demo: $(VENV)/.core ## a real network planned, split, served and run
	$(BIN)/splitter demo

test: $(VENV)/.test ## the tests, without the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(VENV)/.test ## the slow tests too
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

bench-smoke: $(VENV)/.test ## every benchmark once, on little; its timings mean nothing
	@set -e; for file in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
		echo "$$file --smoke"; $(BIN)/python $$file --smoke; done

notebooks: $(VENV)/.notebooks ## every notebook once, on little; outputs stay out of the files
	SPLITTER_NOTEBOOK_QUICK=1 $(BIN)/python -m pytest --nbmake $(NOTEBOOKS)

render-notebooks: $(NOTEBOOKS:%=build/%) ## executed copies in build/notebooks, for the site of docs/

build/notebooks/%.ipynb: notebooks/%.ipynb | $(VENV)/.notebooks
	$(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --output-dir $(@D) $<

MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

docs: $(VENV)/.docs ## the site of docs/ in build/site; needs no network, neither here nor in the browser
	$(MKDOCS) build --strict

docs-serve: $(VENV)/.docs ## the same on http://127.0.0.1:8000, built again when a page changes
	$(MKDOCS) serve

# atheris has wheels for Python 3.11 to 3.13 on Linux.
fuzz: $(VENV)/.fuzz ## coverage-guided fuzzing of what decodes, bounded
	$(BIN)/python tests/fuzz/fuzz_codec.py -runs=$(RUNS) -max_len=1024
	$(BIN)/python tests/fuzz/fuzz_wire.py -runs=$(RUNS) -max_len=1024 -len_control=0

# An old protoc on purpose: what it writes runs with every protobuf that the package allows, while
# code of a newer one refuses older runtimes. It has wheels for Python 3.11 and 3.12. The pool of its own
# lets other clients of the same protocol live in one process with ours.
protos: $(VENV)/.protoc ## regenerate splitter/serving/_pb2 from protos/
	$(VENV)/protoc/bin/python -m grpc_tools.protoc -I protos --python_out=splitter/serving/_pb2 \
		--pyi_out=splitter/serving/_pb2 protos/*.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' \
		splitter/serving/_pb2/*_pb2.py
	sed -i '1i # mypy: disable-error-code="type-arg"' splitter/serving/_pb2/*_pb2.pyi

# The report's libraries, minified, as npm has them at the versions of package.json; needs node, the rest does not.
WEB := splitter/reporting/web/vendor
vendor: ## fetch splitter/reporting/web/vendor again
	mkdir -p build/vendor && cp $(WEB)/package.json build/vendor/
	cd build/vendor && npm install --no-audit --no-fund --ignore-scripts --no-package-lock
	cd build/vendor/node_modules && cp cytoscape/dist/cytoscape.min.js \
		cytoscape-dagre/dist/cytoscape-dagre.min.js $(CURDIR)/$(WEB)
	for name in cytoscape cytoscape-dagre @dagrejs/dagre; do \
		cp build/vendor/node_modules/$$name/LICENSE $(WEB)/$${name##*/}.LICENSE; done
	cd $(WEB) && sha256sum *.js *.LICENSE > SHA256SUMS

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "splitter needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python $(SETUP)
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(BIN)/python $(SETUP)
	$(PIP) -e '.[test,highs]'
	touch $@ $(VENV)/.core

$(VENV)/.notebooks: $(VENV)/.test
	$(PIP) -e '.[notebooks]'
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e '.[docs]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.test
	$(PIP) -e '.[fuzz]'
	touch $@

$(VENV)/.protoc: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/protoc
	$(VENV)/protoc/bin/python -m pip install --quiet --disable-pip-version-check \
		'grpcio-tools==1.62.3' 'setuptools<81'
	touch $@
