# Everything a person or CI runs here. `make` alone lists it.

CARGO ?= cargo
STORE ?= memory
export STORE
SECONDS_EACH ?= 300

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the real thing on loopback until Ctrl-C; STORE=redis: two HAProxies and two agents that share one count
	@scripts/demo.sh

test: ## every test; installs what they need (HAProxy, Redis, libfaketime, FastAPI, an OIDC provider, an LDAP server)
	scripts/install.sh test
	$(CARGO) test --locked --lib --bins --test tollgate

lint: ## format, clippy and docs without a warning, and the walls between modules
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps
	$(CARGO) test --locked --test tollgate tidy::

bench: ## microbenchmarks of decode, decide and encode
	$(CARGO) bench --locked

# cargo-fuzz asks for sanitizers, which the stable compiler has and keeps behind this variable.
fuzz: ## coverage-guided fuzzing of the protocol, SECONDS_EACH=300 for each target; needs a C++ compiler
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked --version 0.13.2 cargo-fuzz
	for target in decode connection; do \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- \
	    -dict=fuzz/spop.dict -max_len=4096 -max_total_time=$(SECONDS_EACH) -print_final_stats=1 || exit 1; \
	done
