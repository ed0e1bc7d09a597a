//! The files that `make install` copies, that `make uninstall` removes, and that the package contains.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wakevirt_tests::debian::package;
use wakevirt_tests::host::{project, succeed};

/// Files that exist before the installation: those of other packages, and those that the administrator wrote.
const BEFORE: &[&str] = &[
    "etc/dbus-1/system.d/other.conf",
    "etc/polkit-1/rules.d/49-other.rules",
    "etc/wakevirt/actor.d/win11.toml",
    "etc/wakevirt/actor.toml",
    "usr/bin/other",
    "usr/lib/systemd/system/other.service",
    "usr/share/doc/other/copyright",
    "usr/share/polkit-1/actions/other.policy",
];
/// Directories that exist and are empty before the installation. They must not be removed.
const EMPTY: &[&str] = &[
    "etc/conf.d",
    "etc/init.d",
    "etc/logrotate.d",
    "etc/libvirt/hooks",
    "opt",
    "usr/local/bin",
    "usr/local/lib",
    "usr/local/libexec",
    "usr/local/share/man",
    "usr/sbin",
];

/// The prefixes to test. The first is the default.
const PREFIXES: [&str; 3] = ["/usr/local", "/usr", "/opt/wakevirt"];

/// The values of INIT. The first is the default.
const INITS: [&str; 5] = ["systemd", "openrc", "runit", "s6", "shepherd"];

/// Files and directories by path, each with mode and content. The content of a directory is empty; the content of a
/// symbolic link is its target.
type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// All files and directories below a directory.
fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory can be read") {
            let path = entry.expect("the entry can be read").path();
            let metadata = path.symlink_metadata().expect("the file exists");
            let content = if metadata.is_dir() {
                directories.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                let target = path.read_link().expect("the link can be read");
                target.into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&path).expect("the file can be read")
            };
            let name = path.strip_prefix(root).expect("the path is below the root").to_owned();
            found.insert(name, (metadata.permissions().mode() & 0o7777, content));
        }
    }
    found
}

/// A root directory before the installation.
fn root() -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for file in BEFORE {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().expect("the path has a parent")).expect("a directory");
        std::fs::write(&path, file).expect("a file");
    }
    for directory in EMPTY {
        std::fs::create_dir_all(root.path().join(directory)).expect("a directory");
    }
    root
}

/// `make TARGET`, as a packager calls it, with the programs of this build instead of a release build.
fn make(target: &str, root: &Path, prefix: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this program");
    let build = test.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let mut make = Command::new("make");
    make.current_dir(project())
        .args(["--silent", target])
        .arg(format!("DESTDIR={}", root.display()))
        .env("CARGO_TARGET_DIR", build.parent().expect("a build is in target"))
        .env("PROFILE", build.file_name().expect("a build has a name"))
        // If `make` runs this test, its flags must not apply to this `make`.
        .env_remove("MAKEFLAGS");
    if prefix != PREFIXES[0] {
        make.arg(format!("PREFIX={prefix}"));
    }
    make
}

/// The source and the target of each installed file.
fn list() -> Vec<(String, PathBuf)> {
    list_of("")
}

/// The source and the target of each file in a package.
fn list_of(package: &str) -> Vec<(String, PathBuf)> {
    list_with(package, INITS[0])
}

/// The source and the target of each file in a package, or of all files, for an init system.
fn list_with(package: &str, init: &str) -> Vec<(String, PathBuf)> {
    let mut install = Command::new(project().join("scripts/install"));
    let install = install.arg("list").env("PREFIX", "/usr").env("PACKAGE", package).env("INIT", init);
    let list = succeed(install);
    let lines = list.lines().map(|line| line.split_once('\t').expect("a line has a source and a target"));
    lines.map(|(source, target)| (source.to_owned(), target.trim_start_matches('/').into())).collect()
}

#[test]
fn uninstall_removes_all_installed_files() {
    let prefixes = PREFIXES.map(|prefix| (prefix, INITS[0])).into_iter();
    for (prefix, init) in prefixes.chain(INITS[1..].iter().map(|init| ("/usr", *init))) {
        let case = format!("PREFIX={prefix} INIT={init}");
        let root = root();
        let before = files(root.path());
        let make = |target: &str| {
            let mut make = make(target, root.path(), prefix);
            if init != INITS[0] {
                make.arg(format!("INIT={init}"));
            }
            succeed(&mut make);
        };
        make("install");
        let installed = files(root.path());
        assert!(before.iter().all(|(name, file)| installed.get(name) == Some(file)), "{case}");
        let new = installed.keys().filter(|name| !before.contains_key(*name));
        let new = new.filter(|name| !root.path().join(name).is_dir()).count();
        assert_eq!(new, list_with("", init).len(), "{case}: not every file in the list has its own target");

        // Install a second time, as an upgrade does.
        make("install");
        assert!(files(root.path()) == installed, "{case}");

        make("uninstall");
        let after = files(root.path());
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "{case}");
        assert!(after == before, "{case}: a file that existed before was changed");
    }
}

