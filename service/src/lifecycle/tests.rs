use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal as Number, raise};

use super::*;
use crate::testing;

#[tokio::test]
async fn distinguishes_signals_and_stops_first() {
    let mut signals = Signals::new().unwrap();
    for (number, signal) in
        [(Number::SIGHUP, Signal::Reload), (Number::SIGTERM, Signal::Stop), (Number::SIGINT, Signal::Stop)]
    {
        raise(number).unwrap();
        assert_eq!(signals.next().await, signal, "{number}");
    }
    raise(Number::SIGHUP).unwrap();
    raise(Number::SIGTERM).unwrap();
    // Both must be pending, so that the order is not that of arrival.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(signals.next().await, Signal::Stop);
    assert_eq!(signals.next().await, Signal::Reload);
}

#[test]
#[ignore = "the second process of another test"]
fn second_notifies() {
    if testing::is_second() {
        ready("receives on 2 interfaces\nMAINPID=1");
        set_warning(Warning::Reload, "the last reload failed:\nx");
        status("receives on br0");
        set_warning(Warning::Capture, "no capture");
        set_warning(Warning::Reload, &"y".repeat(5000));
        clear_warning(Warning::Capture);
        clear_warning(Warning::Capture);
        clear_warning(Warning::Reload);
        stopping();
    }
}

#[test]
fn notifies_the_service_manager() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = testing::second_process(&[], "lifecycle::tests::second_notifies");
    command.env("NOTIFY_SOCKET", &path);
    testing::run(command);
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    for message in [
        "READY=1\nSTATUS=receives on 2 interfaces MAINPID=1\n",
        "STATUS=receives on 2 interfaces MAINPID=1; the last reload failed: x\n",
        "STATUS=receives on br0; the last reload failed: x\n",
        "STATUS=receives on br0; the last reload failed: x; no capture\n",
        &format!("STATUS=receives on br0; no capture; {}\n", "y".repeat(1000)),
        &format!("STATUS=receives on br0; {}\n", "y".repeat(1000)),
        "STATUS=receives on br0\n",
        "STOPPING=1\n",
    ] {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(str::from_utf8(&buffer[..length]).unwrap(), message);
    }
}

#[test]
#[ignore = "the second process of another test"]
fn second_is_ready() {
    if testing::is_second() {
        print!("<");
        ready("");
        print!("-");
        ready("");
        print!(">");
    }
}

#[test]
fn writes_one_newline_to_standard_output_on_request() {
    for (name, output) in [(NOTIFY_STDOUT, "<\n->"), ("OTHER", "<->")] {
        let mut command = testing::second_process(&[], "lifecycle::tests::second_is_ready");
        command.env_remove("NOTIFY_SOCKET").env(name, "1");
        let (stdout, _) = testing::run(command);
        assert!(stdout.contains(output), "{stdout:?}");
    }
}

#[test]
#[ignore = "the second process of another test"]
fn second_sends_keep_alive_messages() {
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
fn sends_keep_alive_messages_if_the_watchdog_is_enabled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = testing::second_process(&[], "lifecycle::tests::second_sends_keep_alive_messages");
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000");
    testing::run(command);
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    for _ in 0..2 {
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(str::from_utf8(&buffer[..length]).unwrap(), "WATCHDOG=1\n");
    }
    assert!(socket.recv(&mut buffer).is_err(), "one message for each interval");
    assert!(!Watchdog::from_env().is_enabled(), "this process has no watchdog");
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
fn a_failed_start_waits_under_a_service_manager() {
    let fails = |manager: &[(&str, &str)]| {
        let mut command = testing::second_process(&[], "lifecycle::tests::second_fails");
        command.env_remove("NOTIFY_SOCKET").envs(manager.iter().copied());
        testing::run(command);
    };
    fails(&[]);
    fails(&[("NOTIFY_SOCKET", "/nonexistent/notify"), ("WAITS", "")]);
    fails(&[(NOTIFY_STDOUT, "1"), ("WAITS", "")]);
    fails(&[("NOTIFY_SOCKET", "/nonexistent/notify"), ("WAS_READY", "")]);
}

#[test]
fn does_nothing_without_a_service_manager() {
    let mut command = testing::second_process(&[], "lifecycle::tests::second_notifies");
    command.env_remove("NOTIFY_SOCKET");
    testing::run(command);
    let mut command = testing::second_process(&[], "lifecycle::tests::second_notifies");
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    testing::run(command);
}
