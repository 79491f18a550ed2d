//! Acknowledgements of one connection, on the serving side: whoever waits for one receives it.
//!
//! A small write costs little more than the threads that wake one another for it. So the thread that has sent an operation
//! reads the connection itself until its own acknowledgement is there, and gives the others theirs; a thread of the
//! connection's own receives while nobody waits.
//!
//! Invariants:
//! * one thread reads at a time, and what it reads is taken in the order in which it came;
//! * the connection's own thread never waits while it keeps others from reading;
//! * how receiving ended is known to that thread, whoever noticed it.

use super::frame::{Msg, SyncMsg};
use super::link::{Busy, Inbox, Link, TICK};
use super::ship::Ship;
use super::stream::Stream;
use anyhow::anyhow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the connection's own thread leaves it to those who wait before it looks again whether any do.
const LED_PAUSE: Duration = Duration::from_millis(5);

/// How receiving over a connection ended.
pub enum Over {
    /// The line: the session may go on over another one.
    Broken(anyhow::Error),
    /// The peer, or what it said: the session is over.
    Ended(anyhow::Error),
}

/// See the module.
pub struct Acks {
    link: Arc<Link>,
    stream: Arc<Stream>,
    state: Mutex<State>,
    /// How often somebody who waited began to receive.
    led: AtomicU64,
}

struct State {
    inbox: Inbox,
    answers: Option<SyncSender<SyncMsg>>,
    durable: Vec<u64>,
    over: Option<Over>,
}

impl Acks {
    /// Receives from this connection. `answers`: to the resynchronisation it begins with.
    pub fn new(inbox: Inbox, stream: Arc<Stream>, answers: Option<SyncSender<SyncMsg>>) -> Arc<Self> {
        let link = inbox.link().clone();
        Arc::new(Self {
            link,
            stream,
            state: Mutex::new(State { inbox, answers, durable: Vec::new(), over: None }),
            led: AtomicU64::new(0),
        })
    }

    /// Number of its session.
    pub fn session(&self) -> u64 {
        self.link.session()
    }

    /// For one who waits, and still does: what comes within this time is taken. False: nothing comes here any more. One at a
    /// time.
    pub fn lead(&self, ship: &Ship, wait: Duration, busy: Busy, still: impl Fn() -> bool) -> bool {
        self.led.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The connection's own thread may just have taken what is waited for.
        let mut is_asked = false;
        if state.over.is_none() && still() && (state.inbox.has_more() || state.inbox.wait(wait, busy)) {
            is_asked = self.take(&mut state, ship);
        }
        let goes_on = state.over.is_none();
        drop(state);
        self.answer(is_asked);
        goes_on
    }

    /// That this node is there. It may have to wait for room in the connection: nobody is kept from reading meanwhile. One
    /// that breaks over it is noticed by whoever reads next.
    fn answer(&self, is_asked: bool) {
        if is_asked && let Err(error) = self.link.send(0, &Msg::Pong, &[]) {
            tracing::debug!(%error, "the connection broke while the peer was answered");
        }
    }

    /// The connection's own thread, until the end.
    pub fn run(&self, ship: &Ship) -> Over {
        let mut led = 0;
        loop {
            let now = self.led.load(Ordering::Relaxed);
            if now != led {
                led = now;
                std::thread::sleep(LED_PAUSE);
                continue;
            }
            let is_readable = self.link.wait_readable(TICK);
            let Ok(mut state) = self.state.try_lock() else {
                // Somebody who waits was faster.
                std::thread::sleep(LED_PAUSE);
                continue;
            };
            if is_readable || state.inbox.has_more() {
                if self.take(&mut state, ship) {
                    drop(state);
                    self.answer(true);
                    state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                }
            } else if state.over.is_none() {
                drop(state);
                // It may have to wait for room in the connection.
                let silence = self.link.check_silence();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(e) = silence {
                    state.over.get_or_insert(Over::Broken(e));
                }
            }
            if let Some(over) = state.over.take() {
                // Whoever still waits must not read either.
                state.over = Some(Over::Broken(anyhow!("the connection has ended")));
                // Nor wait for an answer that will not come.
                state.answers = None;
                return over;
            }
        }
    }

    /// Takes what is here; true if the peer asks whether this node is there.
    fn take(&self, state: &mut State, ship: &Ship) -> bool {
        let (mut applied, mut is_asked) = (0, false);
        let ended = loop {
            match state.inbox.receive_now() {
                Ok(None) => break None,
                Err(e) => break Some(Over::Broken(e.into())),
                Ok(Some(frame)) => match frame.msg {
                    Msg::Applied => applied = applied.max(frame.lsn),
                    Msg::Durable => {
                        // It was flushed after it was applied, and everything before it as well.
                        applied = applied.max(frame.lsn);
                        state.durable.push(frame.lsn);
                    }
                    Msg::Ping => is_asked = true,
                    Msg::Pong => {}
                    Msg::Sync(answer) => {
                        // A resynchronisation that has ended does not care; one that goes on must not miss one.
                        if let Some(answers) = &state.answers
                            && let Err(TrySendError::Full(_)) = answers.try_send(answer)
                        {
                            break Some(Over::Broken(anyhow!("the peer answers faster than its answers are looked at")));
                        }
                    }
                    Msg::Seen(seen) => ship.verification.seen(seen),
                    Msg::Failed { detail } => break Some(Over::Ended(anyhow!("the peer could not apply an operation: {detail}"))),
                    Msg::Bye => break Some(Over::Ended(anyhow!("the peer closed the session"))),
                    other => break Some(Over::Ended(anyhow!("an unexpected message from the peer: {other:?}"))),
                },
            }
            if !state.inbox.has_more() {
                break None;
            }
        };
        if applied > 0 {
            match self.stream.acknowledged(applied, &mut state.durable) {
                Ok(()) => ship.acknowledged(self.stream.session(), applied, &state.durable),
                Err(e) => state.over = Some(Over::Ended(e)),
            }
            state.durable.clear();
        }
        if let Some(ended) = ended {
            state.over.get_or_insert(ended);
        }
        if state.over.is_some() {
            // Wakes the connection's own thread.
            self.link.close();
        }
        is_asked
    }
}
