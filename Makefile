# Everything a contributor runs. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Debian packages that the tests run for real: servers, a browser, a decoder, network namespaces.
PACKAGES := janus coturn redis-server nftables python3 chromium chromium-driver ffmpeg iproute2 util-linux

.PHONY: help packages fmt check test test-long calibrate second-opinions fuzz bench

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

packages: ## Install the Debian packages that `make test` needs (as root), or say which
	@tools/packages.sh $(PACKAGES)

# Modules that a macro declares (the drivers) are out of cargo fmt's sight.
UNSEEN := find src/signaling -name '*.rs' -print0 | xargs -0 rustfmt --edition 2024

fmt: ## Format all sources
	cargo fmt --all
	$(UNSEEN)

check: ## Formatting, lints, documentation
	cargo fmt --all --check
	$(UNSEEN) --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# More than cores: tests wait more than they work, and those that need the machine see to that (tests/support/disturbed.rs).
TEST_THREADS ?= 4

# One failure must not hide the next: no-fail-fast.
test: packages ## All tests: simulated, end to end, targets
	cargo test --locked --no-fail-fast -- --test-threads=$(TEST_THREADS)

test-long: packages ## The same with many more seeds and the slow experiments
	ROOMFUL_LONG=1 cargo test --locked --no-fail-fast -- --include-ignored --test-threads=$(TEST_THREADS)

calibrate: ## Known impairments against what the report says of them; writes docs/calibration.md
	ROOMFUL_CALIBRATION=docs/calibration.md cargo test --locked --test calibration -- --ignored --nocapture the_whole_grid

second-opinions: ## What a browser, a stock peer and Janus read beside us; writes docs/second-opinions/
	ROOMFUL_SECOND_OPINIONS=$(CURDIR)/docs/second-opinions cargo test --locked --test second_opinions -- --ignored --nocapture --test-threads=1 long_

FUZZ_SECONDS ?= 120
# What a target begins with beside what it found before.
seeds_sdp := tests/fixtures/sdp
seeds_janus := tests/fixtures/janus
seeds_user_profile := profiles
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

fuzz: $(FUZZ_TARGETS:%=fuzz-%) ## Fuzz all that parses bytes, FUZZ_SECONDS each (needs cargo-fuzz and a nightly toolchain)

fuzz-%:
	@cp -n Cargo.lock fuzz/Cargo.lock
	@mkdir -p fuzz/corpus/$*
	cargo +nightly fuzz run --sanitizer none $* fuzz/corpus/$* $(seeds_$*) -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096

bench: ## The benches behind docs/performance.md
	cargo bench --locked
