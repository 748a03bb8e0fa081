//! The health of a server, as a balancer follows it.

use tonic::Streaming;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::within;

/// Follows the health of a server as a whole.
pub(crate) struct Health(Streaming<HealthCheckResponse>);

impl Health {
    /// Begins with the server's present health.
    pub(crate) async fn watch(authority: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).expect("an address");
        let mut client = HealthClient::new(endpoint.connect().await.expect("a connection"));
        let stream = client.watch(HealthCheckRequest { service: String::new() }).await.expect("its health");
        Self(stream.into_inner())
    }

    /// Waits until the server serves, or doesn't.
    pub(crate) async fn until(&mut self, is_serving: bool) {
        let wanted = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        let wait = async {
            loop {
                let message = self.0.message().await.expect("its health").expect("the watch goes on");
                if message.status() == wanted {
                    return;
                }
            }
        };
        within(wanted.as_str_name(), wait).await;
    }
}