#[test]
fn other_init_systems_get_their_own_files_instead_of_units() {
    let units = list_of("").iter().filter(|(source, _)| source.starts_with("systemd/")).count();
    for init in &INITS[1..] {
        let list = list_with("", init);
        let sources: Vec<&str> = list.iter().map(|(source, _)| source.as_str()).collect();
        // Users, groups, directories and permissions have one list for all init systems.
        let kept: Vec<_> = sources.iter().filter(|source| source.starts_with("systemd/")).collect();
        let is_list = |source: &str| source.ends_with(".sysusers.conf") || source.ends_with(".tmpfiles.conf");
        let scripts = ["systemd/host/restore-host", "systemd/user/session-libvirtd"];
        let is_kept = |source: &str| is_list(source) || scripts.contains(&source);
        assert!(kept.iter().all(|source| is_kept(source)), "{init}: {kept:?}");
        assert!((1..units).contains(&kept.len()), "{init}");
        assert!(sources.iter().any(|source| source.starts_with(&format!("init/{init}/"))), "{init}");
        for source in sources {
            let other = source.strip_prefix("init/").and_then(|rest| rest.split_once('/'));
            assert!(other.is_none_or(|(directory, _)| directory == *init), "{init}: {source}");
        }
    }
    let unknown = Command::new(project().join("scripts/install")).arg("list").env("INIT", "sysv").output();
    let unknown = unknown.expect("the script runs");
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && error.contains("INIT=sysv is not supported"), "{error}");
}

#[test]
fn installed_units_name_existing_programs() {
    for prefix in PREFIXES {
        let root = root();
        succeed(&mut make("install", root.path(), prefix));
        let mut named = 0;
        for (name, (_, content)) in files(root.path()) {
            let Ok(text) = String::from_utf8(content) else { continue };
            for line in text.lines().filter(|line| line.contains("=/") && line.starts_with("Exec")) {
                let (_, command) = line.split_once('=').expect("the line has a value");
                let program = command.split(' ').next().expect("split returns at least one part");
                // The administrator installs Samba, and the example in examples/commands.
                if !["/bin/false", "/usr/sbin/smbd"].contains(&program)
                    && !name.to_string_lossy().contains("/examples/commands/")
                {
                    assert!(
                        root.path().join(&program[1..]).is_file(),
                        "{prefix}: {}: {line}",
                        name.display()
                    );
                    named += 1;
                }
            }
        }
        assert!(named > 0, "{prefix}: no unit names a program");
        let sniffer = "libexec/wakevirt/wakevirt-sniffer";
        let from_capture = format!("{}/bin/../{sniffer}", &prefix[1..]);
        assert!(root.path().join(from_capture).is_file(), "{prefix}: capture does not find the sniffer");
    }
}

#[test]
fn policies_are_installed_where_dbus_and_polkit_search() {
    let root = root();
    succeed(&mut make("install", root.path(), "/usr/local"));
    let has_file = |directory: &str, end: &str| {
        let entries = std::fs::read_dir(root.path().join(directory)).expect("the directory can be read");
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.contains("wakevirt") && name.ends_with(end)
        })
    };
    assert!(has_file("etc/dbus-1/system.d", ".conf"));
    assert!(has_file("usr/share/polkit-1/actions", ".policy"));
    assert!(has_file("etc/polkit-1/rules.d", ".rules"));
}

/// The files that a page links to by relative or absolute path.
fn links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let targets = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    targets.map(|target| target.split_once('#').map_or(target, |(file, _)| file)).collect()
}

#[test]
fn links_in_installed_pages_lead_to_installed_files() {
    for prefix in PREFIXES {
        let root = root();
        succeed(&mut make("install", root.path(), prefix));
        let (mut broken, mut good) = (Vec::new(), 0);
        for (name, (_, content)) in files(root.path()) {
            let Ok(page) = String::from_utf8(content) else { continue };
            if name.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let directory = root.path().join(&name).parent().expect("the path has a parent").to_owned();
            for link in links(&page) {
                let target = match link.strip_prefix('/') {
                    Some(absolute) => root.path().join(absolute),
                    None => directory.join(link),
                };
                good += usize::from(target.is_file());
                if !target.is_file() {
                    broken.push(format!("{}: {link}", name.display()));
                }
            }
        }
        assert!(broken.is_empty(), "{prefix}: {broken:#?}");
        assert!(good >= 30, "{prefix}: only {good} links were found");
    }
}

