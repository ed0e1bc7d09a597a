# The package: capture, the actor, wakevirtctl, and the page for Cockpit.
#
# It does not contain wakevirt-host: the hook must be in /usr/sbin, which NixOS does not have.
{
  lib,
  libvirt,
  pkg-config,
  rustPlatform,
  stdenv,
  util-linux,
}:

let
  workspace = (lib.importTOML ../../Cargo.toml).workspace.package;
in
rustPlatform.buildRustPackage {
  pname = "wakevirt";
  inherit (workspace) version;

  src = lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;
  cargoBuildFlags = [
    "--package=wakevirt-capture"
    "--package=wakevirt-sniffer"
    "--package=wakevirt-actor-libvirt"
    "--package=wakevirt-ctl"
  ];
  nativeBuildInputs = [ pkg-config ];
  buildInputs = [ libvirt ];

  # The tests need root.
  doCheck = false;

  # scripts/install lists the files, and writes the paths into them.
  installPhase = ''
    runHook preInstall
    patchShebangs scripts/install
    for package in wakevirt wakevirt-cockpit; do
      CARGO_TARGET_DIR=target/${stdenv.hostPlatform.rust.cargoShortTarget} DESTDIR= PREFIX=$out PACKAGE=$package scripts/install install
    done
    # systemd on NixOS does not find this program by its name.
    sed -i 's:^ExecReload=kill :ExecReload=${util-linux}/bin/kill :' $out/lib/systemd/system/*.service \
      $out/lib/systemd/user/*.service
    runHook postInstall
  '';

  meta = {
    description = "Wake-on-LAN for libvirt's virtual machines";
    license = [
      lib.licenses.asl20
      lib.licenses.mit
    ];
    mainProgram = "wakevirtctl";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
