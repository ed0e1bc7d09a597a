//! The pod of a rendered manifest, as kubelet and a container runtime run it: crun(1) with the settings of the manifest.
//!
//! Each container has the root directory of the image that `scripts/image` builds from the programs of this build. There
//! are no cgroups and no seccomp profile.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON object does not panic")]

mod oci;
mod volumes;

use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::daemon::unique_number;
use crate::host::mounts::{self, Mount};
use crate::host::{Host, built_programs, project, succeed};
use crate::manifests::only;
use crate::process::Process;
use crate::process::lines::Lines;
use crate::process::proc::{self, Status};
use volumes::Volumes;

/// The directory of all files on the host.
const DIRECTORY: &str = "/run/pod";
/// Runs crun(1) without cgroups. It does not support a hybrid hierarchy, so it sees an empty one of version 2.
const CRUN: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec crun --root /run/pod/crun --cgroup-manager=disabled \"$@\"";

/// What a cluster passes to its pods.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The address of the API server.
    pub address: std::net::SocketAddr,
    /// The certificate of its authority, in PEM.
    pub authority: String,
    /// The token of the service account.
    pub token: String,
    /// The content of Secrets, by their names.
    pub secrets: Vec<(String, Vec<(String, String)>)>,
}

/// A pod on a host, until it is dropped.
#[derive(Debug)]
pub struct Pod<'host> {
    host: &'host Host,
    spec: Value,
    volumes: Volumes,
    cluster: Cluster,
    containers: Vec<(String, Process)>,
}

impl<'host> Pod<'host> {
    /// Starts all containers of the only DaemonSet among these objects.
    ///
    /// # Panics
    /// If a container cannot be started.
    #[must_use]
    pub fn start(host: &'host Host, objects: &[Value], cluster: Cluster) -> Self {
        build_image(host);
        let spec = only(objects, "DaemonSet")["spec"]["template"]["spec"].clone();
        let volumes = Volumes::create(host, &spec, objects, &cluster);
        let mut pod = Self { host, spec, volumes, cluster, containers: Vec::new() };
        for name in pod.names() {
            pod.start_container(&name);
        }
        pod
    }

