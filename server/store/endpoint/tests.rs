use std::time::Duration;

use super::gauge::{LATE, MAX_AHEAD};
use super::*;
use crate::domain::breaker::Signal;
use crate::domain::delivery::Reason;
use crate::domain::retry::Schedule;
use crate::domain::webhook::{CooldownPolicy, Definition, Webhook, WebhookState};

const NOW: Micros = Micros(1_767_254_400_000_000);
const SENDERS: usize = 256;
const UNWELL: Signal = Signal::Unwell { wish: None };

fn webhook(number: u128, change: impl FnOnce(&mut Webhook)) -> PreparedWebhook {
    let definition = Definition {
        url: "https://example.com/".to_owned(),
        activation_tag_ids: Vec::new(),
        on_contact_deleted: false,
        only_when_newly_assigned: false,
        condition: None,
        cooldown: Duration::ZERO,
        cooldown_policy: CooldownPolicy::Suppress,
        events: Vec::new(),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        schedule: Schedule::none(),
        max_concurrency: 4,
        rate_limit: 0.0,
        ordered: false,
    };
    let mut webhook = Webhook {
        id: WebhookId(uuid::Uuid::from_u128(number)),
        workspace_id: workspace(),
        name: String::new(),
        key: None,
        labels: Default::default(),
        state: WebhookState::Active,
        state_reason: Reason::None,
        state_since: NOW,
        definition,
        secrets: Vec::new(),
        failing_since: None,
        version: 1,
        created: NOW,
        updated: NOW,
    };
    change(&mut webhook);
    PreparedWebhook::new(webhook).unwrap()
}

fn workspace() -> WorkspaceId {
    WorkspaceId(uuid::Uuid::nil())
}

/// All slots that can be had.
fn fill(endpoints: &Arc<Endpoints>, webhook: &PreparedWebhook, entry: Entry) -> Vec<Slot> {
    let mut slots = Vec::new();
    while let Some(slot) = endpoints.enter(webhook, entry, SENDERS - slots.len(), NOW) {
        slots.push(slot);
    }
    slots
}

/// Slots whose turn has come, and those that wait.
async fn begin(slots: Vec<Slot>) -> (Vec<Slot>, Vec<tokio::task::JoinHandle<Option<Slot>>>) {
    let (mut begun, mut waiting) = (Vec::new(), Vec::new());
    for mut slot in slots {
        let mut has_to_wait = false;
        let turn = {
            let mut turn = Box::pin(slot.turn(|| has_to_wait = true));
            futures_util::poll!(&mut turn).is_ready()
        };
        if turn {
            begun.push(slot);
        } else {
            assert!(has_to_wait);
            waiting.push(tokio::spawn(async move { slot.turn(|| ()).await.then_some(slot) }));
        }
    }
    tokio::task::yield_now().await;
    (begun, waiting)
}

#[test]
fn the_free_senders_are_shared() {
    let share = |admitted, free| Gauge { admitted, ..Gauge::new(workspace()) }.share(8, free);
    // One leaves half, the next a third, and whoever has none gets one.
    for (admitted, free, expected) in
        [(0, 8, 4), (4, 4, 0), (0, 4, 2), (2, 2, 0), (0, 2, 1), (1, 1, 0), (0, 1, 1), (0, 0, 0), (3, 8, 3)]
    {
        assert_eq!(share(admitted, free), expected, "{admitted} of {free}");
    }
    // What can be taken at once can be taken one by one.
    for free in 0..=8 {
        let (mut admitted, mut left) = (0, free);
        while share(admitted, left) > 0 {
            (admitted, left) = (admitted + 1, left - 1);
        }
        assert_eq!(admitted, share(0, free), "{free}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quick_endpoint_is_leased_ahead_of_its_cap_a_slow_one_is_not() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |_| {}));
    let slots = fill(&endpoints, &webhook, Entry::Common);
    assert_eq!(slots.len(), 4 + MAX_AHEAD);
    let (begun, waiting) = begin(slots).await;
    assert_eq!((begun.len(), waiting.len()), (4, MAX_AHEAD));
    // Nothing has ended: they give up, and no more are leased ahead.
    for slot in waiting {
        assert!(slot.await.unwrap().is_none());
    }
    assert_eq!(fill(&endpoints, &webhook, Entry::Common).len(), 0);
    drop(begun);
    assert_eq!(fill(&endpoints, &webhook, Entry::Common).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn turns_come_one_after_the_other() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |_| {}));
    let slots = fill(&endpoints, &webhook, Entry::Common);
    let (mut begun, waiting) = begin(slots).await;
    for slot in waiting.into_iter().take(10) {
        drop(begun.pop());
        begun.push(slot.await.unwrap().expect("its turn"));
        assert_eq!(begun.len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_is_not_sent_once_the_breaker_is_open() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |webhook| webhook.definition.max_concurrency = 8));
    let slots = fill(&endpoints, &webhook, Entry::Common);
    let late = endpoints.enter(&webhook, Entry::Common, 0, NOW);
    assert!(late.is_none());
    let (begun, waiting) = begin(slots).await;
    let began = tokio::time::Instant::now();
    for slot in begun.iter().take(5) {
        slot.report(UNWELL, NOW, 0.0);
    }
    for slot in waiting {
        assert!(slot.await.unwrap().is_none());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(endpoints.enter(&webhook, Entry::Common, SENDERS, NOW).is_none());
    assert!(endpoints.enter(&webhook, Entry::Forced, SENDERS, NOW).is_some());
}

#[tokio::test]
async fn whoever_was_admitted_before_the_breaker_opened_is_not_sent_after() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |webhook| webhook.definition.max_concurrency = 8));
    let mut slots = fill(&endpoints, &webhook, Entry::Common);
    let mut last = slots.pop().unwrap();
    for slot in slots.iter().take(5) {
        slot.report(UNWELL, NOW, 0.0);
    }
    assert!(!last.turn(|| ()).await);
}

