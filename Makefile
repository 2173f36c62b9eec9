# Two commands, each of which sets up what it needs: `make book` and `make test`.
PYTHON ?= python3
PARAMS ?= $(if $(DATA),params/photographs.yml)
DATA ?=
RUN ?=
BIN := .venv/bin

CHROMIUM ?= chromium
# A value as one word of the shell, whatever blanks and apostrophes it holds.
quoted = '$(subst ','\'',$(1))'

.PHONY: help book pdf test lab lint clean

help:
	@echo "make book                                                    execute and render the book, on drawn faces"
	@echo "make book DATA=<folder in CelebA layout> [PARAMS=…] [RUN=…]  the same on photographs"
	@echo "make pdf                                                     the book as one PDF; wants Chromium"
	@echo "make book TORCH=cpu                                          installs PyTorch's CPU build: 200 MB in place of 6 GB"
	@echo "make test                                                    tests, linter, types"
	@echo "make lab                                                     JupyterLab on the notebooks"

# The environment is made once, and again when the list of dependencies changes. TORCH names one of PyTorch's builds, which
# lie in an index of its own that uv knows; without it pip takes the default build.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fairnb needs Python 3.11 or later: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip $(if $(TORCH),uv)
ifdef TORCH
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend '$(TORCH)' torch torchvision || { \
		echo "TORCH=$(TORCH): PyTorch's index was not reached, or has no such build. Leave TORCH out for the default build, or put torch and torchvision into .venv together by hand, then run make again."; \
		exit 1; }
endif
	$(BIN)/python -m pip install --quiet --editable '.[book,test]'
	touch $@

book: .venv/installed
	$(BIN)/fairnb book $(if $(PARAMS),--params $(call quoted,$(PARAMS))) \
		$(if $(DATA),-p data=celeba -p data_root=$(call quoted,$(DATA))) $(if $(RUN),--run $(call quoted,$(RUN)))

# Jupyter Book writes one long page, and Chromium prints it.
pdf: book
	$(BIN)/jupyter-book build book --path-output book --builder singlehtml --quiet
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --virtual-time-budget=60000 --no-pdf-header-footer \
		--print-to-pdf=book/_build/fairnb.pdf "file://$(CURDIR)/book/_build/singlehtml/intro.html"

test: .venv/installed lint
	$(BIN)/python -m pytest -n auto $(PYTEST)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .cache/notebooks
	$(BIN)/jupyter nbconvert --log-level WARN --to python --output-dir .cache/notebooks notebooks/*.ipynb
	for chapter in .cache/notebooks/*.py; do \
		printf '# mypy: allow-untyped-defs\n' | cat - $$chapter > $$chapter.typed && mv $$chapter.typed $$chapter; done
	$(BIN)/mypy fairnb tests benchmarks scripts .cache/notebooks/*.py

lab: .venv/installed
	$(BIN)/jupyter lab --notebook-dir notebooks

clean:
	rm -rf .venv .cache book/_build book/chapters
