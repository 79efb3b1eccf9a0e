//! Wakes a task from whatever thread has something for it.

use std::sync::Arc;
use std::task::{Wake, Waker};

use tokio::sync::Notify;

/// What a task waits for beside its socket.
pub(super) struct Bell(Notify);

impl Bell {
    pub fn new() -> Arc<Bell> {
        Arc::new(Bell(Notify::new()))
    }

    /// Waits until it is rung, or returns at once if it was since the last time. Cancel-safe.
    pub async fn rung(&self) {
        self.0.notified().await;
    }

    /// What rings it.
    pub fn waker(self: &Arc<Bell>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}
