use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal as Number, raise};

use super::*;
use crate::testing;

#[tokio::test]
async fn signals_are_told_apart() {
    let mut signals = Signals::new().unwrap();
    for (number, signal) in
        [(Number::SIGHUP, Signal::Reload), (Number::SIGTERM, Signal::Stop), (Number::SIGINT, Signal::Stop)]
    {
        raise(number).unwrap();
        assert_eq!(signals.next().await, signal, "{number}");
    }
    raise(Number::SIGHUP).unwrap();
    raise(Number::SIGTERM).unwrap();
    // Both must have been delivered before the question which goes first.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(signals.next().await, Signal::Stop);
    assert_eq!(signals.next().await, Signal::Reload);
}

#[test]
#[ignore = "the second process of another test"]
fn second_notifies() {
    if testing::is_second() {
        ready("hears on 2 interfaces\nMAINPID=1");
        status("hears on br0");
        stopping();
    }
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = testing::second(&[], "lifecycle::tests::second_notifies");
    command.env("NOTIFY_SOCKET", &path);
    testing::run(command);
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    for message in
        ["READY=1\nSTATUS=hears on 2 interfaces MAINPID=1\n", "STATUS=hears on br0\n", "STOPPING=1\n"]
    {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(str::from_utf8(&buffer[..length]).unwrap(), message);
    }
}

#[test]
fn without_a_service_manager_nothing_happens() {
    let mut command = testing::second(&[], "lifecycle::tests::second_notifies");
    command.env_remove("NOTIFY_SOCKET");
    testing::run(command);
    let mut command = testing::second(&[], "lifecycle::tests::second_notifies");
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    testing::run(command);
}
