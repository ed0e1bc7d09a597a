//! The packages in packaging/: each has the version and the users of this source tree, and the build of each one.
//! `make check-anywhere` builds and installs them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::{Debian, ROOT};
use wakevirt_tests::host::{Host, built_programs, project, succeed};
use wakevirt_tests::libvirt::{TEST, test_domain};
use wakevirt_tests::{privileged, wait};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAC: &str = "52:54:00:01:02:03";

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn all_packages_have_the_version_of_the_programs() {
    for (file, line) in [
        ("packaging/rpm/wakevirt.spec", format!("\nVersion:        {VERSION}\n")),
        ("packaging/rpm/wakevirt.spec", format!(" The wakevirt authors - {VERSION}-1\n")),
        ("packaging/arch/PKGBUILD", format!("\npkgver={VERSION}\n")),
        ("packaging/guix/wakevirt.scm", format!("\n    (version \"{VERSION}\")\n")),
        ("packaging/nix/package.nix", "\n  inherit (workspace) version;\n".to_owned()),
        ("docs/INSTALL.md", format!(" localhost/wakevirt-capture:{VERSION}\n")),
        ("docs/INSTALL.md", format!(" localhost/wakevirt-actor:{VERSION}\n")),
    ] {
        assert!(read(file).contains(&line), "{file} does not contain {line:?}");
    }
    // Gentoo's package manager reads the version from the name of the file.
    let ebuild = project().join(format!("packaging/gentoo/app-emulation/wakevirt/wakevirt-{VERSION}.ebuild"));
    assert!(ebuild.is_file(), "{}", ebuild.display());
}

#[test]
fn packages_that_create_users_themselves_create_all_of_them() {
    let (nix, guix) = (read("packaging/nix/module.nix"), read("packaging/guix/wakevirt.scm"));
    let users = read("systemd/wakevirt.sysusers.conf");
    let names = users
        .lines()
        .filter(|line| line.starts_with(['u', 'g']))
        .map(|line| line.split_whitespace().nth(1).unwrap().to_owned());
    // On Guix System, libvirt's service creates its group.
    for name in names {
        assert!(nix.contains(&format!("\"{name}\"\n")), "module.nix does not create {name}");
        assert!(
            name == "libvirt" || guix.contains(&format!("\"{name}\"")),
            "wakevirt.scm does not create {name}"
        );
    }
}

/// Runs one of the scripts that package built programs, with those of this build.
fn package(script: &str, option: &[&str]) -> Vec<PathBuf> {
    let built = built_programs();
    let mut command = Command::new(project().join("scripts").join(script));
    command.args(option).env("CARGO_TARGET_DIR", built.parent().unwrap());
    let output = succeed(command.env("PROFILE", built.file_name().unwrap()));
    let packages = output.lines().filter(|line| line.starts_with('/')).map(PathBuf::from);
    packages.filter(|path| path.is_file()).collect()
}

/// The files that a package contains: those that scripts/install lists, with the man pages.
fn installed_files(package: &str) -> BTreeSet<String> {
    let mut install = Command::new(project().join("scripts/install"));
    let list = succeed(install.arg("list").env("PREFIX", "/usr").env("PACKAGE", package));
    list.lines().map(|line| line.split_once('\t').unwrap().1.to_owned()).collect()
}

/// Boots the system, and checks that both services run and wake a domain.
fn assert_services_wake_a_domain(host: &Host, mut debian: Debian<'_>) {
    for package in ["wakevirt", "wakevirt-host", "wakevirt-cockpit"] {
        for file in installed_files(package) {
            assert!(debian.path(&file).symlink_metadata().is_ok(), "{file} is not installed");
        }
    }
    let lan = host.veth("lan0");
    debian.write(
        "/etc/wakevirt/actor.toml",
        &format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"vm1\"\n"),
    );
    debian.write("/root/vm1.xml", &test_domain("vm1", MAC));
    debian.boot();
    let enabled = "systemctl is-enabled wakevirt-capture wakevirt-actor wakevirt-host || true";
    assert_eq!(debian.sh(enabled), "disabled\ndisabled\ndisabled\n");
    debian.sh("systemctl enable --now wakevirt-capture wakevirt-actor wakevirt-host");
    wait::until_true("the actor to connect", || debian.sh("wakevirtctl list").contains("test"));
    // The test driver forgets its domains when its last connection is closed, so the actor's connection comes first.
    debian.sh(&format!("virsh --quiet --connect '{TEST}' define /root/vm1.xml"));
    wait::until_true("the domain", || debian.sh("wakevirtctl list").contains("vm1"));
    lan.etherwake(MAC, &[]);
    let state = format!("virsh --connect '{TEST}' domstate vm1");
    wait::until_true("the domain to run", || debian.sh(&state).starts_with("running"));
}

#[test]
#[ignore = "make check-anywhere"]
fn rpm_packages_install_and_run() {
    privileged!();
    let packages = package("rpm", &["--without", "build"]);
    assert_eq!(packages.len(), 3, "{packages:?}");
    let configuration = project().join("packaging/rpm/wakevirt.rpmlintrc");
    let mut rpmlint = Command::new("rpmlint");
    rpmlint.arg("--rpmlintrc").arg(configuration).args(&packages);
    succeed(rpmlint.arg(project().join("packaging/rpm/wakevirt.spec")));
    println!("tried: {}", succeed(Command::new("rpm").arg("--version")).trim());

    let host = Host::new();
    let debian = Debian::new(&host, Kind::DbusBroker);
    let mut rpm = host.command("rpm");
    // Debian's package manager, not rpm, knows the libraries of this system.
    let output = rpm.args(["--root", ROOT, "--nodeps", "--install"]).args(&packages).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("scriptlet failed"), "{stderr}");
    let mut verify = host.command("rpm");
    succeed(verify.args([
        "--root",
        ROOT,
        "--nodeps",
        "--verify",
        "wakevirt",
        "wakevirt-host",
        "wakevirt-cockpit",
    ]));
    assert_services_wake_a_domain(&host, debian);
}

