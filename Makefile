# make demo, make demo-host and make demo-kubevirt run demonstrations, make bench runs the benchmarks, make deb builds the
# Debian packages (make deb-arm64 those for arm64, on another architecture), make rpm and make arch those for Fedora and
# Arch Linux, make oci the images of both services, make image the container image for Kubernetes, and make dist the
# source archive and the list of the programs' components (make sbom). make check runs all tests except those that boot a virtual machine, which make check-host runs, those with a
# Kubernetes API server, which make check-kubevirt runs, and most of those with other init systems and distributions,
# which make check-anywhere runs. make soak runs many rounds of faults and floods, for hours. Run these commands as root
# on Debian 12 or 13 with Rust 1.95 or later. Each command installs the Debian packages that it needs, and can be run
# repeatedly.
#
# Run make install and make uninstall as root. PREFIX is /usr/local by default. If DESTDIR is set, only files are
# installed or removed; no other steps run. INIT is systemd by default; openrc, runit, s6 and shepherd install the files
# of these init systems instead of units.

# If rustup was just installed, its directory is not yet in PATH.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := build
.PHONY: build programs install uninstall deb deb-arm64 rpm arch oci image dist sbom demo demo-host demo-kubevirt
.PHONY: check check-host check-kubevirt check-anywhere bench soak fmt clippy deny fuzz clean

# Builds in release mode, as for the Debian package.
build:
	scripts/build --workspace

# Installs the files that are already built, so that root need not run cargo.
install uninstall:
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' INIT='$(INIT)' scripts/install $@

# Builds the programs of the packages, which do not contain wakevirt-kubevirt.
programs:
	scripts/build --workspace --exclude wakevirt-kubevirt --exclude wakevirt-tests $(CARGOFLAGS)

deb:
	scripts/prepare deb
	$(MAKE) --no-print-directory programs
	scripts/package

# In a Debian 13 tree.
deb-arm64:
	scripts/prepare deb
	scripts/prepare image
	scripts/arm64

# Both build from the archive of make dist.
rpm arch:
	scripts/prepare $@
	scripts/dist
	scripts/$@

oci:
	scripts/prepare image
	$(MAKE) --no-print-directory programs
	scripts/image capture
	scripts/image actor

image:
	scripts/prepare image
	scripts/build -p wakevirt-capture -p wakevirt-sniffer -p wakevirt-kubevirt -p wakevirt-ctl
	scripts/image

dist:
	scripts/prepare dist
	scripts/dist
	scripts/sbom

sbom:
	scripts/prepare dist
	scripts/sbom

demo:
	scripts/prepare demo
	scripts/build --workspace
	scripts/demo

demo-host:
	scripts/prepare check
	scripts/build --workspace
	scripts/demo-host

demo-kubevirt:
	scripts/prepare demo-kubevirt
	scripts/kube-apiserver >/dev/null
	scripts/build --workspace
	scripts/demo-kubevirt

check:
	scripts/check

check-host:
	scripts/check-host

check-kubevirt:
	scripts/check-kubevirt

check-anywhere:
	scripts/check-anywhere

bench:
	scripts/prepare bench
	scripts/bench

soak:
	scripts/soak

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
