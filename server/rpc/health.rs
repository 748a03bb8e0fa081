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
const SERVICES: [&str; 8] = [
    "",
    "taghook.v1.WorkspaceService",
    "taghook.v1.ContactService",
    "taghook.v1.FieldService",
    "taghook.v1.TagService",
    "taghook.v1.WebhookService",
    "taghook.v1.EventService",
    "taghook.v1.DeliveryService",
];
/// How often the database is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to give one.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
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
        let health = Self {
            reporter: HealthReporter::new(),
            is_closed: Arc::default(),
        };
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
    pub async fn follow(&self, store: &Store, stop: CancellationToken) {
        let mut is_serving = false;
        let mut misses = 0;
        loop {
            let sign = tokio::select! {
                () = stop.cancelled() => break,
                sign = ping(store) => sign,
            };
            match sign {
                Ok(()) => {
                    if misses >= MISSES {
                        tracing::info!("the database is back");
                    }
                    misses = 0;
                }
                Err(error) => {
                    misses += 1;
                    if misses == MISSES {
                        tracing::warn!(
                            error,
                            "the database can't be reached; calls fail with UNAVAILABLE until it is back"
                        );
                    }
                }
            }
            let serves = misses == 0 || (is_serving && misses < MISSES);
            if serves != is_serving {
                is_serving = serves;
                self.set(if serves {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                })
                .await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PING_EVERY) => {}
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

async fn ping(store: &Store) -> Result<(), String> {
    match timeout(PING_TIMEOUT, store.read().ping()).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::SERVICES;
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
}
