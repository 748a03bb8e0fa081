//! The conditions of webhooks: which triggers they keep from being sent.

use std::collections::HashSet;

use super::Trigger;
use crate::domain::condition::{Condition, Facts};
use crate::domain::delivery::{Reason, Source};
use crate::domain::time::Micros;
use crate::domain::trigger_data::TriggerData;
use crate::error::Result;
use crate::ids::ContactId;
use crate::store::{Tx, contact_tag};

/// Whether a condition decides about a trigger. None does about a test, which is to show what is sent, nor about the deletion
/// of a contact, of which the receiver must learn whatever the contact was.
pub(super) fn is_guarded(trigger: &Trigger) -> bool {
    let is_asked = matches!(trigger.source, Source::Tag | Source::Campaign | Source::Api);
    is_asked && trigger.webhook.condition.is_some()
}

/// Why conditions keep triggers from being sent, in the order of the triggers; `None` for those that may be sent. Nothing is
/// read from the database unless a condition reads tags.
///
/// # Errors
///
/// The database's.
pub(super) async fn unmet(tx: &Tx, triggers: &[&Trigger]) -> Result<Vec<Option<Reason>>> {
    let reads_tags = |trigger: &&&Trigger| trigger.webhook.condition.as_ref().is_some_and(Condition::reads_tags);
    let tagged: HashSet<ContactId> = triggers.iter().filter(reads_tags).map(|trigger| trigger.contact.id).collect();
    let tags = contact_tag::names(tx.db(), &tagged.into_iter().collect::<Vec<_>>()).await?;
    let unmet = triggers.iter().map(|trigger| {
        let tags = tags.get(&trigger.contact.id).map_or(&[][..], Vec::as_slice);
        trigger.unmet(tags, tx.now())
    });
    Ok(unmet.collect())
}

/// Why the webhook's condition keeps one trigger from being sent; `None` if it may be sent.
///
/// # Errors
///
/// The database's.
pub(super) async fn unmet_one(tx: &Tx, trigger: &Trigger) -> Result<Option<Reason>> {
    let guarded: Vec<&Trigger> = Some(trigger).filter(|trigger| is_guarded(trigger)).into_iter().collect();
    Ok(unmet(tx, &guarded).await?.pop().flatten())
}

impl Trigger {
    /// Why the webhook's condition keeps the trigger from being sent; `None` if it is met, or if there is none. `tags` are
    /// the names of the contact's tags.
    #[must_use]
    pub fn unmet(&self, tags: &[String], now: Micros) -> Option<Reason> {
        let condition = self.webhook.condition.as_ref()?;
        let data = self.origin.data.as_deref();
        let facts = Facts {
            event: data.and_then(TriggerData::event_facts),
            values: data.map(|data| &data.values),
            contact: &self.contact,
            field_type: &|key| self.config.field_type(key),
            tags,
            now,
        };
        match condition.holds(&facts) {
            Ok(true) => None,
            Ok(false) => Some(Reason::ConditionNotMet),
            Err(_) => Some(Reason::ConditionFailed),
        }
    }
}