#[test]
#[ignore = "make check-anywhere"]
fn arch_packages_install_and_run() {
    privileged!();
    let packages = package("arch", &["--repackage"]);
    assert_eq!(packages.len(), 3, "{packages:?}");
    println!("tried: {}", succeed(Command::new("pacman-conf").arg("--version")).trim());

    let host = Host::new();
    let debian = Debian::new(&host, Kind::DbusBroker);
    host.sh(&format!("mkdir -p {ROOT}/var/lib/pacman"));
    let mut pacman = host.command("pacman");
    pacman.args(["--config", "/dev/null", "--root", ROOT, "--dbpath", &format!("{ROOT}/var/lib/pacman")]);
    // Twice: the dependencies are neither checked nor installed.
    let output = pacman.args(["--upgrade", "-dd", "--noconfirm"]).args(&packages).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && !text.contains("command failed"), "{text}");
    // On Arch Linux, /usr/sbin is a link to bin, and pacman's hooks create the users.
    std::fs::copy(debian.path("/usr/bin/wakevirt-hook"), debian.path("/usr/sbin/wakevirt-hook")).unwrap();
    succeed(debian.chroot("systemd-sysusers").args(["wakevirt.conf", "wakevirt-host.conf"]));
    assert_services_wake_a_domain(&host, debian);
}

/// The unit binds the Nix store, in which NixOS has all programs and configuration files.
#[test]
#[ignore = "make check-anywhere"]
fn capture_runs_from_the_nix_store() {
    privileged!();
    let host = Host::new();
    let mut debian = Debian::new(&host, Kind::DbusBroker);
    let built = built_programs();
    let store = "/nix/store/x-wakevirt";
    let mut install = host.command(&project().join("scripts/install").to_string_lossy());
    install.arg("install").env("DESTDIR", ROOT).env("PREFIX", store).env("PACKAGE", "wakevirt");
    install.env("CARGO_TARGET_DIR", built.parent().unwrap()).env("PROFILE", built.file_name().unwrap());
    succeed(&mut install);
    host.sh(&format!(
        "cd {ROOT}; echo 'limit = 7' >nix/store/capture.toml
         mkdir -p etc/wakevirt etc/dbus-1/system.d etc/sysusers.d etc/tmpfiles.d; ln -s /nix/store/capture.toml etc/wakevirt/capture.toml
         cp {ROOT}{store}/lib/systemd/system/* etc/systemd/system
         cp {ROOT}{store}/share/dbus-1/system.d/* etc/dbus-1/system.d
         cp {ROOT}{store}/lib/sysusers.d/* etc/sysusers.d; cp {ROOT}{store}/lib/tmpfiles.d/* etc/tmpfiles.d"
    ));
    succeed(debian.chroot("systemd-sysusers").arg("wakevirt.conf"));
    debian.boot();
    println!("tried: {}", debian.sh("systemctl --version").lines().next().unwrap());
    debian.sh("systemctl start wakevirt-capture && systemctl reload wakevirt-capture");
    let pid = debian.main_process("wakevirt-capture");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(program, Path::new(store).join("bin/wakevirt-capture"));
    debian.sh("systemctl enable --now wakevirt-metrics.socket; exec 3<>/dev/tcp/127.0.0.1/10842
         printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; grep --quiet 'service=\"capture\"} 1' <&3");
}

#[test]
#[ignore = "make check-anywhere"]
fn nix_files_evaluate() {
    let files = ["flake.nix", "packaging/nix/package.nix", "packaging/nix/module.nix"];
    let nix = |arguments: &[&str]| {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new("nix-instantiate");
        for variable in ["NIX_STATE_DIR", "NIX_STORE_DIR", "NIX_LOG_DIR", "NIX_CONF_DIR"] {
            command.env(variable, state.path());
        }
        succeed(command.args(arguments).current_dir(project()))
    };
    println!("tried: {}", nix(&["--version"]).trim());
    for file in files {
        let _ = nix(&["--parse", file]);
    }
    let text = nix(&["--eval", "--strict", "--json", "--readonly-mode", "tests/nix/eval.nix"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["package"]["version"], &value["overlay"]), (&VERSION.into(), &VERSION.into()));
    let config = &value["config"];
    for service in ["wakevirt-capture", "wakevirt-actor"] {
        assert_eq!(config["systemd"]["services"][service]["wantedBy"][0], "multi-user.target");
        assert_eq!(config["users"]["users"][service]["group"], service);
    }
    for packages in ["systemd", "services"] {
        let packages = if packages == "systemd" { &config[packages] } else { &config[packages]["dbus"] };
        assert_eq!(packages["packages"][0], "/nix/store/wakevirt");
    }
}

#[test]
#[ignore = "make check-anywhere"]
fn guix_file_is_read() {
    let mut guile = Command::new("guile");
    guile.args(["--no-auto-compile", "-s", "tests/guix/read.scm", "packaging/guix/wakevirt.scm"]);
    let forms = succeed(guile.current_dir(project()));
    for form in ["define-module wakevirt", "define wakevirt", "define wakevirt-service-type"] {
        assert!(forms.lines().any(|line| line == form), "{form} is missing: {forms}");
    }
    let version = succeed(Command::new("guile").arg("--version"));
    println!("tried: {}", version.lines().next().unwrap().replace("guile (GNU Guile)", "Guile"));
}
