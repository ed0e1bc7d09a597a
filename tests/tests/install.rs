//! What `make install` places, what `make uninstall` leaves, and what the package holds.
#![expect(clippy::expect_used, reason = "a test may stop where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wakevirt_tests::debian::package;
use wakevirt_tests::host::{project, succeed};

/// What a host has before wakevirt comes, and what its administrator has written.
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
/// Folders that are empty at first, and stay.
const EMPTY: &[&str] = &["opt", "usr/local/bin", "usr/local/lib", "usr/local/libexec", "usr/local/share/man"];

/// Below which `make install` places things. The first is what it does by itself.
const PREFIXES: [&str; 3] = ["/usr/local", "/usr", "/opt/wakevirt"];

/// A file: its mode, and what is in it. A folder has nothing in it.
type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// All that is in a folder.
fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it is a folder") {
            let path = entry.expect("it can be read").path();
            let metadata = path.symlink_metadata().expect("it is there");
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).expect("it can be read")
            };
            let name = path.strip_prefix(root).expect("it is below").to_owned();
            found.insert(name, (metadata.permissions().mode() & 0o7777, content));
        }
    }
    found
}

/// A root in which nothing is installed yet.
fn root() -> TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for file in BEFORE {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        std::fs::write(&path, file).expect("a file");
    }
    for folder in EMPTY {
        std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
    }
    root
}

/// `make TARGET`, as a packager calls it, with the programs of this build in the place of released ones.
fn make(target: &str, root: &Path, prefix: &str) -> Command {
    let own = std::env::current_exe().expect("a program knows its own file");
    let build = own.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let mut make = Command::new("make");
    make.current_dir(project())
        .args(["--silent", target])
        .arg(format!("DESTDIR={}", root.display()))
        .env("CARGO_TARGET_DIR", build.parent().expect("a build is in target"))
        .env("PROFILE", build.file_name().expect("a build has a name"))
        // Else a `make` that runs this test would hand its own down.
        .env_remove("MAKEFLAGS");
    if prefix != PREFIXES[0] {
        make.arg(format!("PREFIX={prefix}"));
    }
    make
}

/// Where everything comes from, and where it goes.
fn list() -> Vec<(String, PathBuf)> {
    let list = succeed(Command::new(project().join("scripts/install")).arg("list").env("PREFIX", "/usr"));
    let lines = list.lines().map(|line| line.split_once('\t').expect("source and target"));
    lines.map(|(source, target)| (source.to_owned(), target.trim_start_matches('/').into())).collect()
}

#[test]
fn uninstall_removes_all_installed_files() {
    for prefix in PREFIXES {
        let root = root();
        let before = files(root.path());
        succeed(&mut make("install", root.path(), prefix));
        let installed = files(root.path());
        assert!(before.iter().all(|(name, file)| installed.get(name) == Some(file)), "{prefix}");
        let new = installed.keys().filter(|name| !before.contains_key(*name));
        let new = new.filter(|name| !root.path().join(name).is_dir()).count();
        assert_eq!(new, list().len(), "{prefix}: each file of the list is placed, and no two in one place");

        // A second time, as for a new version.
        succeed(&mut make("install", root.path(), prefix));
        assert!(files(root.path()) == installed, "{prefix}");

        succeed(&mut make("uninstall", root.path(), prefix));
        let after = files(root.path());
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "{prefix}");
        assert!(after == before, "{prefix}: what was there has changed");
    }
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
                let program = line.split_once('=').expect("it has one").1.split(' ').next().expect("a word");
                if program != "/bin/false" {
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
        let seen_from_capture = format!("{}/bin/../{sniffer}", &prefix[1..]);
        assert!(root.path().join(seen_from_capture).is_file(), "{prefix}: capture does not find its sniffer");
    }
}

