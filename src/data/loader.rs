//! Reading ahead: the pairs (or lists) of coming steps are fetched and tokenized while the current step computes.
//!
//! What is not here: which pairs those are (`sampler`) and where they lie (`store`).

use super::sampler::Order;
use super::store::ListStore;
use super::tokenize::{EncodeConversation, TokenList};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Steps that are kept ready.
const AHEAD_STEPS: usize = 4;
/// Tokens that are kept ready, unless one step alone has more.
const AHEAD_TOKENS: usize = 8 << 20;

/// The lists of one optimizer step; pairs are lists of two.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// From 1.
    pub step: u64,
    /// Epochs that are done after this step.
    pub epoch: f64,
    pub lists: Vec<TokenList>,
}

impl Batch {
    /// Tokens of all sequences of all lists.
    pub fn tokens(&self) -> usize {
        self.lists.iter().map(TokenList::tokens).sum()
    }
}

/// Delivers the batches of a range of steps, in order. Dropping it stops the reading.
///
/// What it delivers is a function of the store, the order and the step, so a run that starts at a later step sees what
/// an uninterrupted one would have seen.
pub struct Loader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    next_step: u64,
    last_step: u64,
}

impl Loader {
    /// Starts to read the steps `first_step..=last_step`, counted from 1 over all epochs, of `batch_pairs` pairs each
    /// (the last of an epoch may have fewer).
    ///
    /// # Errors
    /// [`Error::Io`] where no thread can be had.
    pub fn start(
        store: Arc<ListStore>,
        encoder: Arc<dyn EncodeConversation>,
        order: Order,
        batch_pairs: u64,
        first_step: u64,
        last_step: u64,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = Reader { store, encoder, order, batch_pairs, shared: shared.clone() };
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || reader.run(first_step, last_step))
            .map_err(Error::io("the loader's thread"))?;
        Ok(Self { shared, thread: Some(thread), next_step: first_step, last_step })
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    /// The next step, after waiting for it where it is not ready. An error is the last item.
    fn next(&mut self) -> Option<Self::Item> {
        if self.next_step > self.last_step {
            return None;
        }
        let mut state = self.shared.lock();
        let item = loop {
            if let Some((tokens, batch)) = state.ready.pop_front() {
                state.tokens -= tokens;
                break batch;
            }
            if state.ended {
                let what = format!("the loader ended before step {}", self.next_step);
                break Err(Error::Io {
                    path: "the loader's thread".into(),
                    source: std::io::Error::other(what),
                });
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        self.shared.changed.notify_all();
        self.next_step = if item.is_err() { u64::MAX } else { self.next_step + 1 };
        Some(item)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported as an error where it mattered.
            let _ = thread.join();
        }
    }
}

/// What the two sides share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Batches with their tokens.
    ready: VecDeque<(usize, Result<Batch>)>,
    /// Of all batches in `ready`.
    tokens: usize,
    stopped: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the other side that no more will come, also when the thread panics.
struct EndSignal(Arc<Shared>);

impl Drop for EndSignal {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

struct Reader {
    store: Arc<ListStore>,
    encoder: Arc<dyn EncodeConversation>,
    order: Order,
    batch_pairs: u64,
    shared: Arc<Shared>,
}

impl Reader {
    fn run(&self, first_step: u64, last_step: u64) {
        let _end = EndSignal(self.shared.clone());
        for step in first_step..=last_step {
            let Some(batch) = self.batch(step) else { return };
            let tokens = batch.as_ref().map_or(0, Batch::tokens);
            let failed = batch.is_err();
            if !self.deliver(tokens, batch) || failed {
                return;
            }
        }
    }

    /// Waits for room; `false` where nobody listens any more.
    fn deliver(&self, tokens: usize, batch: Result<Batch>) -> bool {
        let mut state = self.shared.lock();
        while !state.stopped
            && (state.ready.len() >= AHEAD_STEPS
                || !state.ready.is_empty() && state.tokens.saturating_add(tokens) > AHEAD_TOKENS)
        {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let wanted = !state.stopped;
        if wanted {
            state.tokens += tokens;
            state.ready.push_back((tokens, batch));
        }
        drop(state);
        self.shared.changed.notify_all();
        wanted
    }

    /// The lists of a step; `None` where the loader was dropped meanwhile.
    fn batch(&self, step: u64) -> Option<Result<Batch>> {
        let Some(range) = self.order.step_range(step, self.batch_pairs) else {
            let reason = format!("step {step} of {} pairs does not exist", self.order.len);
            return Some(Err(Error::Usage(reason)));
        };
        let permutation = self.order.epoch(range.epoch);
        let indices: Vec<u64> = range.positions.map(|position| permutation.index_of(position)).collect();
        let lists: Option<Vec<Result<TokenList>>> = indices
            .into_par_iter()
            .map(|index| {
                let stopped = self.shared.lock().stopped;
                (!stopped).then(|| self.store.token_list(index, &*self.encoder))
            })
            .collect();
        let lists: Result<Vec<TokenList>> = lists?.into_iter().collect();
        let epoch = self.order.epochs_after(step, self.batch_pairs);
        Some(lists.map(|lists| Batch { step, epoch, lists }))
    }
}
