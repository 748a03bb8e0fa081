//! How enrollments are read, what nodes count, and who leaves when a node is removed.

use taghook_client::Code;
use taghook_client::v1::enrollment::State;
use taghook_client::v1::list_enrollments_request::Filter;
use taghook_client::v1::timeline_entry::{Entry, Kind};
use taghook_client::v1::{
    Campaign, Contact, CreateTagRequest, DeleteCampaignRequest, Enrollment, ErrorReason, GetCampaignRequest,
    GetEnrollmentRequest, ListEnrollmentsRequest, ListEnrollmentsResponse, SmartRule, Tag, UpdateCampaignRequest, tag,
};

use super::{activate, ask, campaign, create, draft, ended, enroll, exit, node, pause, set, stands_at, wait};
use crate::support::{Taghook, both, check_error, check_invalid, mask, within};

/// The longest wait there is.
const YEAR: i64 = 365 * 24 * 60 * 60;

async fn list(t: &Taghook, campaign: &str, filter: Filter) -> ListEnrollmentsResponse {
    let request = ListEnrollmentsRequest {
        campaign_id: campaign.into(),
        filter: Some(filter),
        with_total_size: true,
        ..Default::default()
    };
    t.client.campaigns().list_enrollments(request).await.expect("enrollments").into_inner()
}

fn of_contact(contact: &Contact) -> Filter {
    Filter { contact_id: contact.id.clone(), ..Default::default() }
}

fn ids(list: &ListEnrollmentsResponse) -> Vec<&str> {
    list.enrollments.iter().map(|enrollment| enrollment.id.as_str()).collect()
}

async fn get(t: &Taghook, id: &str) -> Enrollment {
    let request = GetEnrollmentRequest { id: id.into() };
    t.client.campaigns().get_enrollment(request).await.expect("an enrollment").into_inner()
}

/// A campaign's nodes with how many wait there and how many passed.
async fn counts(t: &Taghook, campaign: &Campaign) -> Vec<(String, i32, i64)> {
    let request = GetCampaignRequest { id: campaign.id.clone(), with_node_counts: true, ..Default::default() };
    let counts = t.client.campaigns().get_campaign(request).await.expect("a campaign").into_inner().node_counts;
    counts.into_iter().map(|count| (count.node_key, count.waiting_count, count.passed_count)).collect()
}

async fn set_nodes(t: &Taghook, campaign: &Campaign, nodes: Vec<taghook_client::v1::CampaignNode>) {
    let changed = Campaign { id: campaign.id.clone(), nodes, ..Default::default() };
    let request =
        UpdateCampaignRequest { campaign: Some(changed), update_mask: mask(&["nodes"]), ..Default::default() };
    t.client.campaigns().update_campaign(request).await.expect("a change");
}

