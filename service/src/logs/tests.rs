use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wakevirt_tests::host::guard;

use super::*;
use crate::testing;

/// A message ID. Its length is 32, which is the code of a space.
const ID: &str = "000102030405060708090a0b0c0d0e0f";
/// A name that would forge a field, if fields were lines.
const HOSTILE: &str = "a\nMESSAGE_ID=forged\u{1b}";

/// Logs in the second process, as the environment specifies.
#[test]
#[ignore = "the second process of other tests"]
fn second_logs() {
    if !testing::is_second() {
        return;
    }
    let socket = std::env::var("SOCKET").ok().map(|path| {
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        UnixDatagram::bind(path).unwrap()
    });
    let to = match std::env::var("LOG_TO").unwrap().as_str() {
        "auto" => LogTo::Auto,
        "stderr" => LogTo::Stderr,
        "journal" => LogTo::Journal,
        _ => LogTo::Syslog,
    };
    // Ends the line that contains the name of the test.
    println!();
    let logs = match init(&Level::Warn.into(), to) {
        Ok(logs) => logs,
        Err(error) => return println!("ERROR {error}"),
    };
    tracing::info!("below the level");
    tracing::warn!(MESSAGE_ID = ID, WAKEVIRT_MAC = "52:54:00:00:00:01", WAKEVIRT_DOMAIN = HOSTILE, "first");
    logs.set_filter(&"info,wakevirt_service::logs=debug".parse().unwrap());
    tracing::debug!("second");
    logs.set_filter(&Level::Error.into());
    tracing::warn!("below the new level");
    assert_eq!(init(&Level::Info.into(), LogTo::Stderr).unwrap_err().to_string(), "the log is already open");
    if let Some(socket) = socket {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        while let Ok(length) = socket.recv(&mut buffer) {
            println!("RECEIVED {:?}", String::from_utf8_lossy(&buffer[..length]));
        }
    }
}

/// Logs to a journal that needs time for each message, in the second process.
#[test]
#[ignore = "the second process of other tests"]
fn second_logs_to_a_slow_journal() {
    if !testing::is_second() {
        return;
    }
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let socket = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&handled);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(length) = socket.recv(&mut buffer) {
            std::thread::sleep(Duration::from_millis(20));
            log.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    });
    let logs = init(&Level::Warn.into(), LogTo::Journal).unwrap();
    tracing::warn!("first");
    tracing::warn!("last");
    drop(logs);
    println!("\nAFTER THE LOG {:?}", handled.lock().unwrap());
    let _ = crate::lifecycle::exit_code("test", &io::Error::other("reason"), true);
    println!("AT EXIT {:?}", handled.lock().unwrap());
}

/// A command for a second process with only the sockets of this test in /run and /dev, which runs this test.
fn command_in_namespace(test: &str) -> Command {
    let hide = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /dev && exec \"$0\" \"$@\"";
    testing::second_process(&["unshare", "--mount", "sh", "-c", hide], test)
}

/// Runs such a process, and returns its output.
fn log_in_namespace(to: &str, socket: Option<&str>) -> (String, String) {
    let mut command = command_in_namespace("logs::tests::second_logs");
    command.env("LOG_TO", to);
    if let Some(socket) = socket {
        command.env("SOCKET", socket);
    }
    testing::run(command)
}

fn assert_two_lines(stderr: &str) {
    let lines: Vec<_> = stderr.lines().collect();
    let [first, second] = lines[..] else { panic!("{stderr}") };
    assert!(
        first.ends_with(r#"Z  WARN first mac="52:54:00:00:00:01" domain="a\nMESSAGE_ID=forged\u{1b}""#),
        "{first}"
    );
    assert!(second.ends_with("Z DEBUG second"), "{second}");
}

#[test]
fn logs_plain_lines_to_standard_error_at_the_current_level() {
    let mut command = testing::second_process(&[], "logs::tests::second_logs");
    command.env("LOG_TO", "stderr");
    assert_two_lines(&testing::run(command).1);
}

#[test]
fn logs_the_level_and_fields_to_the_journal() {
    if !guard::is_root() {
        return;
    }
    for to in ["auto", "journal"] {
        let (stdout, stderr) = log_in_namespace(to, Some("/run/systemd/journal/socket"));
        assert_eq!(stderr, "");
        let received: Vec<_> = stdout.lines().filter(|line| line.starts_with("RECEIVED")).collect();
        // The first message is empty: it tests the connection.
        let [_, first, second] = received[..] else { panic!("{stdout}") };
        for part in [
            "first",
            "PRIORITY\\n\\u{1}\\0\\0\\0\\0\\0\\0\\04\\n",
            "SYSLOG_IDENTIFIER",
            "\\nMESSAGE_ID\\n \\0\\0\\0\\0\\0\\0\\0000102030405060708090a0b0c0d0e0f\\n",
            "\\nWAKEVIRT_MAC\\n\\u{11}\\0\\0\\0\\0\\0\\0\\052:54:00:00:00:01\\n",
            // The length precedes the value, so that its lines are not fields.
            "\\nWAKEVIRT_DOMAIN\\n\\u{14}\\0\\0\\0\\0\\0\\0\\0a\\nMESSAGE_ID=forged\\u{1b}\\n",
        ] {
            assert!(first.contains(part), "{part}: {first}");
        }
        assert!(second.contains("second"), "{second}");
    }
}

#[test]
fn waits_until_the_journal_has_handled_the_messages() {
    if !guard::is_root() {
        return;
    }
    let command = command_in_namespace("logs::tests::second_logs_to_a_slow_journal");
    let (stdout, stderr) = testing::run(command);
    assert_eq!(stderr, "");
    let has =
        |time: &str, text: &str| stdout.lines().any(|line| line.starts_with(time) && line.contains(text));
    assert!(has("AFTER THE LOG ", "last") && !has("AFTER THE LOG ", "reason"), "{stdout}");
    assert!(has("AT EXIT ", "reason"), "{stdout}");
}

#[test]
fn logs_to_syslog_as_a_daemon() {
    if !guard::is_root() {
        return;
    }
    for to in ["auto", "syslog"] {
        let (stdout, stderr) = log_in_namespace(to, Some("/dev/log"));
        assert_eq!(stderr, "");
        let received: Vec<_> = stdout.lines().filter(|line| line.starts_with("RECEIVED")).collect();
        let [first, second] = received[..] else { panic!("{stdout}") };
        // Facility daemon (3 << 3), severity warning (4): RFC 3164 4.1.1.
        assert!(first.starts_with("RECEIVED \"<28>"), "{first}");
        assert!(first.contains("]: first mac="), "{first}");
        assert!(second.contains("]: second"), "{second}");
    }
}

#[test]
fn falls_back_to_standard_error_without_the_journal_and_syslog() {
    if !guard::is_root() {
        return;
    }
    assert_two_lines(&log_in_namespace("auto", None).1);
    for (to, error) in [
        (
            "journal",
            "ERROR cannot log to the journal: No such file or directory (os error 2); \
             start systemd-journald, or log elsewhere with --log-to",
        ),
        (
            "syslog",
            "ERROR cannot log to syslog: /dev/log does not exist; start a syslog daemon, or log elsewhere with --log-to",
        ),
    ] {
        let (stdout, _) = log_in_namespace(to, None);
        assert!(stdout.contains(error), "{stdout}");
    }
}
