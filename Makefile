.PHONY: check lint types test docs

check:
	.ci/run

lint:
	ruff check . && ruff format --check .

types:
	mypy

test:
	pytest

docs:
	mkdocs build --strict