both! {
    async fn enrollments_are_read_by_campaign_and_by_contact(t: Taghook) {
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let first = campaign(&t, "first", None, vec![exit()]).await;
        let second = campaign(&t, "second", None, vec![node("hold", "exit", wait(YEAR)), exit()]).await;
        let mut ways = Vec::new();
        for (campaign, contact) in [(&first, &ada), (&second, &bob), (&second, &ada)] {
            ways.push(enroll(&t, campaign, contact).await.enrollment.unwrap().id);
            if campaign.id == first.id {
                ended(&t, &first).await;
            }
        }
        stands_at(&t, &second, "hold").await;
        ways.push(enroll(&t, &first, &ada).await.enrollment.unwrap().id);
        ended(&t, &first).await;

        assert_eq!(ids(&list(&t, "", of_contact(&ada)).await), [&*ways[0], &*ways[2], &*ways[3]]);
        assert_eq!(ids(&list(&t, &second.id, of_contact(&ada)).await), [&*ways[2]]);
        let of_first = list(&t, &first.id, Filter::default()).await;
        assert_eq!((ids(&of_first), of_first.total_size), (vec![&*ways[0], &*ways[3]], 2));
        let running = Filter { states: vec![State::Running.into()], node_key: "hold".into(), ..Default::default() };
        assert_eq!(ids(&list(&t, &second.id, running.clone()).await), [&*ways[1], &*ways[2]]);
        let running = list(&t, "", Filter { contact_id: ada.id.clone(), ..running }).await;
        assert_eq!((ids(&running), running.total_size), (vec![&*ways[2]], 1));
        assert_eq!(get(&t, &ways[3]).await, of_first.enrollments[1]);

        let request = ListEnrollmentsRequest { campaign_id: first.id.clone(), ..Default::default() };
        let uncounted = t.client.campaigns().list_enrollments(request).await.unwrap().into_inner();
        assert_eq!((uncounted.enrollments.len(), uncounted.total_size), (2, 0));
        let nobody = t.client.campaigns().list_enrollments(ListEnrollmentsRequest::default()).await;
        check_invalid(nobody, &["campaign_id"]);
        // Nobody sees what is left of a campaign that was deleted.
        let request = DeleteCampaignRequest { id: first.id, ..Default::default() };
        t.client.campaigns().delete_campaign(request).await.unwrap();
        assert_eq!(ids(&list(&t, "", of_contact(&ada)).await), [&*ways[2]]);
        let request = GetEnrollmentRequest { id: ways[0].clone() };
        check_error(t.client.campaigns().get_enrollment(request).await, Code::NotFound, ErrorReason::NotFound);
    }

    /// A page holds what began next, of whatever state.
    async fn enrollments_of_all_states_are_paged_together(t: Taghook) {
        let nodes = vec![ask("ask", "contact.fields.city == 'Ulm'", "exit", "hold"), node("hold", "exit", wait(YEAR)), exit()];
        let campaign = campaign(&t, "c", None, nodes).await;
        let mut ways = Vec::new();
        for index in 0..5 {
            let city = if index % 2 == 0 { "Ulm" } else { "Bonn" };
            let contact = t.contact_with(&format!("{index}@example.com"), &[("city", city)]).await;
            ways.push(enroll(&t, &campaign, &contact).await.enrollment.unwrap().id);
        }
        within("three ends", async {
            let finished = || Filter { states: vec![State::Finished.into()], ..Default::default() };
            while list(&t, &campaign.id, finished()).await.total_size < 3 {}
        })
        .await;
        let mut request =
            ListEnrollmentsRequest { campaign_id: campaign.id.clone(), page_size: 2, ..Default::default() };
        let mut paged = Vec::new();
        loop {
            let page = t.client.campaigns().list_enrollments(request.clone()).await.unwrap().into_inner();
            paged.extend(ids(&page).into_iter().map(ToOwned::to_owned));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, ways);
    }

    async fn nodes_count_who_waits_and_who_passed(t: Taghook) {
        let nodes = vec![
            ask("ask", "contact.fields.city == 'Ulm'", "exit", "set"),
            node("set", "hold", set("company", "Taghook")),
            node("hold", "exit", wait(YEAR)),
            exit(),
        ];
        let campaign = campaign(&t, "c", None, nodes).await;
        for (email, city) in [("a@example.com", "Ulm"), ("b@example.com", "Bonn"), ("c@example.com", "Ulm")] {
            enroll(&t, &campaign, &t.contact_with(email, &[("city", city)]).await).await;
        }
        stands_at(&t, &campaign, "hold").await;
        let expected = [("ask", 0, 3), ("exit", 0, 2), ("hold", 1, 0), ("set", 0, 1)];
        let expected = expected.map(|(key, waiting, passed)| (key.to_owned(), waiting, passed));
        within("two ends", async { while counts(&t, &campaign).await != expected {} }).await;
        let request = DeleteCampaignRequest { id: campaign.id, ..Default::default() };
        t.client.campaigns().delete_campaign(request).await.unwrap();
    }

    /// They don't wait for the end of a wait of a year.
    async fn contacts_whose_node_was_removed_leave_at_the_activation(t: Taghook) {
        let rule = SmartRule { event_type: "campaign.finished".into(), ..Default::default() };
        let left = Tag { name: "left".into(), kind: tag::Kind::Smart.into(), rule: Some(rule), ..Default::default() };
        let request = CreateTagRequest { tag: Some(left), ..Default::default() };
        let left = t.client.tags().create_tag(request).await.unwrap().into_inner();
        let kept = || vec![node("kept", "exit", wait(YEAR)), exit()];
        let mut nodes = vec![
            ask("ask", "contact.fields.city == 'Ulm'", "kept", "gone"),
            node("gone", "exit", wait(YEAR)),
        ];
        nodes.extend(kept());
        let campaign = create(&t, draft("c", None, nodes)).await;
        activate(&t, &campaign).await;
        let stays = t.contact_with("stays@example.com", &[("city", "Ulm")]).await;
        enroll(&t, &campaign, &stays).await;
        stands_at(&t, &campaign, "kept").await;
        let mut goers = Vec::new();
        for index in 0..3 {
            let contact = t.contact_with(&format!("{index}@example.com"), &[("city", "Bonn")]).await;
            enroll(&t, &campaign, &contact).await;
            goers.push(contact);
        }
        within("all at their waits", async {
            let at = || Filter { node_key: "gone".into(), ..Default::default() };
            while list(&t, &campaign.id, at()).await.total_size < 3 {}
        })
        .await;
        pause(&t, &campaign).await;
        set_nodes(&t, &campaign, kept()).await;
        activate(&t, &campaign).await;

        within("the end of three", async {
            let exited = || Filter { states: vec![State::Exited.into()], ..Default::default() };
            while list(&t, &campaign.id, exited()).await.total_size < 3 {}
        })
        .await;
        for goer in &goers {
            let [Entry::CampaignEnded(end)] = &t.told(goer, Kind::CampaignEnded).await[..] else { panic!("one end") };
            assert_eq!((&*end.node_key, &*end.error), ("gone", "its node was removed"));
            assert_eq!(t.held_tags(goer).await, [left.id.as_str()]);
        }
        let stood = list(&t, &campaign.id, of_contact(&stays)).await.enrollments.remove(0);
        assert_eq!((stood.state(), stood.node_key.as_str()), (State::Running, "kept"));
    }
}
