# make demo shows it, make check proves it, make bench measures it: as root, on Debian 12 with Rust.
# Each installs the Debian packages that it needs, and can be run again.

# rustup's folder is not yet in PATH where Rust was just installed.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := build
.PHONY: build demo check bench fmt clippy deny fuzz clean

# In release mode, as packages do.
build:
	cargo build --workspace --release --locked

demo:
	scripts/prepare demo
	cargo build --workspace --release --locked
	scripts/demo

check:
	scripts/check

bench:
	scripts/prepare bench
	scripts/bench

fmt:
	cargo fmt --all

clippy:
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

deny:
	cargo deny --locked --all-features check licenses bans sources

fuzz:
	scripts/prepare check
	scripts/fuzz 60

clean:
	cargo clean
