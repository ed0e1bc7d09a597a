//! A host's system bus, and calls over it.

pub mod flood;
pub mod introspection;
pub mod old_polkitd;
pub mod polkitd;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::journal::Journal;
use crate::host::{Host, User, project};
use crate::process::{Process, proc};
use crate::wait;

/// The socket of the system bus: "Well-known Message Bus Instances" in the D-Bus specification.
const SOCKET: &str = "/run/dbus/system_bus_socket";
const CONFIG: &str = "/run/bus/system.conf";
const POLICIES: &str = "/run/bus/policies";

/// The system bus configuration of distributions, with this project's policy files.
const SYSTEM_CONF: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
    <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="UpdateActivationEnvironment"/>
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  <servicedir>/run/bus/services</servicedir>
  <includedir>/run/bus/policies</includedir>
</busconfig>
"#;

/// The implementation of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The reference implementation, dbus-daemon(1).
    DbusDaemon,
    /// dbus-broker(1), the default of Fedora and Arch.
    DbusBroker,
}

/// The system bus of a host, with the shipped policies.
#[derive(Debug)]
pub struct Bus<'host> {
    host: &'host Host,
    kind: Kind,
    process: Option<Process>,
    _journal: Option<Journal>,
}

impl<'host> Bus<'host> {
    /// Starts the system bus of the host.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(host: &'host Host, kind: Kind) -> Self {
        host.write(CONFIG, SYSTEM_CONF);
        copy_policies(host);
        // dbus-broker does not start without a journal.
        let journal = (kind == Kind::DbusBroker).then(|| Journal::start(host));
        let mut bus = Self { host, kind, process: None, _journal: journal };
        bus.start_again();
        bus
    }

    /// Starts the bus again, at the same address, after [`Self::kill`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        // Remove the old socket, so that a client cannot connect to it.
        let socket = self.host.path(SOCKET);
        std::fs::create_dir_all(socket.parent().expect("a parent directory")).expect("a directory in /run");
        let _ = std::fs::remove_file(&socket);
        let config = format!("--config-file={CONFIG}");
        let mut command = match self.kind {
            Kind::DbusDaemon => {
                let mut command = self.host.command("dbus-daemon");
                command.args([&config, "--nofork", "--nopidfile", "--nosyslog"]);
                command
            }
            // dbus-broker receives its socket from the service manager.
            Kind::DbusBroker => {
                let mut command = self.host.command("systemd-socket-activate");
                command.args([
                    &format!("--listen={SOCKET}"),
                    "dbus-broker-launch",
                    "--scope",
                    "system",
                    &config,
                ]);
                command
            }
        };
        self.process = Some(Process::start("the bus", &mut command));
        wait::until_true("the bus's socket", || socket.exists());
        std::fs::set_permissions(&socket, Permissions::from_mode(0o666))
            .expect("the mode of the bus's socket");
        wait::until_true("the bus to listen", || self.listens());
    }

    /// Kills the bus. All connections to it are lost.
    pub fn kill(&mut self) {
        self.process = None;
        // dbus-broker consists of two processes. The second one exits after the first.
        wait::until_true("the bus to exit", || !self.listens());
    }

    /// Sends a signal to dbus-daemon.
    pub fn signal(&self, signal: Signal) {
        self.process.iter().for_each(|process| process.signal(signal));
    }

    /// The CPU time of the bus since its start.
    ///
    /// # Panics
    /// If it is not running.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let pid = self.process.as_ref().expect("the bus is running").pid();
        proc::tree(pid).into_iter().map(proc::cpu_time).sum()
    }

    /// The bus's log since its start.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(|process| process.log().all()).unwrap_or_default()
    }

    /// The address of the bus for this process.
    #[must_use]
    pub fn address(&self) -> String {
        address(self.host)
    }

    /// Connects to the bus as root.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn connect(&self) -> zbus::Connection {
        let builder = zbus::connection::Builder::address(self.address().as_str());
        builder.build().await.expect("a connection to the bus")
    }

    fn listens(&self) -> bool {
        UnixStream::connect(self.host.path(SOCKET)).is_ok()
    }
}

/// The address of the host's system bus for this process.
#[must_use]
pub fn address(host: &Host) -> String {
    format!("unix:path={}", host.path(SOCKET).display())
}

