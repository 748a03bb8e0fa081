use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::*;

const NOW: Micros = Micros(1_000_000_000);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn secret(scheme: SignatureScheme, seed: u64) -> SigningSecret {
    SigningSecret::generate(scheme, &mut StdRng::seed_from_u64(seed))
}

/// A webhook that signs by `v1` with secret 0.
fn webhook() -> Webhook {
    Webhook {
        id: WebhookId(Uuid::nil()),
        workspace_id: WorkspaceId(Uuid::nil()),
        name: "Hook".to_owned(),
        key: None,
        labels: Default::default(),
        state: WebhookState::Active,
        state_reason: Reason::None,
        state_since: NOW,
        definition: Definition {
            url: String::new(),
            activation_tag_ids: Vec::new(),
            on_contact_deleted: false,
            only_when_newly_assigned: false,
            condition: None,
            cooldown: DEFAULT_COOLDOWN,
            cooldown_policy: CooldownPolicy::Suppress,
            events: Vec::new(),
            headers: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            schedule: Schedule::default(),
            max_concurrency: DEFAULT_MAX_CONCURRENCY,
            rate_limit: 0.0,
            ordered: false,
        },
        secrets: vec![WebhookSecret::new(secret(SignatureScheme::V1, 0), NOW)],
        failing_since: None,
        version: 1,
        created: NOW,
        updated: NOW,
    }
}

fn after(hours: u32) -> Micros {
    NOW.saturating_add(HOUR * hours)
}

/// The seeds of the `v1` secrets that sign at a time.
#[track_caller]
fn check_live(webhook: &Webhook, at: Micros, seeds: &[u64]) {
    let live: Vec<_> = webhook.live_secrets(at).map(|live| live.secret.clone()).collect();
    let expected: Vec<_> = seeds.iter().map(|seed| secret(SignatureScheme::V1, *seed)).collect();
    assert!(live == expected, "{} secrets", live.len());
}

#[test]
fn former_secrets_sign_until_exactly_their_end() {
    let mut webhook = webhook();
    webhook.rotate_secret(secret(SignatureScheme::V1, 1), HOUR * 24, NOW).unwrap();
    check_live(&webhook, NOW, &[1, 0]);
    check_live(&webhook, Micros(after(24).0 - 1), &[1, 0]);
    check_live(&webhook, after(24), &[1]);
    // A shorter overlap is for all former ones; a longer one gives none of them more time.
    webhook.rotate_secret(secret(SignatureScheme::V1, 2), HOUR * 48, after(1)).unwrap();
    check_live(&webhook, Micros(after(24).0 - 1), &[2, 1, 0]);
    check_live(&webhook, after(24), &[2, 1]);
    webhook.rotate_secret(secret(SignatureScheme::V1, 3), HOUR, after(2)).unwrap();
    check_live(&webhook, after(2), &[3, 2, 1, 0]);
    check_live(&webhook, after(3), &[3]);
    webhook.rotate_secret(secret(SignatureScheme::V1, 4), Duration::ZERO, after(2)).unwrap();
    check_live(&webhook, after(2), &[4]);
    assert_eq!(webhook.secrets.len(), 1);
}

#[test]
fn there_is_a_bound_on_live_secrets() {
    let mut webhook = webhook();
    for (seed, hours) in (1..).zip([7, 3, 9, 5]) {
        webhook.rotate_secret(secret(SignatureScheme::V1, seed), HOUR * hours, NOW).unwrap();
    }
    let refused = webhook.clone().rotate_secret(secret(SignatureScheme::V1, 9), HOUR, NOW);
    assert_eq!(refused, Err(TooManySecrets { next_expiry: Some(after(3)) }));
    let refused = webhook.clone().sign_by(SignatureScheme::ALL, NOW, |scheme| secret(scheme, 9));
    assert_eq!(refused, Err(TooManySecrets { next_expiry: Some(after(3)) }));
    // Those that have expired make room, and so do those that are replaced at once.
    webhook.clone().rotate_secret(secret(SignatureScheme::V1, 9), HOUR, after(3)).unwrap();
    webhook.rotate_secret(secret(SignatureScheme::V1, 9), Duration::ZERO, NOW).unwrap();
    check_live(&webhook, NOW, &[9]);
}

#[test]
fn schemes_come_and_go_with_their_secrets() {
    use SignatureScheme::{V1, V1a};
    let mut webhook = webhook();
    webhook.rotate_secret(secret(V1, 1), HOUR, NOW).unwrap();
    assert_eq!(webhook.signature_schemes(), [V1]);
    webhook.sign_by(&[V1a, V1], NOW, |scheme| secret(scheme, 2)).unwrap();
    assert_eq!(webhook.signature_schemes(), [V1, V1a]);
    let live: Vec<_> = webhook.live_secrets(NOW).map(|live| live.secret.scheme()).collect();
    assert_eq!(live, [V1a, V1, V1]);
    // One scheme's rotation leaves the other's secrets alone.
    webhook.rotate_secret(secret(V1a, 3), Duration::ZERO, NOW).unwrap();
    assert!(webhook.secrets[0].secret == secret(V1a, 3) && webhook.secrets.len() == 3);
    webhook.sign_by(&[V1a], NOW, |scheme| secret(scheme, 4)).unwrap();
    assert_eq!((webhook.signature_schemes(), webhook.secrets.len()), (vec![V1a], 1));
    // What is kept isn't made anew.
    webhook.sign_by(&[V1a], NOW, |scheme| secret(scheme, 5)).unwrap();
    assert!(webhook.secrets[0].secret == secret(V1a, 3));
}