#[test]
fn install_list_names_every_file() {
    let all = INITS.iter().flat_map(|init| list_with("", init));
    let listed: BTreeSet<String> = all.map(|(source, _)| source).collect();
    for directory in ["systemd", "init", "dbus", "docs", "cockpit", "ctl/completions"] {
        for (name, _) in files(&project().join(directory)) {
            let source = Path::new(directory).join(name);
            // The page of a program that only the container image contains.
            if source.ends_with("man/wakevirt-kubevirt.8") {
                continue;
            }
            let is_listed = listed.contains(source.to_str().expect("the path is UTF-8"));
            assert!(
                is_listed || project().join(&source).is_dir(),
                "scripts/install does not list {}",
                source.display()
            );
        }
    }
}

#[test]
fn install_changes_nothing_before_a_build() {
    let (root, empty) = (root(), tempfile::tempdir().expect("a temporary directory"));
    let before = files(root.path());
    let mut make = make("install", root.path(), "/usr/local");
    let output = make.env("CARGO_TARGET_DIR", empty.path()).output().expect("make runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("run `make` first, as any user"), "{stderr}");
    assert!(files(root.path()) == before);
}

#[test]
fn packages_contain_the_files_of_make_install() {
    let root = root();
    succeed(&mut make("install", root.path(), "/usr"));
    let installed = files(root.path());
    // Debian requires that the licences are in the `copyright` file.
    let licences =
        ["LICENSE-APACHE", "LICENSE-MIT"].map(|name| Path::new("usr/share/doc/wakevirt").join(name));
    let mut total = licences.len();
    for (name, package) in [
        ("wakevirt", package::built()),
        ("wakevirt-cockpit", package::cockpit()),
        ("wakevirt-host", package::host()),
    ] {
        let mut expected: BTreeSet<PathBuf> = list_of(name).into_iter().map(|(_, target)| target).collect();
        licences.iter().for_each(|licence| {
            expected.remove(licence);
        });
        total += expected.len();
        assert_package_contains(name, &package, &installed, expected);
    }
    assert_eq!(total, list().len(), "not every file is in exactly one package");
}

/// Checks that a package contains these files of an installation, and Debian's documents.
fn assert_package_contains(name: &str, package: &Path, installed: &Files, mut expected: BTreeSet<PathBuf>) {
    let unpacked = tempfile::tempdir().expect("a temporary directory");
    succeed(Command::new("dpkg-deb").arg("--extract").arg(package).arg(unpacked.path()));
    let packaged = files(unpacked.path());
    let docs = Path::new("usr/share/doc").join(name);
    let debian_docs = ["changelog.Debian.gz", "copyright"].map(|name| docs.join(name));
    expected.extend(debian_docs.iter().cloned());
    let is_file = |name: &&PathBuf| !unpacked.path().join(name).is_dir();
    assert_eq!(packaged.keys().filter(is_file).cloned().collect::<BTreeSet<_>>(), expected);

    for name in expected.iter().filter(|name| !debian_docs.contains(name)) {
        let (mode, content) = installed.get(name).expect("the file is installed");
        let (packaged_mode, packaged_content) = packaged.get(name).expect("the file is in the package");
        assert_eq!(mode, packaged_mode, "{}", name.display());
        // The programs come from different builds.
        let same = content.starts_with(b"\x7fELF") || content == packaged_content;
        assert!(same, "{} differs in the package: run `make deb` again", name.display());
    }
    let owners = succeed(Command::new("dpkg-deb").arg("--contents").arg(package));
    assert!(owners.lines().all(|line| line.contains(" root/root ") || line.contains(" 0/0 ")), "{owners}");
}

#[test]
fn packages_pass_lintian() {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error"]).args([
        package::built(),
        package::cockpit(),
        package::host(),
    ]);
    succeed(&mut lintian);
}

#[test]
fn package_has_the_version_of_the_programs() {
    let field = |name: &str| succeed(Command::new("dpkg-deb").arg("--field").arg(package::built()).arg(name));
    let version = field("Version");
    let (upstream, _) =
        version.trim().rsplit_once('-').unwrap_or_else(|| panic!("{version:?} has no revision"));
    assert_eq!(upstream, env!("CARGO_PKG_VERSION"), "packaging/debian/changelog has a different version");
    for library in ["libc6", "libvirt0"] {
        assert!(field("Depends").contains(library), "{}", field("Depends"));
    }
    for package in [package::cockpit(), package::host()] {
        assert_eq!(version, succeed(Command::new("dpkg-deb").arg("--field").arg(package).arg("Version")));
    }
    let depends = succeed(Command::new("dpkg-deb").arg("--field").arg(package::host()).arg("Depends"));
    for part in [format!("wakevirt (= {})", version.trim()), "libc6 (>= ".to_owned(), "libvirt0".to_owned()] {
        assert!(depends.contains(&part), "{part} is not in {depends}");
    }
}
