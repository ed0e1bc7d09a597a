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
        set_warning(Warning::Reload, "the last reload failed:\nx");
        status("hears on br0");
        set_warning(Warning::Capture, "no capture");
        set_warning(Warning::Reload, &"y".repeat(5000));
        clear_warning(Warning::Capture);
        clear_warning(Warning::Capture);
        clear_warning(Warning::Reload);
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
    let mut buffer = [0; 4096];
    for message in [
        "READY=1\nSTATUS=hears on 2 interfaces MAINPID=1\n",
        "STATUS=hears on 2 interfaces MAINPID=1; the last reload failed: x\n",
        "STATUS=hears on br0; the last reload failed: x\n",
        "STATUS=hears on br0; the last reload failed: x; no capture\n",
        &format!("STATUS=hears on br0; no capture; {}\n", "y".repeat(1000)),
        &format!("STATUS=hears on br0; {}\n", "y".repeat(1000)),
        "STATUS=hears on br0\n",
        "STOPPING=1\n",
    ] {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(str::from_utf8(&buffer[..length]).unwrap(), message);
    }
}

#[test]
#[ignore = "the second process of another test"]
fn second_gives_signs_of_life() {
    if testing::is_second() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watchdog = Watchdog::from_env();
            assert!(watchdog.is_enabled());
            for _ in 0..2 {
                watchdog.due().await;
                watchdog.notify();
            }
        });
    }
}

#[test]
fn signs_of_life_are_given_where_they_are_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = testing::second(&[], "lifecycle::tests::second_gives_signs_of_life");
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000");
    testing::run(command);
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    for _ in 0..2 {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(str::from_utf8(&buffer[..length]).unwrap(), "WATCHDOG=1\n");
    }
    assert!(socket.recv(&mut buffer).is_err(), "one sign for each time");
    assert!(!Watchdog::from_env().is_enabled(), "nobody waits for this process");
}

#[test]
#[ignore = "the second process of another test"]
fn second_fails() {
    if testing::is_second() {
        let start = std::time::Instant::now();
        if std::env::var_os("WAS_READY").is_some() {
            ready("working");
        }
        let _code = failed();
        let waited = start.elapsed() >= FAILED_START;
        assert_eq!(waited, std::env::var_os("WAITS").is_some());
    }
}

#[test]
fn a_start_that_fails_takes_its_time_where_it_would_be_repeated() {
    let fails = |manager: &[(&str, &str)]| {
        let mut command = testing::second(&[], "lifecycle::tests::second_fails");
        command.env_remove("NOTIFY_SOCKET").envs(manager.iter().copied());
        testing::run(command);
    };
    fails(&[]);
    fails(&[("NOTIFY_SOCKET", "/nonexistent/notify"), ("WAITS", "")]);
    fails(&[("NOTIFY_SOCKET", "/nonexistent/notify"), ("WAS_READY", "")]);
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
