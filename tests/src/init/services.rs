//! The services of a [`System`]: wakevirt's own, and those that it uses.
//!
//! `dbus`, `libvirtd` and `syslog` are available with every init system.

use super::{Init, System};
use crate::host::succeed;

/// rsyslog without the kernel's log, which belongs to the machine.
const RSYSLOG_CONF: &str = "module(load=\"imuxsock\")\n*.* /var/log/syslog\n";

/// Debian has no definition of rsyslog for OpenRC.
const OPENRC_SYSLOG: &str = r#"#!/sbin/openrc-run
supervisor=supervise-daemon
command=/usr/sbin/rsyslogd
command_args_foreground=-n
pidfile=/run/rsyslogd.supervisor.pid
depend() { provide logger; }
"#;

/// Service directories for runit(8). `down` keeps the service down until it is started or enabled.
const RUNIT: &str = r#"
cd /etc/sv
mkdir -p dbus libvirtd
printf '#!/bin/sh\nmkdir -p /run/dbus\nexec dbus-daemon --system --nofork --nopidfile\n' >dbus/run
printf '#!/bin/sh\nexec libvirtd\n' >libvirtd/run
chmod 755 dbus/run libvirtd/run
for service in dbus libvirtd wakevirt-actor wakevirt-capture wakevirt-host; do
    touch $service/down
    ln -s /etc/sv/$service /etc/runit/runsvdir/default/
done
"#;

/// A scan directory for s6-svscan. It contains copies of the service directories that `make install` installs.
const S6: &str = r#"
mkdir -p /etc/s6/service
cp -a /etc/s6/sv/wakevirt-* /etc/s6/service/
cd /etc/s6/service
mkdir dbus libvirtd
printf '#!/bin/sh\nmkdir -p /run/dbus\nexec dbus-daemon --system --nofork --nopidfile\n' >dbus/run
printf '#!/bin/sh\nexec libvirtd\n' >libvirtd/run
chmod 755 dbus/run libvirtd/run
for service in *; do
    touch $service/down
done
"#;

/// Shepherd's configuration. Shepherd loads wakevirt's file.
const SHEPHERD: &str = r#"(use-modules (shepherd service))
(define (daemon name . command)
  (service (list name)
           #:start (make-forkexec-constructor command)
           #:stop (make-kill-destructor)
           #:respawn? #t))
(register-services
 (list (daemon 'dbus "/bin/sh" "-c" "mkdir -p /run/dbus; exec dbus-daemon --system --nofork --nopidfile")
       (daemon 'libvirtd "/usr/sbin/libvirtd")))
(load "/usr/share/wakevirt/wakevirt.scm")
"#;

/// Shell commands. `$1` is the name of the service.
struct Commands {
    /// Starts the service at every boot from now on.
    enable: &'static str,
    /// Starts the service now.
    start: &'static str,
    /// Stops the service, and waits until it has stopped.
    stop: &'static str,
    /// Makes the service read its configuration again.
    reload: &'static str,
    /// Succeeds if the service is down, and the init system does not start it again.
    is_down: &'static str,
}

impl Init {
    const fn commands(self) -> Commands {
        match self {
            Self::OpenRc => Commands {
                enable: "rc-update add $1 default",
                start: "rc-service $1 start",
                stop: "rc-service $1 stop",
                reload: "rc-service $1 reload",
                is_down: "! rc-service $1 status",
            },
            Self::Runit => Commands {
                enable: "rm /etc/sv/$1/down",
                start: "sv -w 20 start $1",
                stop: "sv -w 20 stop $1",
                reload: "sv hup $1",
                is_down: "sv status $1 | grep ^down | grep --invert-match 'want up'",
            },
            Self::S6 => Commands {
                enable: "rm /etc/s6/service/$1/down",
                start: "s6-svc -uwu -T 20000 /etc/s6/service/$1",
                stop: "s6-svc -dwD -T 20000 /etc/s6/service/$1",
                reload: "s6-svc -h /etc/s6/service/$1",
                is_down: "[ \"$(s6-svstat -o up,wantedup /etc/s6/service/$1)\" = 'false false' ]",
            },
            Self::Shepherd => Commands {
                enable: "echo \"(start-in-the-background '($1))\" >>/etc/shepherd.scm",
                start: "herd start $1",
                stop: "herd stop $1",
                reload: "herd reload $1",
                is_down: "! herd status $1 | grep -i running",
            },
        }
    }

    /// Whether the command that reloads a service fails if the configuration is invalid.
    #[must_use]
    pub fn checks_reload(self) -> bool {
        self == Self::OpenRc
    }

    /// The program of the processes that start and watch a service as root. `None` if the first process does.
    #[must_use]
    pub const fn supervisor(self) -> Option<&'static str> {
        match self {
            Self::OpenRc => Some("supervise-daemon"),
            Self::Runit => Some("runsv"),
            Self::S6 => Some("s6-supervise"),
            Self::Shepherd => None,
        }
    }
}

impl System<'_> {
    /// Defines the services that Debian does not define for this init system. Call it after [`Self::install`], before
    /// the system is booted.
    ///
    /// # Panics
    /// If a step fails.
    pub fn define_services(&self) {
        self.write("/etc/rsyslog.conf", RSYSLOG_CONF);
        match self.init() {
            Init::OpenRc => self.write_executable("/etc/init.d/syslog", OPENRC_SYSLOG),
            Init::Runit => {
                succeed(self.chroot("sh").args(["-euc", RUNIT]));
            }
            Init::S6 => {
                succeed(self.chroot("sh").args(["-euc", S6]));
            }
            Init::Shepherd => self.write("/etc/shepherd.scm", SHEPHERD),
        }
    }

    /// Makes a service start at every boot from now on. The system can be booted or not.
    ///
    /// # Panics
    /// If the command fails.
    pub fn enable(&self, service: &str) {
        let mut command = if self.pid.is_some() { self.command("sh") } else { self.chroot("sh") };
        succeed(command.args(["-euc", self.init().commands().enable, "enable", service]));
    }

    /// Starts a service now.
    ///
    /// # Panics
    /// If the command fails.
    pub fn start(&self, service: &str) {
        self.control(self.init().commands().start, service);
    }

    /// Stops a service, and waits until it has stopped.
    ///
    /// # Panics
    /// If the command fails.
    pub fn stop(&self, service: &str) {
        self.control(self.init().commands().stop, service);
    }

    /// Makes a service read its configuration again. Returns whether the command succeeds.
    #[must_use]
    pub fn reload(&self, service: &str) -> bool {
        self.succeeds(&format!("set -- {service}; {}", self.init().commands().reload))
    }

    /// Whether a service is down, and the init system does not start it again.
    #[must_use]
    pub fn is_down(&self, service: &str) -> bool {
        self.succeeds(&format!("set -- {service}; {}", self.init().commands().is_down))
    }

    fn control(&self, line: &str, service: &str) {
        self.sh(&format!("set -- {service}; {line}"));
    }

    /// The log of one of wakevirt's services since the first boot.
    #[must_use]
    pub fn log_of(&self, service: &str) -> String {
        match self.init() {
            Init::OpenRc => {
                let all = self.read("/var/log/syslog");
                let program = format!(" {service}[");
                all.lines().filter(|line| line.contains(&program)).collect::<Vec<_>>().join("\n")
            }
            Init::Runit | Init::S6 => self.read(&format!("/var/log/{service}/current")),
            Init::Shepherd => self.read(&format!("/var/log/{service}.log")),
        }
    }
}
