//! The volumes of a pod, with the owners and modes that kubelet sets.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Cluster, DIRECTORY};
use crate::host::Host;

/// The directories of the volumes on the host.
#[derive(Debug)]
pub(super) struct Volumes {
    names: Vec<String>,
}

impl Volumes {
    pub fn create(host: &Host, spec: &Value, objects: &[Value], cluster: &Cluster) -> Self {
        let group = spec["securityContext"]["fsGroup"].as_u64().expect("a group");
        let group = u32::try_from(group).expect("a group ID");
        let volumes = spec["volumes"].as_array().expect("volumes");
        let names = volumes.iter().map(|volume| {
            let name = volume["name"].as_str().expect("a name");
            let path = host.path(&directory(name));
            let directory = Directory { path, group };
            if volume["emptyDir"].is_object() {
                directory.create(0o777);
            } else {
                directory.create_with(&files(volume, objects, cluster));
            }
            name.to_owned()
        });
        Self { names: names.collect() }
    }

    /// The path of a volume on the host, or of a file in it.
    pub fn path(&self, name: &str, file: Option<&str>) -> String {
        assert!(self.names.iter().any(|own| own == name), "there is no volume {name}");
        // kubelet resolves the links.
        file.map_or_else(|| directory(name), |file| format!("{}/..data/{file}", directory(name)))
    }
}

fn directory(name: &str) -> String {
    format!("{DIRECTORY}/volumes/{name}")
}

/// A file: name, content and mode.
type File = (String, String, u32);

fn files(volume: &Value, objects: &[Value], cluster: &Cluster) -> Vec<File> {
    let mode =
        |source: &Value| u32::try_from(source["defaultMode"].as_u64().unwrap_or(0o644)).expect("a mode");
    if let source @ Value::Object(_) = &volume["configMap"] {
        let is_it = |it: &&Value| it["kind"] == "ConfigMap" && it["metadata"]["name"] == source["name"];
        let map = objects.iter().find(is_it).expect("the ConfigMap");
        let data = map["data"].as_object().expect("data").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        data.map(|(name, value)| (name.clone(), text(value), mode(source))).collect()
    } else if let source @ Value::Object(_) = &volume["secret"] {
        let secret = cluster.secrets.iter().find(|(name, _)| source["secretName"] == name.as_str());
        assert!(secret.is_some() || source["optional"] == true, "there is no secret for {volume}");
        let files = secret.into_iter().flat_map(|(_, files)| files);
        files.map(|(name, text)| (name.clone(), text.clone(), mode(source))).collect()
    } else {
        projected(&volume["projected"], cluster)
    }
}

fn projected(source: &Value, cluster: &Cluster) -> Vec<File> {
    let mode = u32::try_from(source["defaultMode"].as_u64().unwrap_or(0o644)).expect("a mode");
    let sources = source["sources"].as_array().expect("sources").iter();
    sources
        .map(|source| {
            let name = |items: &Value| items["path"].as_str().expect("a path").to_owned();
            if let token @ Value::Object(_) = &source["serviceAccountToken"] {
                // With fsGroup, kubelet ignores the mode of the volume.
                (name(token), cluster.token.clone(), 0o600)
            } else if let map @ Value::Object(_) = &source["configMap"] {
                assert_eq!(map["name"], "kube-root-ca.crt");
                (name(&map["items"][0]), cluster.authority.clone(), mode)
            } else {
                let item = &source["downwardAPI"]["items"][0];
                assert_eq!(item["fieldRef"]["fieldPath"], "metadata.namespace");
                (name(item), "wakevirt".to_owned(), mode)
            }
        })
        .collect()
}

/// A directory of a volume. kubelet gives it, and the files, to the pod's group.
struct Directory {
    path: PathBuf,
    group: u32,
}

impl Directory {
    fn create(&self, mode: u32) {
        fs::create_dir_all(&self.path).expect("the volume can be created");
        self.own(&self.path, mode | 0o2000);
    }

    /// Like kubelet's atomic writer: the files are links to a directory that an update replaces.
    fn create_with(&self, files: &[File]) {
        self.create(0o777);
        let data = self.path.join("..2026_01_01");
        fs::create_dir(&data).expect("the directory can be created");
        self.own(&data, 0o2755);
        symlink("..2026_01_01", self.path.join("..data")).expect("the link can be created");
        for (name, text, mode) in files {
            fs::write(data.join(name), text).expect("the file can be written");
            self.own(&data.join(name), mode | 0o440);
            symlink(format!("..data/{name}"), self.path.join(name)).expect("the link can be created");
        }
    }

    fn own(&self, path: &Path, mode: u32) {
        chown(path, Some(0), Some(self.group)).expect("the owner can be changed");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be changed");
    }
}
