//! A byte stream in memory: what comes in is fed, what goes out is taken only as far as there is room.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end; the other is `Ends`, which whoever holds a clone may look at.
#[derive(Clone, Default)]
pub struct Pipe(Rc<RefCell<Ends>>);

#[derive(Default)]
pub struct Ends {
    pub input: VecDeque<u8>,
    /// Nothing more will come in.
    pub has_ended: bool,
    pub output: Vec<u8>,
    /// Bytes that may still go out.
    pub room: usize,
}

impl Pipe {
    pub fn ends(&self) -> RefMut<'_, Ends> {
        self.0.borrow_mut()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        if ends.input.is_empty() && !ends.has_ended {
            return Poll::Pending;
        }
        let count = ends.input.len().min(buffer.remaining());
        buffer.put_slice(&ends.input.make_contiguous()[..count]);
        ends.input.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.ends();
        if ends.room == 0 {
            return Poll::Pending;
        }
        let mut taken = 0;
        for slice in slices {
            let count = slice.len().min(ends.room - taken);
            ends.output.extend_from_slice(&slice[..count]);
            taken += count;
        }
        ends.room -= taken;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
