//! How the server's background tasks live and end.
//!
//! Two stops: the *soft* one ends what has no end of its own (claims, streams, accepting) and lets the rest finish; the
//! *hard* one drops everything. A task that ends though nobody told it to stops the server: a server that has silently
//! lost its dispatcher is worse than one that restarts.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks have to notice the hard stop.
const HARD_GRACE: Duration = Duration::from_secs(5);

/// The stops of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    /// End what has no end of its own; finish the rest.
    pub soft: CancellationToken,
    /// Drop everything. It implies the soft one.
    pub hard: CancellationToken,
    /// All work has ended: what the work leant on can end.
    pub last: CancellationToken,
}

impl Stop {
    fn new() -> Self {
        let hard = CancellationToken::new();
        Self { soft: hard.child_token(), hard, last: CancellationToken::new() }
    }
}

/// The tasks of one server.
#[derive(Debug)]
pub struct Lifecycle {
    stop: Stop,
    work: TaskTracker,
    support: TaskTracker,
    failure: Failure,
}

/// The first task that ended untimely.
#[derive(Clone, Debug, Default)]
struct Failure {
    task: Arc<OnceLock<TaskDied>>,
    happened: CancellationToken,
}

/// A background task ended though nobody told it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task `{task}` {how}; the server can't go on without it")]
pub struct TaskDied {
    /// The task's name.
    pub task: &'static str,
    /// How it ended.
    pub how: &'static str,
}

/// The server stopped, but not everything was finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stop was forced before everything was finished; what was in flight is sent again")]
pub struct Forced;

impl Default for Lifecycle {
    fn default() -> Self {
        Self { stop: Stop::new(), work: TaskTracker::new(), support: TaskTracker::new(), failure: Failure::default() }
    }
}

impl Lifecycle {
    /// The stops, for tasks.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a task that works until the soft stop, and then finishes what it has begun.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(watched(name, task, self.stop.soft.clone(), self.failure.clone()));
    }

    /// Starts a task that the others lean on until their end, as the heartbeat that keeps their leases; the last stop
    /// ends it.
    pub fn spawn_support(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // Some end as soon as nobody leans on them any more.
        self.support.spawn(watched(name, task, self.stop.soft.clone(), self.failure.clone()));
    }

    /// Returns once a task has died.
    pub async fn died(&self) -> TaskDied {
        self.failure.happened.cancelled().await;
        self.failure.task.get().copied().unwrap_or(TaskDied { task: "unknown", how: "ended" })
    }

    /// Stops: softly, and hard after the grace or when `force` returns.
    ///
    /// # Errors
    ///
    /// [`Forced`] if it had to be hard.
    pub async fn finish(&self, grace: Duration, force: impl Future<Output = ()>) -> Result<(), Forced> {
        self.stop.soft.cancel();
        self.work.close();
        let is_finished = tokio::select! {
            finished = timeout(grace, self.work.wait()) => finished.is_ok(),
            () = force => false,
        };
        if !is_finished {
            tracing::warn!(tasks = self.work.len(), "the stop is forced");
            self.stop.hard.cancel();
            // A task that doesn't even notice this is left behind: the process ends.
            let _ = timeout(HARD_GRACE, self.work.wait()).await;
        }
        self.stop.last.cancel();
        self.support.close();
        let _ = timeout(HARD_GRACE, self.support.wait()).await;
        if is_finished { Ok(()) } else { Err(Forced) }
    }
}

impl Drop for Lifecycle {
    /// A server that is dropped without a stop leaves no task behind.
    fn drop(&mut self) {
        self.stop.hard.cancel();
        self.stop.last.cancel();
    }
}

/// Runs a task and notes if it ends before `may_end`.
async fn watched(name: &'static str, task: impl Future<Output = ()>, may_end: CancellationToken, failure: Failure) {
    // The task is gone after a panic, and with it what it owned.
    let result = AssertUnwindSafe(task).catch_unwind().await;
    let how = match result {
        Err(_) => "panicked",
        Ok(()) if !may_end.is_cancelled() => "ended before its time",
        Ok(()) => return,
    };
    tracing::error!(task = name, how, "a background task died");
    let _ = failure.task.set(TaskDied { task: name, how });
    failure.happened.cancel();
}

/// The signals that ask the process to stop: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals; from now on they don't end the process by themselves.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn take() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when one of them arrives.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn work_finishes_within_the_grace_and_its_support_outlives_it() {
        let lifecycle = Lifecycle::default();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let (soft, last) = (lifecycle.stop().soft.clone(), lifecycle.stop().last.clone());
        let from_work = sender.clone();
        lifecycle.spawn_support("support", async move {
            last.cancelled().await;
            sender.send("support").unwrap();
        });
        lifecycle.spawn("work", async move {
            soft.cancelled().await;
            tokio::task::yield_now().await;
            from_work.send("work").unwrap();
        });
        assert_eq!(lifecycle.finish(LONG, std::future::pending()).await, Ok(()));
        assert_eq!(receiver.recv().await, Some("work"));
        assert_eq!(receiver.recv().await, Some("support"));
    }

    /// Stops a task that ends at the hard stop alone.
    async fn finish_stubborn_work(grace: Duration, force: impl Future<Output = ()>) -> Result<(), Forced> {
        let lifecycle = Lifecycle::default();
        let hard = lifecycle.stop().hard.clone();
        lifecycle.spawn("work", async move { hard.cancelled().await });
        lifecycle.finish(grace, force).await
    }

    #[tokio::test]
    async fn the_end_of_the_grace_and_a_second_signal_stop_hard() {
        assert_eq!(finish_stubborn_work(Duration::ZERO, std::future::pending()).await, Err(Forced));
        assert_eq!(finish_stubborn_work(LONG, std::future::ready(())).await, Err(Forced));
    }

    #[track_caller]
    fn check_death(died: TaskDied, task: &str, how: &str) {
        assert_eq!((died.task, died.how), (task, how));
    }

    #[tokio::test]
    async fn a_task_that_ends_untimely_is_a_failure() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("lost", async {});
        check_death(lifecycle.died().await, "lost", "ended before its time");

        let lifecycle = Lifecycle::default();
        lifecycle.spawn_support("broken", async { panic!("on purpose") });
        check_death(lifecycle.died().await, "broken", "panicked");
    }
}
