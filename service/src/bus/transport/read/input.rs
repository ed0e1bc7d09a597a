//! The bytes that have been read from the socket but not processed yet.

use std::io;

use tokio::net::unix::OwnedReadHalf;

/// The maximum length of one read, in bytes: enough for dozens of calls. Other tasks run between two reads.
const CHUNK: usize = 16 * 1024;

/// The socket, and the bytes that have been read but not processed yet.
#[derive(Debug)]
pub(super) struct Input {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Input {
    pub(super) const fn new(stream: OwnedReadHalf) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The bytes in the buffer.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Adds bytes to the buffer.
    pub(super) fn append(&mut self, bytes: &mut Vec<u8>) {
        self.buffer.append(bytes);
    }

    /// Removes the first `length` bytes from the buffer, which must contain them.
    pub(super) fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads until the buffer has at least this many bytes.
    pub(super) async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            let mut chunk = [0; CHUNK];
            let count = read(&self.stream, &mut chunk).await?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the bus has closed the connection",
                ));
            }
            self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
            // During a flood the socket is always readable. Let other tasks run.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Drops the next bytes without buffering all of them.
    pub(super) async fn skip(&mut self, mut length: usize) -> io::Result<()> {
        loop {
            let buffered = length.min(self.buffer.len());
            self.buffer.drain(..buffered);
            length -= buffered;
            if length == 0 {
                return Ok(());
            }
            self.fill(1).await?;
        }
    }

    /// Reads once, bypassing the buffer.
    pub(super) async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        read(&self.stream, bytes).await
    }
}

/// Reads bytes without file descriptors: the kernel closes descriptors that a read does not request (unix(7)).
pub(super) async fn read(stream: &OwnedReadHalf, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}
