# make demo shows it, make check proves it, make bench measures it, make deb packages it: as root, on Debian 12
# or 13 with Rust 1.95 or later. Each installs the Debian packages that it needs, and can be run again.
#
# make install and make uninstall, as root: PREFIX is /usr/local by default; with DESTDIR, files are placed and
# nothing else is done.

# rustup's folder is not yet in PATH where Rust was just installed.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := build
.PHONY: build install uninstall deb demo check bench fmt clippy deny fuzz clean

# In release mode, as packages do.
build:
	cargo build --workspace --release --locked

# What was built, and builds nothing: so root does not have to.
install uninstall:
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install $@

deb:
	scripts/prepare deb
	cargo build --workspace --release --locked
	scripts/package

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
