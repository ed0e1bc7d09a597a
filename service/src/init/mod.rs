//! The init system of this host, and its commands for services, for advice to users. Nothing here runs a program.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The maximum number of bytes that are read from a file in `/proc`.
const MAX: u64 = 4096;

/// How the names of a user's own services begin. They do not log to syslog.
const SESSION: &str = "wakevirt-session.";

/// What starts and supervises the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Systemd,
    OpenRc,
    Runit,
    S6,
    Shepherd,
    /// For example the runtime of a container.
    Unknown,
}

/// The init system of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    kind: Kind,
    root: PathBuf,
}

impl Init {
    /// The init system that is running.
    #[must_use]
    pub fn running() -> Self {
        Self::below(Path::new("/"))
    }

    /// systemd, for tests of advice.
    #[must_use]
    pub fn systemd() -> Self {
        Self { kind: Kind::Systemd, root: PathBuf::from("/") }
    }

    /// Finds the init system from the files in this root directory.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let exists = |path: &str| root.join(path).is_dir();
        let kind = if exists("run/systemd/system") {
            // sd_booted(3).
            Kind::Systemd
        } else if exists("run/openrc") {
            Kind::OpenRc
        } else {
            match read(root, "proc/1/comm").trim_end() {
                "runit" => Kind::Runit,
                "s6-svscan" => Kind::S6,
                "shepherd" => Kind::Shepherd,
                _ => Kind::Unknown,
            }
        };
        Self { kind, root: root.to_owned() }
    }

    /// Its name. `None` if it is unknown.
    #[must_use]
    pub const fn name(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Systemd => Some("systemd"),
            Kind::OpenRc => Some("OpenRC"),
            Kind::Runit => Some("runit"),
            Kind::S6 => Some("s6"),
            Kind::Shepherd => Some("Shepherd"),
            Kind::Unknown => None,
        }
    }

    /// Whether it is systemd.
    #[must_use]
    pub fn is_systemd(&self) -> bool {
        self.kind == Kind::Systemd
    }

    /// Whether each service has a definition of its own that [`Self::defines`] can find.
    #[must_use]
    pub fn has_definitions(&self) -> bool {
        matches!(self.kind, Kind::OpenRc | Kind::Runit | Kind::S6)
    }

    /// Whether a service is defined. Always `false` without [`Self::has_definitions`].
    #[must_use]
    pub fn defines(&self, service: &str) -> bool {
        let exists = |directory: &str| self.root.join(directory).join(service).exists();
        match self.kind {
            Kind::OpenRc => exists("etc/init.d"),
            Kind::Runit => exists("etc/sv"),
            Kind::S6 => exists("etc/s6/sv") || exists(self.scan_directory().trim_start_matches('/')),
            Kind::Systemd | Kind::Shepherd | Kind::Unknown => false,
        }
    }

    /// The command that starts a service. `None` if the init system is unknown, as for the other commands.
    #[must_use]
    pub fn start(&self, service: &str) -> Option<String> {
        self.control(service, ["systemctl start", "start", "start", "-u", "start"])
    }

    /// The command that restarts a service.
    #[must_use]
    pub fn restart(&self, service: &str) -> Option<String> {
        self.control(service, ["systemctl restart", "restart", "restart", "-r", "restart"])
    }

    /// The command that makes a service read its configuration again. With systemd, it starts a service that is not
    /// running.
    #[must_use]
    pub fn reload(&self, service: &str) -> Option<String> {
        self.control(service, ["systemctl reload-or-restart", "reload", "hup", "-h", "reload"])
    }

    /// The command that shows the state of a service.
    #[must_use]
    pub fn status(&self, service: &str) -> Option<String> {
        if self.kind == Kind::S6 {
            return Some(format!("s6-svstat {}/{service}", self.scan_directory()));
        }
        self.control(service, ["systemctl status", "status", "status", "", "status"])
    }

    /// The command that starts a service now and at each boot. With Shepherd, only its configuration file starts services
    /// at boot.
    #[must_use]
    pub fn enable(&self, service: &str) -> Option<String> {
        match self.kind {
            Kind::Systemd => Some(format!("systemctl enable --now {service}")),
            Kind::OpenRc => Some(format!("rc-update add {service} default && rc-service {service} start")),
            Kind::Runit => {
                let enabled = self.enabled_directory();
                if self.root.join(enabled).join(service).exists() {
                    return self.start(service);
                }
                Some(format!("ln -s /etc/sv/{service} /{enabled}/"))
            }
            Kind::S6 => {
                let scan = self.scan_directory();
                if self.root.join(scan.trim_start_matches('/')).join(service).exists() {
                    return self.start(service);
                }
                Some(format!("cp -R /etc/s6/sv/{service} {scan}/ && s6-svscanctl -a {scan}"))
            }
            Kind::Shepherd | Kind::Unknown => self.start(service),
        }
    }

    /// Where a service of wakevirt logs: a command or a file. `None` if it is unknown.
    #[must_use]
    pub fn log(&self, service: &str) -> Option<String> {
        match self.kind {
            Kind::Systemd => Some(format!("journalctl -u {service}")),
            Kind::OpenRc if service.starts_with(SESSION) => Some(format!("/var/log/{service}.log")),
            Kind::OpenRc => Some(format!("syslog or /var/log/{service}.log")),
            Kind::Runit | Kind::S6 => Some(format!("/var/log/{service}/current")),
            Kind::Shepherd => Some(format!("/var/log/{service}.log")),
            Kind::Unknown => None,
        }
    }

    /// A command with the words of systemd, OpenRC, runit, s6 and Shepherd.
    fn control(&self, service: &str, words: [&str; 5]) -> Option<String> {
        let [systemd, openrc, runit, s6, shepherd] = words;
        match self.kind {
            Kind::Systemd => Some(format!("{systemd} {service}")),
            Kind::OpenRc => Some(format!("rc-service {service} {openrc}")),
            Kind::Runit => Some(format!("sv {runit} {service}")),
            Kind::S6 => Some(format!("s6-svc {s6} {}/{service}", self.scan_directory())),
            Kind::Shepherd => Some(format!("herd {shepherd} {service}")),
            Kind::Unknown => None,
        }
    }

    /// The directory whose links enable runit's services, relative to the root directory. Void Linux has the second one.
    fn enabled_directory(&self) -> &'static str {
        let directories = ["etc/service", "var/service"];
        directories.into_iter().find(|it| self.root.join(it).is_dir()).unwrap_or("etc/service")
    }

    /// The scan directory of s6: the last argument of s6-svscan.
    fn scan_directory(&self) -> String {
        let line = read(&self.root, "proc/1/cmdline");
        let is_plain =
            |it: &&str| it.starts_with('/') && !it.contains(|c: char| c.is_whitespace() || c.is_control());
        let last = line.trim_end_matches('\0').rsplit('\0').next().filter(is_plain);
        last.unwrap_or("/run/service").to_owned()
    }
}