    /// The names of the containers.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let containers = self.spec["containers"].as_array().into_iter().flatten();
        containers.map(|it| it["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// All processes of a container.
    ///
    /// # Panics
    /// If it is not running.
    #[must_use]
    pub fn processes(&self, container: &str) -> Vec<Status> {
        let mut statuses = Vec::new();
        let mut pids = vec![self.init(container)];
        while let Some(pid) = pids.pop() {
            statuses.push(Status::of(pid));
            pids.extend(proc::children(pid));
        }
        statuses
    }

    /// The memory of all processes of a container (`Pss` in smaps_rollup: proc(5)), in bytes.
    ///
    /// # Panics
    /// If it is not running.
    #[must_use]
    pub fn memory(&self, container: &str) -> u64 {
        let mut bytes = 0;
        let mut pids = vec![self.init(container)];
        while let Some(pid) = pids.pop() {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
            let kib: u64 = line.trim_end_matches("kB").trim().parse().expect("a number");
            bytes += kib * 1024;
            pids.extend(proc::children(pid));
        }
        bytes
    }

    /// The mounts of a container.
    ///
    /// # Panics
    /// If it is not running.
    #[must_use]
    pub fn mounts(&self, container: &str) -> Vec<Mount> {
        mounts::of(self.init(container))
    }

    /// The first process of a container, which is a child of crun.
    fn init(&self, name: &str) -> Pid {
        let found = self.containers.iter().find(|(own, _)| own == name);
        let crun = found.unwrap_or_else(|| panic!("there is no container {name}")).1.pid();
        *proc::children(crun).first().unwrap_or_else(|| panic!("{name} is not running"))
    }

    /// Runs a command in a container, as a probe or `kubectl exec` does: with the user and the capabilities of the
    /// container.
    ///
    /// # Panics
    /// If crun cannot be started.
    #[must_use]
    pub fn exec(&self, container: &str, command: &[&str]) -> Output {
        let mut process = self.config(container)["process"].clone();
        process["args"] = command.into();
        let file = format!("{DIRECTORY}/process-{}.json", unique_number());
        self.host.write(&file, &process.to_string());
        crun(self.host).args(["exec", "--process", &file, container]).output().expect("crun runs")
    }

    /// Runs a probe of a container, and returns whether it succeeds, with its output.
    ///
    /// # Panics
    /// If the manifest has no such probe.
    #[must_use]
    pub fn probe(&self, container: &str, probe: &str) -> (bool, String) {
        let command = self.spec(container)[probe]["exec"]["command"].as_array().expect("a command");
        let command: Vec<_> = command.iter().filter_map(Value::as_str).collect();
        let output = self.exec(container, &command);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Sends a signal to the first process of a container, and waits until the container has exited.
    ///
    /// # Panics
    /// If it is not running, or does not exit.
    pub fn stop_container(&mut self, name: &str, signal: Signal) {
        kill(self.init(name), signal).expect("it is running");
        // crun removes the container when its first process has exited.
        for (_, mut process) in self.containers.extract_if(.., |(own, _)| own == name) {
            let _ = process.wait_for_exit();
        }
    }

    /// The output of a container.
    ///
    /// # Panics
    /// If there is no such container.
    #[must_use]
    pub fn log(&self, name: &str) -> &Lines {
        let found = self.containers.iter().find(|(own, _)| own == name);
        found.unwrap_or_else(|| panic!("there is no container {name}")).1.log()
    }

    /// Starts a container again, with these capabilities instead of those in the manifest. It can have exited.
    ///
    /// # Panics
    /// If there is no such container.
    pub fn restart_with(&mut self, name: &str, capabilities: &[&str]) {
        for (_, mut process) in self.containers.extract_if(.., |(own, _)| own == name) {
            if let Some(init) = proc::children(process.pid()).first() {
                // It can exit at this moment.
                let _ = kill(*init, Signal::SIGKILL);
            }
            let _ = process.wait_for_exit();
        }
        let containers = self.spec["containers"].as_array_mut().into_iter().flatten();
        for container in containers.filter(|it| it["name"] == name) {
            container["securityContext"]["capabilities"]["add"] = capabilities.into();
        }
        self.start_container(name);
    }

    /// The part of the manifest about a container.
    ///
    /// # Panics
    /// If there is no such container.
    #[must_use]
    pub fn spec(&self, container: &str) -> &Value {
        let containers = self.spec["containers"].as_array().into_iter().flatten();
        let found = containers.into_iter().find(|it| it["name"] == container);
        found.unwrap_or_else(|| panic!("there is no container {container}"))
    }

    fn config(&self, container: &str) -> Value {
        oci::config(&self.spec, self.spec(container), &self.volumes, &self.cluster)
    }

    /// Starts a container, or starts it again, as kubelet does after a failure. The volumes remain.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_container(&mut self, name: &str) {
        let bundle = format!("{DIRECTORY}/bundles/{name}");
        // The image is read-only, but the runtime creates the targets of mounts.
        self.host.sh(&format!(
            "mkdir -p {bundle}/upper {bundle}/work {bundle}/rootfs
             mountpoint -q {bundle}/rootfs || mount -t overlay overlay {bundle}/rootfs \
                 -o lowerdir={DIRECTORY}/image/rootfs,upperdir={bundle}/upper,workdir={bundle}/work"
        ));
        self.host.write(&format!("{bundle}/config.json"), &self.config(name).to_string());
        let process = Process::start(name, crun(self.host).args(["run", "--bundle", &bundle, name]));
        self.containers.push((name.to_owned(), process));
    }
}

fn crun(host: &Host) -> Command {
    let mut command = host.command("unshare");
    command.args(["--mount", "--cgroup", "sh", "-euc", CRUN, "crun"]);
    command
}

/// Builds the root directory of the image from the programs of this build.
fn build_image(host: &Host) {
    let built = built_programs();
    let (target, profile) = (built.parent().expect("a directory"), built.file_name().expect("a name"));
    let mut image = Command::new(project().join("scripts/image"));
    image.args(["kubernetes", "rootfs"]).env("CARGO_TARGET_DIR", target).env("PROFILE", profile);
    succeed(image.env("IMAGE", host.path(&format!("{DIRECTORY}/image"))));
}
