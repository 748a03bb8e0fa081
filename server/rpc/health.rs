//! Health (`grpc.health.v1`), per service and overall: NOT_SERVING while the server starts or stops, and while the
//! database is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::error::chain;
use crate::store::Store;

/// The services that health is told of; the empty name is the server as a whole.
const SERVICES: [&str; 11] = [
    "",
    "taghook.v1.WorkspaceService",
    "taghook.v1.InfoService",
    "taghook.v1.CampaignService",
    "taghook.v1.ContactService",
    "taghook.v1.FieldService",
    "taghook.v1.SmartLinkService",
    "taghook.v1.TagService",
    "taghook.v1.WebhookService",
    "taghook.v1.EventService",
    "taghook.v1.DeliveryService",
];
/// How often the database is asked for a sign of life; again at once if it gives none.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to give one.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How many signs in a row must be missing: one alone is a busy moment.
const MISSES: u32 = 2;

/// The health of this server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    /// Whether the server stops: it doesn't serve again.
    is_closed: Arc<Mutex<bool>>,
}

impl Health {
    /// Not serving yet.
    pub async fn starting() -> Self {
        let health = Self { reporter: HealthReporter::new(), is_closed: Arc::default() };
        health.set(ServingStatus::NotServing).await;
        health
    }

    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Says that the server stops; nothing makes it serve again.
    pub async fn close(&self) {
        *self.is_closed.lock().await = true;
        self.set(ServingStatus::NotServing).await;
    }

    /// Follows the database until `stop`.
    pub async fn follow(self, store: Store, stop: CancellationToken) {
        let mut signs = Signs::default();
        loop {
            let sign = tokio::select! {
                () = stop.cancelled() => return,
                sign = ping(&store) => sign,
            };
            match signs.see(sign.is_ok()) {
                Some(true) => self.set(ServingStatus::Serving).await,
                Some(false) => {
                    let error = sign.err().unwrap_or_default();
                    tracing::warn!(
                        error,
                        "the database can't be reached; calls fail with UNAVAILABLE until it is back"
                    );
                    self.set(ServingStatus::NotServing).await;
                }
                None => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(signs.pause()) => {}
            }
        }
    }

    async fn set(&self, status: ServingStatus) {
        let is_closed = self.is_closed.lock().await;
        if *is_closed && status == ServingStatus::Serving {
            return;
        }
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// The signs of life that the database gave.
#[derive(Default)]
struct Signs {
    is_serving: bool,
    misses: u32,
}

impl Signs {
    /// Takes in a sign, or its absence; answers with whether the server serves, if that has changed.
    fn see(&mut self, is_alive: bool) -> Option<bool> {
        self.misses = if is_alive { 0 } else { self.misses.saturating_add(1) };
        let serves = is_alive || (self.is_serving && self.misses < MISSES);
        (std::mem::replace(&mut self.is_serving, serves) != serves).then_some(serves)
    }

    /// How long to wait for the next sign: not at all if it decides.
    fn pause(&self) -> Duration {
        if self.is_serving && self.misses > 0 { Duration::ZERO } else { PING_EVERY }
    }
}

async fn ping(store: &Store) -> Result<(), String> {
    match timeout(PING_TIMEOUT, store.read().ping()).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::{Duration, PING_EVERY, SERVICES, Signs};
    use crate::pb;

    #[test]
    fn health_is_told_of_every_service() {
        let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared: Vec<String> = pool.services().map(|service| service.full_name().to_owned()).collect();
        let mut told: Vec<&str> = SERVICES.into_iter().filter(|service| !service.is_empty()).collect();
        declared.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, declared);
    }

    #[test]
    fn one_missing_sign_is_a_busy_moment_and_two_are_an_absence() {
        let mut signs = Signs::default();
        let mut see = |is_alive| (signs.see(is_alive), signs.pause());
        assert_eq!(see(false), (None, PING_EVERY));
        assert_eq!(see(true), (Some(true), PING_EVERY));
        assert_eq!(see(false), (None, Duration::ZERO));
        assert_eq!(see(true), (None, PING_EVERY));
        assert_eq!(see(false), (None, Duration::ZERO));
        assert_eq!(see(false), (Some(false), PING_EVERY));
        assert_eq!(see(false), (None, PING_EVERY));
        assert_eq!(see(true), (Some(true), PING_EVERY));
    }
}
