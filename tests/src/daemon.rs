//! wakevirt's services on a host.

use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::host::{Host, PROGRAMS, User};
use crate::process::Process;
use crate::process::lines::Lines;
use crate::wait::{self, TIMEOUT};

/// Who starts a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedBy {
    /// Root, as other service managers do: the service changes to its own user by itself.
    Root,
    /// A service manager that does what the units ask systemd for: the service's user, and what
    /// capabilities it needs as ambient ones.
    Manager,
    /// Somebody without any right: the service's user, no capability.
    Unprivileged,
}

/// A service that is to start.
#[derive(Debug)]
pub struct Starter<'host> {
    host: &'host Host,
    name: &'static str,
    user: User,
    started_by: StartedBy,
    restricted: bool,
    config: String,
    file: String,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    namespace: Option<String>,
}

impl<'host> Starter<'host> {
    /// What its configuration file holds; nothing, unless said otherwise.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// Further options of the command line.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Who starts it: [`StartedBy::Manager`], unless said otherwise.
    #[must_use]
    pub fn started_by(mut self, started_by: StartedBy) -> Self {
        self.started_by = started_by;
        self
    }

    /// Takes the group libvirt away from the actor, as the shipped drop-in for its unit does.
    #[must_use]
    pub fn restricted(mut self) -> Self {
        self.restricted = true;
        self
    }

    /// Lets it run in a network namespace of the host (ip-netns(8)) instead of the host's own.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Starts it. Whether it is ready shows later.
    ///
    /// # Panics
    /// If it does not run at all.
    #[must_use]
    pub fn start(self) -> Daemon {
        self.start_watched(|_| ())
    }

    /// As [`Self::start`], and each line of its log is shown as it comes.
    ///
    /// # Panics
    /// If it does not run at all.
    #[must_use]
    pub fn start_watched(self, show: impl FnMut(&str) + Send + 'static) -> Daemon {
        let notices = Notices::open(self.host);
        let mut command = self.command();
        command.env("NOTIFY_SOCKET", &notices.path);
        let process = Process::start_watched(self.name, &mut command, show);
        Daemon { process, notices, file: self.file }
    }

    /// The command line, ready to run. Nothing waits for its readiness.
    #[must_use]
    pub fn command(&self) -> Command {
        self.host.write(&self.file, &self.config);
        let mut environment = self.environment.clone();
        if (self.user, self.started_by) == (User::Actor, StartedBy::Manager) {
            // systemd.exec(5), RuntimeDirectory=, which outlives the service here.
            let (user, folder) = (self.user.name(), format!("/run/{}", self.name));
            self.host.sh(&format!("install -d -o {user} -g {user} {folder}"));
            environment.push(("RUNTIME_DIRECTORY".to_owned(), folder));
        }
        let mut line = vec![];
        if let Some(namespace) = &self.namespace {
            line.extend(["ip", "netns", "exec", namespace]);
        }
        let user = self.user.name();
        if self.started_by != StartedBy::Root {
            // systemd.exec(5), SupplementaryGroups=.
            let groups = match (self.user, self.restricted) {
                (User::Actor, false) => "--groups=wakevirt-actor,libvirt",
                _ => "--init-groups",
            };
            line.extend(["setpriv", "--reuid", user, "--regid", user, groups, "--no-new-privs"]);
            line.extend(match (self.user, self.started_by) {
                (User::Capture, StartedBy::Manager) => {
                    ["--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw"]
                        .as_slice()
                }
                _ => ["--bounding-set=-all"].as_slice(),
            });
            line.push("--");
        }
        let program = format!("{PROGRAMS}/{}", self.name);
        line.extend([program.as_str(), "--config", &self.file, "--log-to", "stderr"]);
        line.extend(self.options.iter().map(String::as_str));
        // There is always a first part, the program.
        let (first, rest) = line.split_first().unwrap_or((&"false", &[]));
        let mut command = self.host.command(first);
        command.args(rest).envs(environment);
        command
    }
}

/// A service that runs. It is also its [`Process`].
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    notices: Notices,
    file: String,
}

impl Daemon {
    /// The capture service, `wakevirt-capture`.
    #[must_use]
    pub fn capture(host: &Host) -> Starter<'_> {
        Self::service(host, "wakevirt-capture", User::Capture)
    }

    /// The actor service, `wakevirt-actor`.
    #[must_use]
    pub fn actor(host: &Host) -> Starter<'_> {
        Self::service(host, "wakevirt-actor", User::Actor)
    }

    fn service<'host>(host: &'host Host, name: &'static str, user: User) -> Starter<'host> {
        Starter {
            host,
            name,
            user,
            started_by: StartedBy::Manager,
            restricted: false,
            config: String::new(),
            file: format!("/etc/wakevirt/{name}-test-{}.toml", number()),
            options: Vec::new(),
            environment: Vec::new(),
            namespace: None,
        }
    }

    /// Waits until it has told the service manager that it is ready: sd_notify(3).
    ///
    /// # Panics
    /// If it ends or does not get ready; its log is shown.
    pub fn wait_until_ready(&mut self) {
        let ready = wait::within(TIMEOUT, || {
            if self.notices.lines.count("READY=1") > 0 {
                Some(true)
            } else {
                self.exit_status().map(|_| false)
            }
        });
        assert!(ready == Some(true), "it is not ready:\n{}", self.log().all().join("\n"));
    }

    /// Its configuration file on the host.
    #[must_use]
    pub fn config_file(&self) -> &str {
        &self.file
    }

    /// What it told the service manager: `READY=1`, `STATUS=…`, a line for each.
    #[must_use]
    pub fn notifications(&self) -> &Lines {
        &self.notices.lines
    }
}

impl Deref for Daemon {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The service manager's end of sd_notify(3).
#[derive(Debug)]
struct Notices {
    /// The socket's path on the host.
    path: String,
    lines: Lines,
}

impl Notices {
    fn open(host: &Host) -> Self {
        let path = format!("/run/notify-{}", number());
        let socket = UnixDatagram::bind(host.path(&path)).expect("a socket in /run");
        std::fs::set_permissions(host.path(&path), std::fs::Permissions::from_mode(0o666)).expect("its mode");
        // Its thread looks now and then whether anybody is left who could send or read.
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let lines = Lines::default();
        let (writer, file) = (lines.clone(), host.path(&path));
        std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            while file.exists() {
                if let Ok(length) = socket.recv(&mut datagram) {
                    let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default());
                    text.lines().for_each(|line| writer.push(line.to_owned()));
                }
            }
        });
        Self { path, lines }
    }
}

/// A number that is new each time.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
