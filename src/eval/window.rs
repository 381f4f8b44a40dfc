//! Rows to prepared windows: read in order on a thread of their own, tokenized in parallel, bounded in memory, so
//! that reading and tokenization overlap the scoring of the window before.

use crate::base::interrupt;
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows that are tokenized in parallel at a time.
const CHUNK_ROWS: usize = 64;
/// Text that is tokenized in parallel at a time, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// When a window is full. At most three windows and a chunk are in memory at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub tokens: usize,
    pub rows: usize,
    /// Of text before tokenization.
    pub bytes: usize,
}

impl Limits {
    /// Windows of several batches, so that sequences of like length find each other.
    pub fn for_batches_of(batch_tokens: usize) -> Self {
        Self { tokens: batch_tokens.saturating_mul(8), rows: 8192, bytes: 16 << 20 }
    }
}

/// Windows of prepared rows, in the order of the rows.
///
/// Dropping it stops the thread at its next row; a thread that waits for its input is left behind.
pub(super) struct Windows<T> {
    receiver: Receiver<Vec<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Windows<T> {
    /// `bytes` weighs a row before it is prepared, `tokens` one that is.
    pub fn spawn<I: Send + 'static>(
        rows: impl Iterator<Item = I> + Send + 'static,
        limits: Limits,
        bytes: impl Fn(&I) -> usize + Send + 'static,
        prepare: impl Fn(I) -> T + Send + Sync + 'static,
        tokens: impl Fn(&T) -> usize + Send + 'static,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("rows".into())
            .spawn(move || fill(rows, limits, bytes, prepare, tokens, &sender))
            .map_err(Error::io("starting a thread"))?;
        Ok(Self { receiver, thread: Some(thread) })
    }
}

impl<T> Iterator for Windows<T> {
    type Item = Result<Vec<T>>;

    /// The next window, or [`Error::Interrupted`] as soon as the user asks to stop, even while input is awaited.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if interrupt::requested() {
                return Some(Err(Error::Interrupted));
            }
            match self.receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(window) => return Some(Ok(window)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // A thread that panicked must not look like the end of the rows.
                    if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                        std::panic::resume_unwind(panic);
                    }
                    return None;
                }
            }
        }
    }
}

fn fill<I: Send, T: Send>(
    mut rows: impl Iterator<Item = I>,
    limits: Limits,
    bytes: impl Fn(&I) -> usize,
    prepare: impl Fn(I) -> T + Send + Sync,
    tokens: impl Fn(&T) -> usize,
    sender: &SyncSender<Vec<T>>,
) {
    let (mut window, mut window_tokens, mut window_bytes) = (Vec::new(), 0usize, 0usize);
    loop {
        let (mut chunk, mut chunk_bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS && chunk_bytes < CHUNK_BYTES {
            let Some(row) = rows.next() else { break };
            let weight = bytes(&row);
            chunk_bytes += weight;
            chunk.push((weight, row));
        }
        if chunk.is_empty() {
            break;
        }
        let prepared: Vec<(usize, T)> =
            chunk.into_par_iter().map(|(weight, row)| (weight, prepare(row))).collect();
        for (weight, row) in prepared {
            window_tokens += tokens(&row);
            window_bytes += weight;
            window.push(row);
            if window_tokens >= limits.tokens || window_bytes >= limits.bytes || window.len() >= limits.rows {
                if sender.send(std::mem::take(&mut window)).is_err() {
                    return;
                }
                (window_tokens, window_bytes) = (0, 0);
            }
        }
    }
    if !window.is_empty() {
        // The receiver is gone where nobody wants the rest: not an error.
        let _ = sender.send(window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { tokens: 1000, rows: 50, bytes: 1 << 20 };

    #[test]
    fn order_is_kept_and_windows_are_bounded() {
        let windows = Windows::spawn(0..1003usize, LIMITS, |_| 1, |i| i * 2, |_| 30).unwrap();
        let windows: Vec<_> = windows.map(Result::unwrap).collect();
        assert!(windows.iter().all(|w| (1..=34).contains(&w.len())), "1000 tokens of 30 a row");
        assert_eq!(windows.concat(), (0..1003).map(|i| i * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_heavy_row_makes_a_window_of_its_own() {
        let windows = Windows::spawn(0..4usize, LIMITS, |_| 2 << 20, |i| i, |_| 1).unwrap();
        assert_eq!(windows.map(|w| w.unwrap().len()).collect::<Vec<_>>(), [1, 1, 1, 1]);
    }

    #[test]
    fn no_rows_no_windows() {
        assert!(Windows::spawn(0..0usize, LIMITS, |_| 1, |i| i, |_| 1).unwrap().next().is_none());
    }

    #[test]
    #[should_panic(expected = "a broken row")]
    fn a_panic_while_reading_is_not_the_end_of_the_rows() {
        let rows = (0..200usize).inspect(|&i| assert!(i < 100, "a broken row"));
        Windows::spawn(rows, LIMITS, |_| 1, |i| i, |_| 1).unwrap().for_each(drop);
    }

    #[test]
    fn dropping_it_stops_an_endless_source() {
        let (stopped, wait) = sync_channel::<()>(0);
        let rows = (0usize..).inspect(move |_| {
            let _held = &stopped;
        });
        let mut windows = Windows::spawn(rows, LIMITS, |_| 1, |i| i, |_| 30).unwrap();
        assert!(windows.next().unwrap().is_ok());
        drop(windows);
        assert_eq!(wait.recv_timeout(Duration::from_secs(20)), Err(RecvTimeoutError::Disconnected));
    }
}