#[test]
fn policies_are_installed_where_dbus_and_polkit_search() {
    let root = root();
    succeed(&mut make("install", root.path(), "/usr/local"));
    let is_below = |folder: &str, end: &str| {
        let all = std::fs::read_dir(root.path().join(folder)).expect("it is a folder");
        all.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.contains("wakevirt") && name.ends_with(end)
        })
    };
    assert!(is_below("etc/dbus-1/system.d", ".conf"));
    assert!(is_below("usr/share/polkit-1/actions", ".policy"));
    assert!(is_below("etc/polkit-1/rules.d", ".rules"));
}

/// The targets of the relative and absolute links in a page, without the headings.
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
            let folder = root.path().join(&name).parent().expect("a page is in a folder").to_owned();
            for link in links(&page) {
                let target = match link.strip_prefix('/') {
                    Some(absolute) => root.path().join(absolute),
                    None => folder.join(link),
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
    let listed: BTreeSet<String> = list().into_iter().map(|(source, _)| source).collect();
    for folder in ["systemd", "dbus", "docs"] {
        for (name, _) in files(&project().join(folder)) {
            let source = Path::new(folder).join(name);
            let is_listed = listed.contains(source.to_str().expect("a name of ours is UTF-8"));
            assert!(
                is_listed || project().join(&source).is_dir(),
                "scripts/install does not know {}",
                source.display()
            );
        }
    }
}

#[test]
fn install_changes_nothing_before_a_build() {
    let (root, nothing) = (root(), tempfile::tempdir().expect("a temporary folder"));
    let before = files(root.path());
    let mut make = make("install", root.path(), "/usr/local");
    let output = make.env("CARGO_TARGET_DIR", nothing.path()).output().expect("make runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("run `make` first, as any user"), "{said}");
    assert!(files(root.path()) == before);
}

#[test]
fn package_contains_the_files_of_make_install() {
    let (root, unpacked) = (root(), tempfile::tempdir().expect("a temporary folder"));
    succeed(&mut make("install", root.path(), "/usr"));
    let package = package::built();
    succeed(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(unpacked.path()));
    let (installed, packaged) = (files(root.path()), files(unpacked.path()));

    let docs = "usr/share/doc/wakevirt";
    // In the one file that Debian wants them in.
    let licences = ["LICENSE-APACHE", "LICENSE-MIT"].map(|name| PathBuf::from(docs).join(name));
    let debians = ["changelog.Debian.gz", "copyright"].map(|name| PathBuf::from(docs).join(name));
    let mut expected: BTreeSet<PathBuf> = list().into_iter().map(|(_, target)| target).collect();
    licences.iter().for_each(|licence| assert!(expected.remove(licence)));
    expected.extend(debians.iter().cloned());
    let is_file = |name: &&PathBuf| unpacked.path().join(name).is_file();
    assert_eq!(packaged.keys().filter(is_file).cloned().collect::<BTreeSet<_>>(), expected);

    for name in expected.iter().filter(|name| !debians.contains(name)) {
        let ((mode, content), (packaged_mode, packaged_content)) = (&installed[name], &packaged[name]);
        assert_eq!(mode, packaged_mode, "{}", name.display());
        // The programs are of another build.
        let same = content.starts_with(b"\x7fELF") || content == packaged_content;
        assert!(same, "{} is another one in the package: run `make deb` again", name.display());
    }
    let owners = succeed(Command::new("dpkg-deb").arg("--contents").arg(&package));
    assert!(owners.lines().all(|line| line.contains(" root/root ") || line.contains(" 0/0 ")), "{owners}");
}

#[test]
fn package_passes_lintian() {
    succeed(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(package::built()));
}

#[test]
fn package_has_the_version_of_the_programs() {
    let field = |name: &str| succeed(Command::new("dpkg-deb").arg("--field").arg(package::built()).arg(name));
    let version = field("Version");
    let (upstream, _) =
        version.trim().rsplit_once('-').unwrap_or_else(|| panic!("{version:?} has no revision"));
    assert_eq!(upstream, env!("CARGO_PKG_VERSION"), "packaging/debian/changelog is of another version");
    for library in ["libc6", "libvirt0"] {
        assert!(field("Depends").contains(library), "{}", field("Depends"));
    }
}
