# make demo, make test, make quality: each sets up .venv first and is quick the second time.
PYTHON ?= python3
OUTPUT ?= demo

.PHONY: demo test quality style clean

demo: .venv/installed
	.venv/bin/hf-ssl demo --output $(OUTPUT)

test: .venv/installed
	.venv/bin/python -m pytest

quality: .venv/installed
	.venv/bin/ruff check hf_ssl scripts tests
	.venv/bin/ruff format --check hf_ssl scripts tests

style: .venv/installed
	.venv/bin/ruff check --fix hf_ssl scripts tests
	.venv/bin/ruff format hf_ssl scripts tests

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache

# uv if it is there, pip if not. The stamp is written last: an interrupted installation starts again.
.venv/installed: pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		echo "uv: installing hf_ssl into .venv (torch brings its CUDA packages, about 6 GB)" && \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --python .venv/bin/python --editable '.[dev]'; \
	else \
		echo "pip: installing hf_ssl into .venv (torch brings its CUDA packages, about 6 GB)" && \
		$(PYTHON) -m venv .venv && \
		.venv/bin/python -m pip install --editable '.[dev]'; \
	fi
	@touch $@
