use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use wakevirt_tests::host::guard;

use super::*;

/// A private bus whose policy allows clients to own only `org.wakevirt.Open1`.
struct Bus {
    daemon: Child,
    address: Address,
    _directory: tempfile::TempDir,
}

impl Bus {
    fn start() -> Option<Self> {
        if !guard::has("dbus-daemon") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bus.conf");
        let socket = directory.path().join("bus").display().to_string();
        let text = format!(
            r#"<busconfig><type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow user="*"/><allow send_type="method_call"/>
            <allow send_type="method_return"/><allow send_type="error"/><allow receive_type="method_return"/>
            <allow receive_type="error"/><allow receive_type="signal"/><deny own="*"/>
            <allow own="org.wakevirt.Open1"/></policy></busconfig>"#
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { daemon, address: address.trim().parse().unwrap(), _directory: directory })
    }

    async fn connect(&self) -> Connection {
        self.address.connect(None).await.unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

#[tokio::test]
async fn owns_a_free_name() {
    let Some(bus) = Bus::start() else { return };
    let connection = bus.connect().await;
    request_name(&connection, "org.wakevirt.Open1").await.unwrap();
    request_name(&connection, "org.wakevirt.Open1").await.unwrap();
    let proxy = DBusProxy::new(&connection).await.unwrap();
    let owner = proxy.get_name_owner("org.wakevirt.Open1".try_into().unwrap()).await.unwrap();
    assert_eq!(Some(owner.as_str()), connection.unique_name().map(|name| name.as_str()));
}

/// Waits until nobody owns a name.
async fn wait_until_free(connection: &zbus::Connection, name: &'static str) {
    let proxy = DBusProxy::new(connection).await.unwrap();
    let mut backoff = Backoff::new();
    let is_free = async {
        while proxy.name_has_owner(name.try_into().unwrap()).await.unwrap() {
            backoff.wait().await;
        }
    };
    tokio::time::timeout(wakevirt_tests::wait::TIMEOUT, is_free).await.unwrap();
}

#[tokio::test]
async fn does_not_wait_for_a_taken_name() {
    let Some(bus) = Bus::start() else { return };
    let (first, second) = (bus.connect().await, bus.connect().await);
    request_name(&first, "org.wakevirt.Open1").await.unwrap();
    assert_eq!(
        request_name(&second, "org.wakevirt.Open1").await.unwrap_err().to_string(),
        format!(
            "the bus name org.wakevirt.Open1 is already owned by process {} of user {}; stop the other instance \
             of the service first",
            std::process::id(),
            nix::unistd::geteuid()
        )
    );
    first.close().await.unwrap();
    wait_until_free(&second, "org.wakevirt.Open1").await;
    request_name(&second, "org.wakevirt.Open1").await.unwrap();
}

#[tokio::test]
async fn disconnecting_releases_the_name() {
    let Some(bus) = Bus::start() else { return };
    let (first, second) = (bus.connect().await, bus.connect().await);
    request_name(&first, "org.wakevirt.Open1").await.unwrap();
    // A handler that is still running has a clone.
    let clone = first.clone();
    disconnect(first, "org.wakevirt.Open1").await;
    // It waits only for a limited time.
    wait_until_free(&second, "org.wakevirt.Open1").await;
    request_name(&second, "org.wakevirt.Open1").await.unwrap();
    assert!(clone.is_closed());
}

#[tokio::test]
async fn the_error_for_a_refused_name_points_to_the_policy() {
    let Some(bus) = Bus::start() else { return };
    let error = request_name(&bus.connect().await, "org.wakevirt.Capture1").await.unwrap_err();
    assert!(matches!(error, BusError::NameRefused { .. }), "{error:?}");
    let error = error.to_string();
    let user = nix::unistd::geteuid();
    assert!(
        error.starts_with(&format!(
            "the bus policy does not allow user {user} to own org.wakevirt.Capture1 ("
        )),
        "{error}"
    );
    assert!(
        error.contains("org.wakevirt.Capture1.conf is missing from /usr/share/dbus-1/system.d"),
        "{error}"
    );
}

#[tokio::test]
async fn other_errors_name_the_cause() {
    let Some(bus) = Bus::start() else { return };
    let error = request_name(&bus.connect().await, "not a name").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot own the bus name not a name: "), "{error}");
    let connection = bus.connect().await;
    drop(bus);
    let error = request_name(&connection, "org.wakevirt.Open1").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot own the bus name org.wakevirt.Open1: "), "{error}");
}

#[test]
fn parses_and_displays_addresses() {
    for text in ["system", "session", "unix:path=/run/dbus/system_bus_socket", "unix:abstract=wakevirt"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    assert_eq!(Address::default(), Address::System);
    for text in
        ["", "System", "/run/dbus/system_bus_socket", "unix:", "tcp:host=localhost", "carrier:pigeon=1"]
    {
        assert_eq!(
            text.parse::<Address>().unwrap_err().to_string(),
            format!(
                "\"{text}\" is not a bus address; write system, session, or an address such as \
                 unix:path=/run/dbus/system_bus_socket"
            )
        );
    }
    assert_eq!(
        "unix:path=/a;unix:path=/b".parse::<Address>().unwrap_err().to_string(),
        "\"unix:path=/a;unix:path=/b\" is a list of addresses; choose one"
    );
}
