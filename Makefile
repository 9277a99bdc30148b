# Everything a person or CI runs here. `make` alone lists it.

CARGO ?= cargo
STORE ?= memory
export STORE

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the real thing on loopback until Ctrl-C; STORE=redis: two HAProxies and two agents that share one count
	@scripts/demo.sh

test: ## every test; installs what they need (HAProxy, Redis, FastAPI, an OIDC provider)
	scripts/install.sh test
	$(CARGO) test --locked --lib --bins --test tollgate

lint: ## format, clippy and docs without a warning, and the walls between modules
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps
	$(CARGO) test --locked --test tollgate tidy::

bench: ## microbenchmarks of decode, decide and encode
	$(CARGO) bench --locked
