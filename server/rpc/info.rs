//! InfoService: what a caller may know of its key and of the server.

use tonic::{Request, Response, Status};

use super::batch::MAX_ITEMS as MAX_BATCH_ITEMS;
use super::call::Call;
use super::convert::duration;
use super::page::{MAX_BYTES as MAX_PAGE_BYTES, MAX_ITEMS as MAX_PAGE_ITEMS};
use super::{MAX_MESSAGE_BYTES, Services, workspace};
use crate::pb;
use crate::store;

#[tonic::async_trait]
impl pb::info_service_server::InfoService for Services {
    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let mut call = Call::open(request)?;
        call.finish()?;
        let (caller, db) = (call.caller, self.store.read());
        let api_key = store::api_key::get_any(db, caller.key).await?;
        let workspace = match caller.workspace {
            Some(id) => Some(store::workspace::get(db, id).await?),
            None => None,
        };
        Ok(Response::new(pb::WhoAmIResponse {
            api_key: Some(workspace::key_to_pb(api_key)),
            workspace: workspace.map(workspace::to_pb),
        }))
    }

    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        Call::open(request)?.finish()?;
        let links_base_url = self.links.base().unwrap_or_default().to_owned();
        let capabilities = [
            (!links_base_url.is_empty(), pb::Capability::Links),
            (self.setup.serves_pages, pb::Capability::Web),
            (!self.store.is_sqlite(), pb::Capability::SeveralServers),
        ];
        let capabilities = capabilities.into_iter().filter(|(has, _)| *has).map(|(_, capability)| capability.into());
        let bounded = |limit: usize| i32::try_from(limit).unwrap_or(i32::MAX);
        Ok(Response::new(pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            links_base_url,
            limits: Some(pb::ServerLimits {
                max_request_bytes: bounded(MAX_MESSAGE_BYTES),
                max_page_items: bounded(MAX_PAGE_ITEMS),
                max_page_bytes: bounded(MAX_PAGE_BYTES),
                max_batch_items: bounded(MAX_BATCH_ITEMS),
                call_timeout: Some(duration(self.setup.call_timeout)),
            }),
            capabilities: capabilities.collect(),
        }))
    }
}
