# Copyright 2026 The wakevirt authors
# Distributed under the terms of the Apache License, version 2.0, or the MIT license

EAPI=8

DESCRIPTION="Wake-on-LAN for libvirt's virtual machines"
# There is no public address of the project yet.
HOMEPAGE="https://wakevirt.invalid"
# The archive of `make dist`, with the sources of all crates.
SRC_URI="${P}.tar.xz"

LICENSE="|| ( Apache-2.0 MIT ) Apache-2.0 BSD ISC LGPL-2.1 MIT Unicode-3.0 ZLIB"
SLOT="0"
KEYWORDS="~amd64 ~arm64"
IUSE="cockpit host systemd"
RESTRICT="fetch test"

DEPEND=">=app-emulation/libvirt-6.0:="
RDEPEND="
	${DEPEND}
	sys-apps/dbus
	systemd? ( sys-apps/systemd )
	!systemd? ( sys-apps/systemd-utils[sysusers,tmpfiles] )
"
BDEPEND="
	|| ( >=dev-lang/rust-1.95 >=dev-lang/rust-bin-1.95 )
	virtual/pkgconfig
"

# cargo does not use CFLAGS.
QA_FLAGS_IGNORED="usr/bin/.* usr/sbin/.* usr/libexec/.*"

pkg_nofetch() {
	einfo "Run \`make dist\` in wakevirt's source tree, copy target/dist/${P}.tar.xz to DISTDIR, and run"
	einfo "\`ebuild ${PF}.ebuild manifest\`."
}

src_compile() {
	emake programs CARGOFLAGS=--frozen
}

# scripts/install lists the files of each package.
src_install() {
	local package
	for package in wakevirt $(usev host wakevirt-host) $(usev cockpit wakevirt-cockpit); do
		DESTDIR=${D} PREFIX=${EPREFIX}/usr PACKAGE=${package} INIT=$(usex systemd systemd openrc) \
			scripts/install install || die
	done
	docompress -x /usr/share/doc/wakevirt /usr/share/man
}

pkg_postinst() {
	local file
	for file in wakevirt $(usev host wakevirt-host); do
		systemd-sysusers --root="${EROOT:-/}" "${file}.conf" || ewarn "cannot create the users in ${file}.conf"
		systemd-tmpfiles --root="${EROOT:-/}" --create "${file}.conf" || ewarn "cannot create the directories"
	done
	if use systemd; then
		elog "Start the services with \`systemctl enable --now wakevirt-capture wakevirt-actor\`."
	else
		elog "Start the services with \`rc-update add\` and \`rc-service\`: wakevirt-capture and wakevirt-actor."
	fi
}
