//! The clock and the randomness, passed in so that tests can set both.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

use crate::domain::time::Micros;

/// The longest that a sleeper trusts its own timer: a step of the wall clock is noticed after this.
const MAX_NAP: Duration = Duration::from_secs(5);

/// Tells the wall-clock time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(watch::Receiver<Micros>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands until it is moved, and its hand.
    #[must_use]
    pub fn manual(start: Micros) -> (Self, ManualClock) {
        let (hand, face) = watch::channel(start);
        (Self(Source::Manual(face)), ManualClock(Arc::new(hand)))
    }

    /// The time now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> Micros {
        match &self.0 {
            Source::System => {
                let since_epoch =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
            }
            Source::Manual(face) => *face.borrow(),
        }
    }

    /// Returns once the time is `deadline` or later. Steps of the wall clock are followed within five seconds.
    pub async fn sleep_until(&self, deadline: Micros) {
        match &self.0 {
            Source::System => loop {
                let left = deadline.saturating_since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(MAX_NAP)).await;
            },
            Source::Manual(face) => {
                let mut face = face.clone();
                if face.wait_for(|now| *now >= deadline).await.is_err() {
                    // The hand is gone: the clock stands for ever.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Moves a manual clock.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Micros>>);

impl ManualClock {
    /// Moves the clock forward and wakes those who slept until then.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.saturating_add(by));
    }

    /// Sets the clock back.
    pub fn set_back(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.saturating_sub(by));
    }
}

/// The source of randomness, shared by all tasks.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// Seeded by the operating system.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for randomness")]
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_rng(&mut rand::rng()))))
    }

    /// Runs `f` with the generator.
    pub fn with<T>(&self, f: impl FnOnce(&mut StdRng) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.with(|rng| rng.fill_bytes(&mut bytes));
        bytes
    }

    /// A number in -1.0 to 1.0, for jitter.
    #[must_use]
    pub fn jitter_unit(&self) -> f64 {
        self.with(|rng| rng.random_range(-1.0..=1.0))
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}