fn copy_policies(host: &Host) {
    std::fs::create_dir_all(host.path(POLICIES)).expect("a directory in /run");
    let directory = project().join("dbus");
    let files = std::fs::read_dir(&directory).expect("the dbus directory").flatten().map(|file| file.path());
    for policy in files.filter(|file| file.extension().is_some_and(|extension| extension == "conf")) {
        let name = policy.file_name().unwrap_or_default();
        std::fs::copy(&policy, host.path(POLICIES).join(Path::new(name))).expect("a copy of the policy");
    }
}

/// The timeout of a call, in seconds. During a flood, the bus can deliver a call late.
const CALL_TIMEOUT: &str = "120";

/// The error reply to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The name of the error, such as `org.freedesktop.DBus.Error.AccessDenied`.
    pub name: String,
    /// The message of the error.
    pub message: String,
}

impl Host {
    /// Calls a method of one of this project's services as this user. The interface has the same name as the service.
    /// Arguments and reply are in GVariant's text format.
    ///
    /// # Errors
    /// The error reply.
    ///
    /// # Panics
    /// If the call cannot be sent.
    pub fn call(
        &self,
        user: User,
        interface: &str,
        method: &str,
        arguments: &[&str],
    ) -> Result<String, CallError> {
        self.call_object(user, interface, &format!("{interface}.{method}"), arguments)
    }

    /// Reads a property of one of this project's services as this user.
    ///
    /// # Errors
    /// The error reply.
    pub fn property(&self, user: User, interface: &str, property: &str) -> Result<String, CallError> {
        let quoted = [format!("'{interface}'"), format!("'{property}'")];
        self.call_object(user, interface, "org.freedesktop.DBus.Properties.Get", &[&quoted[0], &quoted[1]])
    }

    /// Reads a numeric property of one of this project's services.
    ///
    /// # Panics
    /// If the property cannot be read, or is not a number.
    #[must_use]
    pub fn counter(&self, interface: &str, property: &str) -> u64 {
        let reply = self.property(User::Unprivileged, interface, property).expect("a property");
        let number = reply.trim_end_matches(">,)").rsplit(' ').next().and_then(|text| text.parse().ok());
        number.unwrap_or_else(|| panic!("{property} is {reply}, not a number"))
    }

    /// Calls a method of the object that the service with this name provides: `/org/example/A1` for `org.example.A1`.
    ///
    /// # Errors
    /// The error reply.
    ///
    /// # Panics
    /// If the call cannot be sent.
    pub fn call_object(
        &self,
        user: User,
        service: &str,
        method: &str,
        arguments: &[&str],
    ) -> Result<String, CallError> {
        let object = format!("/{}", service.replace('.', "/"));
        let mut command = self.command_as(user, "gdbus");
        command.args([
            "call",
            "--system",
            "--timeout",
            CALL_TIMEOUT,
            "--dest",
            service,
            "--object-path",
            &object,
            "--method",
            method,
        ]);
        let output = command.arg("--").args(arguments).output().expect("gdbus runs");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let error = stderr.lines().find_map(|line| line.split_once("GDBus.Error:")?.1.split_once(": "));
        let (name, message) = error.unwrap_or_else(|| panic!("{command:?} failed:\n{stderr}"));
        Err(CallError { name: name.to_owned(), message: message.to_owned() })
    }

    /// Whether this name has an owner on the bus.
    ///
    /// # Panics
    /// If the bus does not reply.
    #[must_use]
    pub fn name_is_owned(&self, name: &str) -> bool {
        let quoted = format!("'{name}'");
        let bus = "org.freedesktop.DBus";
        self.call(User::Root, bus, "NameHasOwner", &[&quoted]).expect("the bus replies").contains("true")
    }

    /// Waits until this name has an owner on the bus.
    ///
    /// # Panics
    /// If it has none within the timeout.
    pub fn wait_for_name(&self, name: &str) {
        wait::until_true(&format!("{name} on the bus"), || self.name_is_owned(name));
    }

    /// Subscribes to the signals of the service with this name as this user. Each signal is a line in the log.
    ///
    /// # Panics
    /// If the subscription fails.
    #[must_use]
    pub fn monitor(&self, user: User, service: &str) -> Process {
        let mut command = self.command_as(user, "gdbus");
        let monitor = Process::start("gdbus", command.args(["monitor", "--system", "--dest", service]));
        // gdbus prints this after it has subscribed.
        let _ = monitor.log().wait_for(&format!("The name {service}"));
        monitor
    }
}
