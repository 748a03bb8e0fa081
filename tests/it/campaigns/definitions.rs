//! How campaigns are written, checked and shown.

use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::campaign::{Reentry, State};
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::tag_usage::User;
use taghook_client::v1::{
    ActivateCampaignRequest, Campaign, CreateCampaignRequest, DeleteTagRequest, ErrorReason, GetCampaignRequest,
    ListCampaignsRequest, ListTagUsagesRequest, UpdateCampaignRequest, WebhookAction,
};

use super::{
    activate, ask, assign, create, draft, enroll, exit, go_to, node, pause, set, stands_at, start, wait, wait_until,
};
use crate::support::{Receiver, Taghook, both, check_error, check_invalid, mask};

fn update(campaign: Campaign, paths: &[&str]) -> UpdateCampaignRequest {
    UpdateCampaignRequest { campaign: Some(campaign), update_mask: mask(paths), ..Default::default() }
}

both! {
    async fn a_campaign_from_its_draft_to_its_drawing(t: Taghook) {
        let receiver = Receiver::start().await;
        let (begin, vip) = (t.tag("begin").await, t.tag("Käufer").await);
        let webhook = t.webhook(&receiver, &vip, |webhook| webhook.name = "shop".into()).await;
        let nodes = vec![
            node("hold", "ask", wait(600)),
            ask("ask", "'x' in contact.tags", "call", "tag"),
            node("call", "exit", Action::Webhook(WebhookAction { webhook_id: webhook.id })),
            node("tag", "exit", assign(&vip)),
            exit(),
        ];
        let mut given = draft("Willkommen", Some(&begin), nodes.clone());
        given.description = "for new ones".into();
        let campaign = create(&t, given.clone()).await;
        assert_eq!((campaign.state(), campaign.reentry()), (State::Draft, Reentry::AfterExit));
        assert_eq!((&campaign.nodes, &campaign.description), (&nodes, &given.description));
        let request = CreateCampaignRequest { campaign: Some(given), ..Default::default() };
        check_error(t.client.campaigns().create_campaign(request).await, Code::AlreadyExists, ErrorReason::AlreadyExists);
        assert_eq!(activate(&t, &campaign).await.state(), State::Active);
        enroll(&t, &campaign, &t.contact("ada@example.com").await).await;
        stands_at(&t, &campaign, "hold").await;

        let request = GetCampaignRequest { id: campaign.id.clone(), with_diagram: true, with_node_counts: true };
        let shown = t.client.campaigns().get_campaign(request).await.unwrap().into_inner();
        assert!(shown.diagram.starts_with("flowchart TD\n") && shown.diagram.contains("call shop"), "{}", shown.diagram);
        assert!(shown.diagram.contains("1 waiting") && shown.diagram.contains("K#228;ufer"), "{}", shown.diagram);
        let counts: Vec<_> = shown.node_counts.iter().map(|count| (count.node_key.as_str(), count.waiting_count)).collect();
        assert_eq!(counts, [("hold", 1)]);
        let request = GetCampaignRequest { id: campaign.id.clone(), ..Default::default() };
        let plain = t.client.campaigns().get_campaign(request).await.unwrap().into_inner();
        assert_eq!((plain.diagram.as_str(), plain.node_counts.len()), ("", 0));
        let list = t.client.campaigns().list_campaigns(ListCampaignsRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.campaigns, [plain]);
        let request = ListTagUsagesRequest { id: vip.id.clone(), ..Default::default() };
        let usages = t.client.tags().list_tag_usages(request).await.unwrap().into_inner().usages;
        assert_eq!(usages[1].user, Some(User::CampaignId(campaign.id.clone())));
        let mut request = DeleteTagRequest { id: begin.id, ..Default::default() };
        let refused = t.client.tags().delete_tag(request.clone()).await;
        check_error(refused, Code::FailedPrecondition, ErrorReason::InUse);
        request.force = true;
        t.client.tags().delete_tag(request).await.unwrap();
        let request = GetCampaignRequest { id: campaign.id, ..Default::default() };
        assert_eq!(t.client.campaigns().get_campaign(request).await.unwrap().into_inner().start_tag_id, "");
    }

    async fn what_an_active_campaign_does_is_changed_only_while_it_is_paused(t: Taghook) {
        let campaign = create(&t, draft("c", None, vec![exit()])).await;
        let campaign = activate(&t, &campaign).await;
        let nodes = vec![node("wait", "exit", wait(1)), exit()];
        let changed = Campaign { id: campaign.id.clone(), nodes, ..Default::default() };
        let mut campaigns = t.client.campaigns();
        let refused = campaigns.update_campaign(update(changed.clone(), &["nodes"])).await;
        check_error(refused, Code::FailedPrecondition, ErrorReason::WrongState);
        let renamed = Campaign { id: campaign.id.clone(), name: "renamed".into(), ..Default::default() };
        campaigns.update_campaign(update(renamed, &["name"])).await.unwrap();
        let paused = pause(&t, &campaign).await;
        let stale = Campaign { etag: campaign.etag, ..changed.clone() };
        check_error(campaigns.update_campaign(update(stale, &["nodes"])).await, Code::Aborted, ErrorReason::EtagMismatch);
        let fresh = Campaign { etag: paused.etag, ..changed };
        let updated = campaigns.update_campaign(update(fresh, &["nodes"])).await.unwrap().into_inner();
        assert_eq!((updated.nodes.len(), updated.name.as_str(), updated.state()), (2, "renamed", State::Paused));
    }

    async fn what_cannot_work_is_refused_with_its_node(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("tag").await;
        let nobody = Campaign { id: "cmp_01jd7z1v5rf5xv0m2yq8t3w9ka".into(), ..Default::default() };
        let cases = [
            (vec![], "campaign.nodes"),
            (vec![node("a", "", assign(&tag))], "campaign.nodes[0].next_key"),
            (vec![node("a", "b", assign(&tag))], "campaign.nodes[0].next_key"),
            (vec![exit(), node("b", "exit", assign(&tag))], "campaign.nodes[1]"),
            (vec![ask("a", "true", "exit", "nowhere"), exit()], "campaign.nodes[0].decision.else_key"),
            (vec![node("a", "b", assign(&tag)), go_to("b", "a")], "campaign.nodes[0]"),
            (vec![node("a", "exit", start(&nobody)), exit()], "campaign.nodes[0].start_campaign.campaign_id"),
            (vec![node("a", "exit", set("nothing", "1")), exit()], "campaign.nodes[0].set_field.field_key"),
            (vec![node("a", "exit", set("birthday", "soon")), exit()], "campaign.nodes[0].set_field.value"),
            (vec![node("a", "exit", wait_until("city")), exit()], "campaign.nodes[0].wait.field_key"),
        ];
        for (index, (nodes, field)) in cases.into_iter().enumerate() {
            let campaign = create(&t, draft(&format!("c{index}"), None, nodes)).await;
            let request = ActivateCampaignRequest { id: campaign.id.clone(), ..Default::default() };
            check_invalid(t.client.campaigns().activate_campaign(request).await, &[field]);
            let request = taghook_client::v1::EnrollContactRequest {
                campaign_id: campaign.id,
                contact: by_id(&contact.id),
                ..Default::default()
            };
            let refused = t.client.campaigns().enroll_contact(request).await;
            check_error(refused, Code::FailedPrecondition, ErrorReason::WrongState);
        }
        let refuse = async |nodes, field: &str| {
            let request = CreateCampaignRequest { campaign: Some(draft("x", None, nodes)), ..Default::default() };
            check_invalid(t.client.campaigns().create_campaign(request).await, &[field]);
        };
        refuse(vec![exit(), exit()], "campaign.nodes[1].key").await;
        refuse(vec![ask("a", "contact.", "exit", "exit"), exit()], "campaign.nodes[0].decision.condition").await;
        refuse(vec![ask("a", "payload.type == 'x'", "exit", "exit")], "campaign.nodes[0].decision.condition").await;
        let bad = Action::Webhook(WebhookAction { webhook_id: "x".into() });
        refuse(vec![node("a", "exit", bad)], "campaign.nodes[0].webhook.webhook_id").await;
    }
}
