# Every task of the repository. `make` alone lists them.

# Tools that scripts/setup installs come before those of the machine.
export PATH := $(CURDIR)/.tools/bin:$(PATH)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help setup build test lint fmt proto docs-check bench demo serve serve-cluster

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the tools that tests need into .tools (again: milliseconds)
	@scripts/setup

build: ## Compile everything, tests included
	cargo build --workspace --all-targets

test: ## Everything that must hold: setup, formatting, lints, docs, licences, proto, all tests
	@scripts/check

lint: ## Only the checks that run nothing: formatting, proto, licences, clippy, rustdoc
	@scripts/check setup fmt proto deny clippy doc

fmt: ## Format Rust and proto files in place
	@scripts/setup base
	cargo fmt --all
	buf format --write

proto: ## Lint, formatting and compatibility of the contract
	@scripts/check setup proto

docs-check: ## Documentation builds without warnings and its links lead somewhere
	@scripts/check doc docs

bench: ## Build with optimisation, measure, print the table and write bench/results.json
	cargo build --release -p coretexd -p coretexctl -p coretex-bench
	$(TARGET_DIR)/release/coretex-bench

demo: ## See it work, for about a minute; STORE=redis BUS=nats: on Redis and NATS
	@scripts/demo

serve: ## Start a server that stays, and say what to try next; STORE and BUS as above
	@scripts/serve

serve-cluster: ## Start Redis, NATS and three replicas that stay, and say what to try
	@scripts/serve-cluster
