//! scripts/prepare checks the Rust version before it installs anything.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use wakevirt_tests::host::project;

/// Writes an executable shell script.
fn program(directory: &Path, name: &str, lines: &str) {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `scripts/prepare deb` with these versions of cargo and rustc and without any Debian package. Returns its
/// output, and whether it called apt-get.
fn prepare(cargo: &str, rustc: &str) -> (Output, bool) {
    let programs = tempfile::tempdir().unwrap();
    program(programs.path(), "cargo", &format!("echo 'cargo {cargo} (d73d2caf9 2024-12-31)'"));
    program(programs.path(), "rustc", &format!("echo 'rustc {rustc} (4eb161250 2025-03-15)'"));
    program(programs.path(), "dpkg-query", "exit 1");
    program(programs.path(), "apt-get", "touch \"${0%/*}/called\"");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let mut prepare = Command::new(project().join("scripts/prepare"));
    let output = prepare.arg("deb").env("PATH", path).output().unwrap();
    (output, programs.path().join("called").exists())
}

#[test]
fn rejects_an_older_rust_before_it_installs_packages() {
    for (cargo, rustc, problem) in [
        ("1.85.1", "1.85.1", "cargo has version 1.85.1"),
        ("1.95.0", "1.85.0", "rustc has version 1.85.0"),
        ("1.94.1-nightly", "1.95.0", "cargo has version 1.94.1-nightly"),
        ("1.9.0", "1.95.0", "cargo has version 1.9.0"),
    ] {
        let (output, installed) = prepare(cargo, rustc);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{cargo} {rustc}: {stderr}");
        let message = format!("{problem}, and Rust {} or later is needed", env!("CARGO_PKG_RUST_VERSION"));
        assert!(stderr.contains(&message) && stderr.contains("https://rustup.rs"), "{stderr}");
        assert!(!installed, "{cargo} {rustc}: apt-get was called");
    }
}

#[test]
fn accepts_a_supported_rust() {
    for version in ["1.95.0", "1.95.1-beta.2", "1.100.0", "2.0.0"] {
        let (output, installed) = prepare(version, version);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("or later is needed"), "{version}: {stderr}");
        // Without root it lists the missing packages.
        assert!(installed || stderr.contains("cannot build without"), "{version}: {stderr}");
    }
}

/// `make rpm` runs on Fedora, `make arch` on Arch Linux, and `make dist` on Gentoo and Guix.
#[test]
fn names_the_dependencies_on_other_distributions() {
    let programs = tempfile::tempdir().unwrap();
    program(programs.path(), "cargo", "echo 'cargo 1.95.0 (d73d2caf9 2024-12-31)'");
    program(programs.path(), "rustc", "echo 'rustc 1.95.0 (4eb161250 2025-03-15)'");
    for name in ["sed", "sort"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{name}"), programs.path().join(name)).unwrap();
    }
    for (target, package) in
        [("rpm", Some("libvirt-dev")), ("arch", Some("makepkg")), ("dist", Some("git")), ("deb", None)]
    {
        let mut prepare = Command::new(project().join("scripts/prepare"));
        let output = prepare.arg(target).env("PATH", programs.path()).output().unwrap();
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        match package {
            Some(package) => {
                assert!(output.status.success() && stdout.contains(package), "{target}: {stdout}{stderr}");
            }
            None => assert!(
                !output.status.success() && stderr.contains("does not have apt-get"),
                "{target}: {stderr}"
            ),
        }
    }
}
