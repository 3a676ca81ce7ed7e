//! The connections to one peer that the app's requests share.
//!
//! Of HTTP/2 one connection serves them all. While it is being made, whoever needs it waits for it, and
//! fails with it: a peer that is away is dialled once, not once for each request.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch as channel;

use super::Outlet;
use super::link::{Link, Using};
use super::reach::{Offer, call};
use crate::proxy::relay::Why;
use crate::proxy::serving::MAX_STREAMS;

/// Most idle connections of HTTP/1.1 that are kept for the next request: as many as to the app.
const MAX_IDLE: usize = 64;

/// How often a request looks for a connection: what another one made may be gone, or taken, already.
const ROUNDS: usize = 3;

/// The connections to one peer.
#[derive(Default)]
pub struct Pool {
    state: Mutex<State>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct State {
    /// HTTP/2, for any number of requests each.
    shared: Vec<Link>,
    /// HTTP/1.1, used by nobody.
    idle: Vec<Link>,
    /// Somebody is making one, for all who wait. Closed without a word: that one is gone.
    making: Option<channel::Receiver<Made>>,
    /// The peer did not choose HTTP/2 when it was asked last: waiting for each other gains nothing.
    http1: bool,
}

/// What became of a connection that others wait for. `None`: nothing yet.
type Made = Option<Result<(), Why>>;

/// A connection for one request.
pub(super) struct Lease {
    pub(super) link: Link,
    /// Its part in it.
    pub(super) using: Using,
    /// It stood already: its other end may have gone without our knowing.
    pub(super) stood: bool,
}

enum Found {
    Link(Lease),
    /// Somebody is making one.
    Wait(channel::Receiver<Made>),
    /// Whoever asked makes one for all.
    Make(channel::Sender<Made>),
    /// Whoever asked makes one of its own.
    Alone,
}

impl Lease {
    fn of(link: Link, stood: bool) -> Self {
        Self { using: link.using(), link, stood }
    }
}

impl Pool {
    /// Gives no more requests to a connection.
    pub(super) fn forget(&self, number: u64) {
        let mut state = self.lock();
        state.shared.retain(|link| link.number() != number);
        state.idle.retain(|link| link.number() != number);
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, link: Link) {
        let mut state = self.lock();
        if link.is_h2() {
            // First: whatever stands is older.
            state.shared.insert(0, link);
        } else if state.idle.len() < MAX_IDLE {
            state.idle.push(link);
        }
    }

    fn find(&self) -> Found {
        let mut state = self.lock();
        state.shared.retain(Link::is_open);
        if let Some(link) = state.shared.iter().find(|link| link.load() < MAX_STREAMS).and_then(Link::share) {
            return Found::Link(Lease::of(link, true));
        }
        while let Some(link) = state.idle.pop() {
            if link.is_open() {
                return Found::Link(Lease::of(link, true));
            }
        }
        if state.http1 {
            return Found::Alone;
        }
        if let Some(making) = state.making.as_ref().filter(|making| making.has_changed().is_ok()) {
            return Found::Wait(making.clone());
        }
        let (made, making) = channel::channel(None);
        state.making = Some(making);
        Found::Make(made)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection for one request, from the pool or a new one.
pub(super) async fn lease(outlet: &Arc<Outlet>) -> Result<Lease, Why> {
    let mut stood = true;
    for _ in 0..ROUNDS {
        let making = match outlet.pool.find() {
            Found::Link(lease) => return Ok(Lease { stood, ..lease }),
            Found::Alone => {
                let link = make(outlet, Offer::All).await?;
                if !link.is_h2() {
                    return Ok(Lease::of(link, false));
                }
                outlet.pool.keep(link);
                None
            }
            Found::Wait(making) => Some(making),
            Found::Make(made) => {
                let making = made.subscribe();
                let outlet = Arc::clone(outlet);
                // In a task of its own: whoever asked first may go, and others wait.
                tokio::spawn(async move { made.send_replace(Some(dial(&outlet).await)) });
                Some(making)
            }
        };
        if let Some(mut making) = making {
            let made = making.wait_for(Option::is_some).await.ok().and_then(|made| *made);
            made.unwrap_or(Err(Why::PeerBroken))?;
        }
        stood = false;
    }
    Err(Why::PeerBroken)
}

/// A new connection of HTTP/1.1, for one request that will leave HTTP behind.
pub(super) async fn apart(outlet: &Arc<Outlet>) -> Result<Lease, Why> {
    let link = make(outlet, Offer::Http1).await?;
    // A peer that chose what it was not offered would have failed the handshake.
    if link.is_h2() { Err(Why::PeerBroken) } else { Ok(Lease::of(link, false)) }
}

/// Makes a connection for whoever asks next. In a box: a connection makes its own successor.
pub(super) fn dial(outlet: &Arc<Outlet>) -> Pin<Box<dyn Future<Output = Result<(), Why>> + Send + '_>> {
    Box::pin(async move {
        let link = make(outlet, Offer::All).await?;
        outlet.pool.keep(link);
        Ok(())
    })
}

async fn make(outlet: &Arc<Outlet>, offer: Offer) -> Result<Link, Why> {
    let reached = call(outlet, offer).await?;
    let number = outlet.pool.numbers.fetch_add(1, Ordering::Relaxed);
    let mut link = Link::new(outlet, reached, number).await?;
    if !link.ready().await {
        return Err(Why::PeerBroken);
    }
    if offer == Offer::All {
        outlet.pool.lock().http1 = !link.is_h2();
    }
    Ok(link)
}
