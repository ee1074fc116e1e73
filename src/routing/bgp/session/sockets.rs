//! Waiting for sockets and deadlines that may not be there.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::Connection;

/// How much is read at once: some thousand routes, few enough that what they become is still in the cache when peers are
/// told.
const READ_SIZE: usize = 16 * 1024;

/// What to read into, and what to write from, of one connection.
pub(super) type Halves<'a, R, W> = (Option<(&'a mut R, &'a mut Vec<u8>)>, Option<(&'a mut W, &'a [u8])>);

pub(super) fn halves<R, W>(connection: &mut Option<Connection<R, W>>) -> Halves<'_, R, W> {
    let Some(connection) = connection else { return (None, None) };
    let outgoing = connection.outgoing.get(connection.written..).unwrap_or_default();
    let writing = Some((&mut connection.writer, outgoing)).filter(|(_, bytes)| !bytes.is_empty());
    (Some((&mut connection.reader, &mut connection.received)), writing)
}

thread_local! {
    /// What is read lands here first, so that a session that hears nothing holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// Appends what comes next.
pub(super) async fn read<R: AsyncRead + Unpin>(half: Option<(&mut R, &mut Vec<u8>)>) -> io::Result<usize> {
    let Some((reader, received)) = half else { return pending().await };
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *reader).poll_read(context, &mut buffer))?;
            received.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

pub(super) async fn write<W: AsyncWrite + Unpin>(half: Option<(&mut W, &[u8])>) -> io::Result<usize> {
    match half {
        Some((writer, bytes)) => writer.write(bytes).await,
        None => pending().await,
    }
}

pub(super) async fn when<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}
