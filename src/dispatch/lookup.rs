//! Looking names up: the C library's look-up blocks a thread, and goes on after
//! whoever asked has given up. So there are never more than a few at a time, one
//! for each name, and whoever waits for a place leaves nothing behind.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Look-ups at a time. A dead name server holds each for ten seconds and more.
/// The runtime has threads for these and for what else blocks (`cli::runtime`).
const MOST: usize = 16;

/// The addresses of a name, or why there are none.
pub(super) type Found = Result<Vec<IpAddr>, Arc<io::Error>>;

/// What asks the system.
type Ask = fn(&str) -> io::Result<Vec<IpAddr>>;

/// Looks names up; cheap to clone.
#[derive(Clone)]
pub(super) struct Lookups(Arc<Inner>);

struct Inner {
    ask: Ask,
    places: Arc<Semaphore>,
    running: Mutex<HashMap<String, Shared<BoxFuture<'static, Found>>>>,
}

impl Lookups {
    /// Look-ups by `ask`, which may block.
    pub(super) fn new(ask: Ask) -> Lookups {
        Lookups(Arc::new(Inner {
            ask,
            places: Arc::new(Semaphore::new(MOST)),
            running: Mutex::default(),
        }))
    }

    /// Asks the system's name service.
    pub(super) fn of_system() -> Lookups {
        Lookups::new(|host| {
            let found = (host, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// The addresses of `host`. Whoever asks for a name that is being looked up
    /// gets the same answer.
    pub(super) async fn find(&self, host: String) -> Found {
        let running = self.running().get(&host).cloned();
        let found = match running {
            Some(running) => running,
            None => {
                let places = Arc::clone(&self.0.places);
                let place = places.acquire_owned().await;
                self.begin(host, place.expect("nobody closes the semaphore"))
            }
        };
        found.await
    }

    /// Begins a look-up, unless another has meanwhile.
    fn begin(
        &self,
        host: String,
        place: OwnedSemaphorePermit,
    ) -> Shared<BoxFuture<'static, Found>> {
        let mut running = self.running();
        if let Some(running) = running.get(&host) {
            return running.clone();
        }
        let (lookups, name) = (self.clone(), host.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let found = (lookups.0.ask)(&name).map_err(Arc::new);
            lookups.running().remove(&name);
            drop(place);
            found
        });
        let panicked = |error| Arc::new(io::Error::other(error));
        let found = asking.map(move |found| found.unwrap_or_else(|e| Err(panicked(e))));
        let found = found.boxed().shared();
        running.insert(host, found.clone());
        found
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Shared<BoxFuture<'static, Found>>>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::time::Duration;

    use super::*;

    /// Names that are looked up and may not end yet.
    static HELD: (Mutex<Vec<String>>, Condvar) = (Mutex::new(Vec::new()), Condvar::new());

    fn ask(host: &str) -> io::Result<Vec<IpAddr>> {
        if host.starts_with("held") {
            let mut held = HELD.0.lock().unwrap();
            held.push(host.to_owned());
            while held.iter().any(|held| held == host) {
                held = HELD.1.wait(held).unwrap();
            }
        }
        match host {
            "nobody" => Err(io::Error::other("no")),
            _ => Ok(vec!["192.0.2.1".parse().unwrap()]),
        }
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(std::time::Instant::now() < deadline, "not {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn held() -> usize {
        HELD.0.lock().unwrap().len()
    }

    #[tokio::test]
    async fn those_that_hang_take_no_more_than_their_places_and_leave_nothing_behind() {
        let lookups = Lookups::new(ask);
        assert!(lookups.find("somebody".to_owned()).await.is_ok());
        assert!(lookups.find("nobody".to_owned()).await.is_err());

        // A hundred ask for the same name, and all give up.
        let same: Vec<_> = (0..100)
            .map(|_| lookups.find("held".to_owned()))
            .map(|find| tokio::time::timeout(Duration::from_millis(20), find))
            .collect();
        for found in futures_util::future::join_all(same).await {
            assert!(found.is_err());
        }
        until("one", || held() == 1).await;
        assert_eq!(lookups.0.places.available_permits(), MOST - 1);
        assert!(lookups.find("somebody".to_owned()).await.is_ok());

        // So do a hundred for names of their own.
        let own: Vec<_> = (0..100)
            .map(|n| lookups.find(format!("held{n}")))
            .map(|find| tokio::time::timeout(Duration::from_millis(50), find))
            .collect();
        futures_util::future::join_all(own).await;
        until("as many as may", || held() == MOST).await;
        assert_eq!(lookups.0.places.available_permits(), 0);

        HELD.0.lock().unwrap().clear();
        HELD.1.notify_all();
        assert!(lookups.find("somebody".to_owned()).await.is_ok());
        until("all over", || lookups.running().is_empty()).await;
    }
}