/// The start of a file. Empty if it cannot be read.
fn read(root: &Path, path: &str) -> String {
    let mut text = String::new();
    let _ = File::open(root.join(path)).and_then(|file| file.take(MAX).read_to_string(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTOR: &str = "wakevirt-actor";

    /// A root directory with these directories, in which the first process has this command line.
    fn root(directories: &[&str], arguments: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in directories.iter().chain(&["proc/1"]) {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let program = arguments[0].rsplit('/').next().unwrap();
        std::fs::write(root.path().join("proc/1/comm"), format!("{program}\n")).unwrap();
        std::fs::write(root.path().join("proc/1/cmdline"), arguments.join("\0") + "\0").unwrap();
        root
    }

    /// Directories, the first process, the name of the init system, and its commands that enable, reload and show a service,
    /// with the service's log.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a str, &'a str, &'a str, &'a str, &'a str);

    const CASES: [Case<'_>; 7] = [
        (
            &["run/systemd/system", "run/openrc"],
            &["/sbin/init"],
            "systemd",
            "systemctl enable --now wakevirt-actor",
            "systemctl reload-or-restart wakevirt-actor",
            "systemctl status wakevirt-actor",
            "journalctl -u wakevirt-actor",
        ),
        (
            &["run/openrc"],
            &["init"],
            "OpenRC",
            "rc-update add wakevirt-actor default && rc-service wakevirt-actor start",
            "rc-service wakevirt-actor reload",
            "rc-service wakevirt-actor status",
            "syslog or /var/log/wakevirt-actor.log",
        ),
        (
            &["etc/service"],
            &["runit"],
            "runit",
            "ln -s /etc/sv/wakevirt-actor /etc/service/",
            "sv hup wakevirt-actor",
            "sv status wakevirt-actor",
            "/var/log/wakevirt-actor/current",
        ),
        (
            &["var/service/wakevirt-actor"],
            &["/usr/bin/runit"],
            "runit",
            "sv start wakevirt-actor",
            "sv hup wakevirt-actor",
            "sv status wakevirt-actor",
            "/var/log/wakevirt-actor/current",
        ),
        (
            &[],
            &["s6-svscan"],
            "s6",
            "cp -R /etc/s6/sv/wakevirt-actor /run/service/ && s6-svscanctl -a /run/service",
            "s6-svc -h /run/service/wakevirt-actor",
            "s6-svstat /run/service/wakevirt-actor",
            "/var/log/wakevirt-actor/current",
        ),
        (
            &["srv/s6/wakevirt-actor"],
            &["/bin/s6-svscan", "-d4", "--", "/srv/s6"],
            "s6",
            "s6-svc -u /srv/s6/wakevirt-actor",
            "s6-svc -h /srv/s6/wakevirt-actor",
            "s6-svstat /srv/s6/wakevirt-actor",
            "/var/log/wakevirt-actor/current",
        ),
        (
            &[],
            &["/usr/bin/shepherd", "--config=/etc/shepherd.scm"],
            "Shepherd",
            "herd start wakevirt-actor",
            "herd reload wakevirt-actor",
            "herd status wakevirt-actor",
            "/var/log/wakevirt-actor.log",
        ),
    ];

    #[test]
    fn names_the_commands_of_each_init_system() {
        for (directories, arguments, name, enable, reload, status, log) in CASES {
            let root = root(directories, arguments);
            let init = Init::below(root.path());
            assert_eq!(init.name(), Some(name));
            let commands = [init.enable(ACTOR), init.reload(ACTOR), init.status(ACTOR), init.log(ACTOR)];
            assert_eq!(commands, [enable, reload, status, log].map(|it| Some(it.to_owned())));
        }
    }

    #[test]
    fn names_no_command_of_an_unknown_init_system() {
        let root = root(&["run/systemd", "etc/init.d", "etc/sv"], &["/usr/bin/tini", "--", "wakevirt-actor"]);
        let init = Init::below(root.path());
        assert_eq!((init.name(), init.enable(ACTOR), init.log(ACTOR)), (None, None, None));
        let nothing = Init::below(Path::new("/nonexistent"));
        assert_eq!((nothing.name(), nothing.restart(ACTOR), nothing.defines(ACTOR)), (None, None, false));
    }

    #[test]
    fn finds_the_services_of_others() {
        let root = root(&["run/openrc", "etc/init.d"], &["init"]);
        let init = Init::below(root.path());
        assert!(!init.defines("libvirtd"));
        std::fs::write(root.path().join("etc/init.d/libvirtd"), "").unwrap();
        assert!(init.defines("libvirtd"));
        assert_eq!(init.start("libvirtd").as_deref(), Some("rc-service libvirtd start"));
    }
}
