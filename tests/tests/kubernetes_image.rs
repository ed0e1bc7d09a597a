//! The container image for packaging/kubernetes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use wakevirt_tests::host::{built_programs, project, succeed};
use wakevirt_tests::privileged;

/// Builds the image from the programs of this build, and returns the archive.
fn build(directory: &Path) -> PathBuf {
    let built = built_programs();
    let mut image = Command::new(project().join("scripts/image"));
    image.env("CARGO_TARGET_DIR", built.parent().unwrap()).env("PROFILE", built.file_name().unwrap());
    succeed(image.env("IMAGE", directory));
    directory.join("wakevirt.tar")
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn image_contains_only_what_the_pod_needs() {
    privileged!();
    let directory = tempfile::tempdir().unwrap();
    let archive = build(directory.path());
    let root = directory.path().join("rootfs");
    let mut programs = Vec::new();
    for path in files(&root) {
        let metadata = path.symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{path:?}");
        assert!(metadata.is_symlink() || metadata.mode() & 0o6022 == 0, "{path:?}: {:o}", metadata.mode());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.contains("virt.so"), "{path:?}");
        if metadata.is_file() && metadata.mode() & 0o111 != 0 && !name.starts_with("ld-linux") {
            programs.push(name);
        }
    }
    programs.sort();
    let expected =
        ["dbus-daemon", "wakevirt-capture", "wakevirt-kubevirt", "wakevirt-sniffer", "wakevirtctl"];
    assert_eq!(programs, expected);
    for program in ["wakevirt-capture", "wakevirt-kubevirt", "wakevirtctl"] {
        let version = succeed(Command::new("chroot").arg(&root).args([program, "--version"]));
        assert_eq!(version.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }

    // The users of the manifests, which the policy of the bus names.
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    let policy = std::fs::read_to_string(root.join("usr/share/wakevirt/bus.conf")).unwrap();
    for (user, id) in [("bus", 10840), ("capture", 10841), ("actor", 10842), ("metrics", 10843)] {
        assert!(passwd.contains(&format!("\nwakevirt-{user}:x:{id}:{id}:")), "{passwd}");
    }
    let users = users_of(&policy);
    assert_eq!(users, ["wakevirt-actor", "wakevirt-capture"]);

    // The same programs result in the same image.
    let again = tempfile::tempdir().unwrap();
    assert_eq!(std::fs::read(&archive).unwrap(), std::fs::read(build(again.path())).unwrap());

    let name = format!("localhost/wakevirt:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(load(&archive, &name), "10843:10843");
    let base =
        std::fs::read_to_string(project().join("packaging/kubernetes/base/kustomization.yaml")).unwrap();
    let (repository, tag) = name.split_once(':').unwrap();
    assert!(base.contains(&format!("newName: {repository}\n    newTag: {tag}\n")), "{base}");
}

/// Loads the archive, and returns the user of the image with this name.
fn load(archive: &Path, name: &str) -> String {
    let storage = tempfile::tempdir().unwrap();
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        let at = |name: &str| storage.path().join(name);
        command
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .args(["--storage-driver", "vfs"]);
        succeed(command.args(arguments))
    };
    podman(&["load", "--input", archive.to_str().unwrap()]);
    podman(&["image", "inspect", "--format", "{{.Config.User}}", name]).trim().to_owned()
}

/// The users that a policy of the bus names, sorted.
fn users_of(policy: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let document = roxmltree::Document::parse_with_options(policy, options).unwrap();
    let policies = document.descendants().filter(|node| node.has_tag_name("policy"));
    let mut users: Vec<_> = policies.filter_map(|node| node.attribute("user")).map(str::to_owned).collect();
    users.sort();
    users
}
