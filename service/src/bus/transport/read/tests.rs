use std::io::{IoSlice, Read as _};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::net::UnixStream;
use zbus::connection::socket::WriteHalf as _;
use zbus::wire::Endian;

use super::super::write::Writer;
use super::*;
use crate::bus::CallLimits;

fn limiter(trusted_uids: Vec<u32>, pause_for_lookup: bool) -> CallLimiter {
    CallLimiter::new(CallLimits { max_bytes: 1000, slow: &[], large: &[], trusted_uids, pause_for_lookup })
}

/// A reader with this limiter, and the other end of its socket.
fn reader(limiter: &CallLimiter) -> (Reader, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (read_half, write_half) = ours.into_split();
    let refusals = Writer::new(write_half, None).refusals();
    (Reader::new(read_half, Some(limiter.clone()), refusals), theirs)
}

async fn receive(reader: &mut Reader) -> Message {
    reader.receive_message(1, &mut Vec::new(), &mut Vec::new()).await.unwrap()
}

/// Sends a reply with the write end of a pipe, and closes its own copy. Returns the read end.
fn send_descriptor(to: &UnixStream) -> std::io::PipeReader {
    let (read_end, descriptor) = std::io::pipe().unwrap();
    let call = Message::method_call("/", "Ask").build(&()).unwrap();
    let body = ("before", zbus::Fd::from(OwnedFd::from(descriptor)), "after");
    let reply = Message::method_return(&call.header()).build(&body).unwrap();
    let data = reply.data();
    let descriptors: Vec<_> = data.fds().iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    assert_eq!(descriptors.len(), 1);
    let control = [ControlMessage::ScmRights(&descriptors)];
    let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(data)], &control, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(data.len()));
    read_end
}

#[tokio::test]
async fn replaces_received_descriptors() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (read_half, write_half) = ours.into_split();
    let mut reader = Reader::new(read_half, None, Writer::new(write_half, None).refusals());
    assert!(reader.can_pass_unix_fd());
    for _ in 0..3 {
        let mut read_end = send_descriptor(&theirs);
        let message = receive(&mut reader).await;
        let body = message.body();
        let (before, descriptor, after): (&str, zbus::Fd<'_>, &str) = body.deserialize().unwrap();
        assert_eq!((before, after), ("before", "after"));
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        assert_eq!(std::fs::read_link(path).unwrap().to_str(), Some(NO_DESCRIPTOR));
        // End of file: no process has the write end open.
        assert_eq!(read_end.read(&mut [0]).unwrap(), 0);
    }
}

/// Adds a header field, (200, "x"), to this message, which must not have a body.
fn with_unknown_field(message: &Message) -> Vec<u8> {
    let mut bytes: Vec<u8> = message.data().to_vec();
    bytes.extend([200, 1, b's', 0, 1, 0, 0, 0, b'x', 0]);
    let fields = u32::try_from(bytes.len() - FIXED_LENGTH).unwrap();
    bytes[12..16].copy_from_slice(&fields.to_le_bytes());
    bytes.resize(aligned(bytes.len(), 8), 0);
    bytes
}

#[tokio::test]
async fn an_invalid_message_does_not_end_the_connection() {
    let limiter = limiter(Vec::new(), false);
    limiter.set_user(":1.1".into(), Some(1000));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (from_service, to_service) = theirs.into_split();
    let (read_half, write_half) = ours.into_split();
    let mut writer = Writer::new(write_half, Some(limiter.clone()));
    let mut reader = Reader::new(read_half, Some(limiter.clone()), writer.refusals());
    let call = |member: &'static str| {
        Message::method_call("/", member).endian(Endian::Little).sender(":1.1").build(&()).unwrap()
    };
    let (bad, silent, good) = (call("Bad"), call("Silent"), call("Good"));
    let serial = bad.primary_header().serial_num().get();
    let mut silent = with_unknown_field(&silent);
    silent[2] = NO_REPLY_EXPECTED;
    let mut version = call("Version").data().to_vec();
    version[3] = 2;
    for bytes in [&with_unknown_field(&bad), &silent, &version, good.data().bytes()] {
        assert_eq!(to_service.try_write(bytes).unwrap(), bytes.len());
    }
    let received = receive(&mut reader).await;
    assert_eq!(received.header().member().unwrap(), "Good");
    assert!(limiter.take_permit(":1.1", serial).is_none(), "its permit has been released");
    // The writer starts with the first message that is sent; the refusals are written first.
    let reply = Message::method_return(&received.header()).build(&()).unwrap();
    writer.send_message(&reply).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(reply.data()) {
        let mut chunk = [0; 1024];
        let count = input::read(&from_service, &mut chunk).await.unwrap();
        assert_ne!(count, 0, "the connection is closed");
        bytes.extend_from_slice(&chunk[..count]);
    }
    let refusals = bytes.windows(11).filter(|window| window == b"InvalidArgs").count();
    assert_eq!(refusals, 2, "a call that expects no reply gets none");
}

#[tokio::test]
async fn defers_a_call_until_its_sender_is_known() {
    let limiter = limiter(vec![0], false);
    let (mut reader, theirs) = reader(&limiter);
    let send = |sender: &'static str, member: &'static str| {
        let call = Message::method_call("/", member).sender(sender).build(&()).unwrap();
        assert_eq!(theirs.try_write(call.data()).unwrap(), call.data().len());
    };
    // More calls than one user can have, on several connections, followed by root's calls.
    const FLOODING: [&str; 4] = [":1.1", ":1.2", ":1.3", ":1.4"];
    for sender in FLOODING {
        (0..10).for_each(|_| send(sender, "Flood"));
    }
    send(":0.1", "First");
    send(":0.1", "Second");
    send(":1.5", "Known");
    limiter.set_user(":1.5".into(), Some(2000));
    assert_eq!(receive(&mut reader).await.header().member().unwrap(), "Known", "the others are deferred");
    for sender in FLOODING {
        limiter.set_user(sender.into(), Some(1000));
    }
    limiter.set_user(":0.1".into(), Some(0));
    let mut members = Vec::new();
    while members.last().is_none_or(|member| member != "Second") {
        members.push(receive(&mut reader).await.header().member().unwrap().to_string());
    }
    let floods = members.iter().filter(|member| *member == "Flood").count();
    assert_eq!(members.get(floods..), Some(&["First".to_owned(), "Second".to_owned()][..]));
    assert!(floods < 40, "the user has a limit: {floods}");
}

#[tokio::test]
async fn stops_reading_while_too_many_senders_are_unknown() {
    let limiter = limiter(vec![0], true);
    let (mut reader, theirs) = reader(&limiter);
    const UNKNOWN: usize = 700;
    let mut bytes = Vec::new();
    let senders = (0..UNKNOWN).map(|number| format!(":1.{number}")).chain([":0.1".to_owned()]);
    for sender in senders {
        let call = Message::method_call("/", "Ask").sender(sender.as_str()).build(&()).unwrap();
        bytes.extend_from_slice(call.data());
    }
    assert_eq!(theirs.try_write(&bytes).unwrap(), bytes.len());
    limiter.set_user(":0.1".into(), Some(0));
    tokio::select! {
        biased;
        message = receive(&mut reader) => panic!("{message:?}"),
        () = async { for _ in 0..1000 { tokio::task::yield_now().await } } => {}
    }
    for number in 0..UNKNOWN {
        limiter.set_user(format!(":1.{number}").into(), Some(1000));
    }
    loop {
        let message = receive(&mut reader).await;
        if message.header().sender().is_some_and(|sender| sender == ":0.1") {
            break;
        }
    }
}
