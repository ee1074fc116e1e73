//! The bytes of one connection, in and out, and its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::routing::bgp::types::OpenSettings;
use crate::routing::bgp::wire;

/// How long a closing connection may take to send its last words.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// One connection's bytes.
pub(super) struct Connection<R, W> {
    pub(super) reader: R,
    pub(super) writer: W,
    pub(super) received: Vec<u8>,
    pub(super) outgoing: Vec<u8>,
    pub(super) written: usize,
    /// Some of the bytes going out are a chunk of the speaker's.
    pub(super) has_chunk: bool,
    /// The peer's OPEN, until the session is up.
    pub(super) open: Option<wire::Open>,
    /// What our OPEN said on it, once it is sent.
    pub(super) ours: Option<Arc<OpenSettings>>,
}

impl<R, W> Connection<R, W> {
    pub(super) fn new((reader, writer): (R, W)) -> Connection<R, W> {
        Connection {
            reader,
            writer,
            received: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            has_chunk: false,
            open: None,
            ours: None,
        }
    }

    /// Forgets what waits to go out, but for the rest of a message whose beginning is out: the session ends, and what
    /// the peer hears of that must not wait behind routes it will drop.
    pub(super) fn drop_queue(&mut self) {
        let mut end = 0;
        while end < self.written {
            match wire::frame(self.outgoing.get(end..).unwrap_or_default(), wire::MAX_EXTENDED) {
                Ok(Some(length)) => end += length,
                // What was put in is whole messages.
                Ok(None) | Err(_) => return,
            }
        }
        self.outgoing.truncate(end);
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Closes the connection after its last words, which a peer that reads takes at once. What it still sends is read
    /// and dropped: closing with bytes unread would reset the connection, and the last words might be lost with it.
    pub(super) async fn farewell(mut self) {
        let rest = self.outgoing.get(self.written..).unwrap_or_default();
        let farewell = async {
            self.writer.write_all(rest).await?;
            self.writer.shutdown().await?;
            let mut dropped = vec![0; 4096];
            while self.reader.read(&mut dropped).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever comes of it, the connection ends here.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}