#[test]
fn a_slot_that_is_not_used_costs_nothing() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |webhook| webhook.definition.rate_limit = 2.0));
    for _ in 0..3 {
        let slots = fill(&endpoints, &webhook, Entry::Common);
        assert_eq!(slots.len(), 2);
    }
}

#[test]
fn new_deliveries_stand_behind_those_in_the_lane() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |_| {}));
    endpoints.note_rows(webhook.webhook.id, workspace());
    assert!(endpoints.enter(&webhook, Entry::Common, SENDERS, NOW).is_none());
    assert!(endpoints.is_blocked(&webhook, NOW));
    assert!(endpoints.enter(&webhook, Entry::Lane, SENDERS, NOW).is_some());
    let lanes = endpoints.ready(8, SENDERS, NOW);
    // Rows that came meanwhile may not have been seen.
    endpoints.note_rows(webhook.webhook.id, workspace());
    endpoints.looked_at(&lanes[0], Found::End);
    assert!(endpoints.is_any_ready(SENDERS, NOW));
    let lanes = endpoints.ready(8, SENDERS, NOW);
    endpoints.looked_at(&lanes[0], Found::End);
    assert!(!endpoints.is_any_ready(SENDERS, NOW));
    assert!(endpoints.enter(&webhook, Entry::Common, SENDERS, NOW).is_some());
}

#[test]
fn lanes_have_their_turns() {
    let endpoints = Endpoints::new(SENDERS);
    for number in 1..=5 {
        endpoints.note_rows(WebhookId(uuid::Uuid::from_u128(number)), workspace());
    }
    let mut turns = Vec::new();
    for _ in 0..5 {
        turns.extend(endpoints.ready(2, SENDERS, NOW).into_iter().map(|lane| lane.webhook_id.0.as_u128()));
    }
    assert_eq!(turns, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
}

#[test]
fn a_lane_is_read_from_where_the_last_claim_came_to() {
    let (endpoints, id) = (Endpoints::new(SENDERS), WebhookId(uuid::Uuid::from_u128(1)));
    let floor = || endpoints.ready(1, SENDERS, NOW).first().map(|lane| lane.floor);
    endpoints.note_rows(id, workspace());
    assert_eq!(floor(), Some(Micros::MIN));
    let lane = endpoints.ready(1, SENDERS, NOW).remove(0);
    endpoints.looked_at(&lane, Found::Rows(Some(NOW)));
    assert_eq!(floor(), Some(NOW.saturating_sub(LATE)));
    // The look at everything finds what came too late for that.
    endpoints.note_found(id, workspace());
    assert_eq!(floor(), Some(Micros::MIN));
}

#[test]
fn another_origin_starts_afresh_another_path_does_not() {
    let endpoints = Endpoints::new(SENDERS);
    let at = |url: &str, version| {
        webhook(1, |webhook| {
            webhook.definition.url = url.to_owned();
            webhook.version = version;
        })
    };
    let first = at("https://one.example/", 1);
    for slot in fill(&endpoints, &first, Entry::Common).iter().take(5) {
        slot.report(UNWELL, NOW, 0.0);
    }
    assert!(endpoints.enter(&first, Entry::Common, SENDERS, NOW).is_none());
    assert!(endpoints.enter(&at("https://one.example/path", 2), Entry::Common, SENDERS, NOW).is_none());
    assert!(endpoints.enter(&at("https://two.example/", 3), Entry::Common, SENDERS, NOW).is_some());
}

#[test]
fn servers_share_a_cap() {
    let (endpoints, webhook) = (Endpoints::new(SENDERS), webhook(1, |webhook| webhook.definition.ordered = true));
    for (servers, expected) in [(1, 4), (2, 2), (3, 1), (9, 1), (0, 4)] {
        endpoints.set_servers(servers);
        assert_eq!(fill(&endpoints, &webhook, Entry::Lane).len(), expected, "{servers}");
    }
}

#[test]
fn gauges_that_nobody_needs_are_forgotten() {
    let endpoints = Endpoints::new(SENDERS);
    let kept = webhook(0, |_| {});
    let slot = endpoints.enter(&kept, Entry::Common, SENDERS, NOW);
    for number in 1..=3 * SWEEP_FROM as u128 {
        drop(endpoints.enter(&webhook(number, |_| {}), Entry::Common, SENDERS, NOW));
    }
    assert!(endpoints.lock().by_webhook.len() <= SWEEP_FROM);
    assert!(endpoints.lock().by_webhook.contains_key(&kept.webhook.id));
    drop(slot);
}
