//! Tags on the wire.

use crate::domain::condition::{Condition, Scope};
use crate::domain::effect::Effects;
use crate::domain::event::EventType;
use crate::domain::rule::{AttributeMatch, Rule};
use crate::domain::tag::{Tag, TagKind};
use crate::domain::time::Micros;
use crate::error::{Result, Violations};
use crate::ids::TagId;
use crate::pb;
use crate::rpc::call::etag_of;
use crate::rpc::convert::{code, refuse_nul, texts, timestamp};
use crate::store::tag::TagUser;

/// Checks a whole tag, new or merged.
pub(super) fn parse(tag: &pb::Tag, id: TagId, updated: Micros, version: i64) -> Result<Tag> {
    let mut violations = Violations::default();
    violations.check_rules("tag", tag)?;
    refuse_nul("tag.name", &tag.name, &mut violations);
    refuse_nul("tag.description", &tag.description, &mut violations);
    let kind = kind_of(tag.kind()).unwrap_or(TagKind::Manual);
    let effects = parse_effects(tag.effects.as_ref(), kind, &mut violations);
    let rule = parse_rule(tag.rule.as_ref(), kind, &mut violations);
    violations.finish()?;
    Ok(Tag {
        id,
        name: tag.name.clone(),
        kind,
        description: tag.description.clone(),
        labels: tag.labels.clone(),
        effects,
        rule,
        version,
        created: updated,
        updated,
    })
}

fn parse_effects(effects: Option<&pb::tag::Effects>, kind: TagKind, violations: &mut Violations) -> Effects {
    let Some(effects) = effects else { return Effects::default() };
    let effects = Effects {
        assign: violations.ids("tag.effects.assign_tag_ids", &effects.assign_tag_ids),
        remove: violations.ids("tag.effects.remove_tag_ids", &effects.remove_tag_ids),
    };
    if kind != TagKind::Manual && !effects.is_empty() {
        violations.add_if_new("tag.effects", "TAG_KIND", "must be empty: manual tags alone have effects");
    }
    effects
}

fn parse_rule(rule: Option<&pb::SmartRule>, kind: TagKind, violations: &mut Violations) -> Option<Rule> {
    match (rule, kind) {
        (Some(rule), TagKind::Smart) => {
            let event_type = EventType::parse_heard(&rule.event_type);
            let event_type = violations.take("tag.rule.event_type", "EVENT_TYPE", event_type);
            let source = Some(&rule.condition).filter(|source| !source.is_empty());
            let condition = source.map(|source| Condition::parse(source, Scope::Event)).transpose();
            let condition = violations.take("tag.rule.condition", "CONDITION", condition);
            let attributes = parse_attributes(&rule.attributes, violations);
            Some(Rule { event_type: event_type?.as_str().to_owned(), attributes, condition: condition? })
        }
        (None, TagKind::Smart) => {
            violations.add_if_new("tag.rule", "REQUIRED", "must be given: it says which events assign the tag");
            None
        }
        (Some(_), TagKind::Manual | TagKind::SmartLink) => {
            violations.add_if_new("tag.rule", "TAG_KIND", "must be absent: smart tags alone have a rule");
            None
        }
        (None, TagKind::Manual | TagKind::SmartLink) => None,
    }
}

fn parse_attributes(attributes: &[pb::smart_rule::AttributeMatch], violations: &mut Violations) -> Vec<AttributeMatch> {
    for (index, attribute) in attributes.iter().enumerate() {
        refuse_nul(&format!("tag.rule.attributes[{index}].name"), &attribute.name, violations);
        refuse_nul(&format!("tag.rule.attributes[{index}].value"), &attribute.value, violations);
    }
    let attribute = |attribute: &pb::smart_rule::AttributeMatch| AttributeMatch {
        name: attribute.name.clone(),
        value: attribute.value.clone(),
    };
    attributes.iter().map(attribute).collect()
}

pub(super) fn kind_of(kind: pb::tag::Kind) -> Option<TagKind> {
    TagKind::from_code(code(kind))
}

pub(super) fn to_pb(tag: Tag) -> pb::Tag {
    pb::Tag {
        id: tag.id.to_string(),
        name: tag.name,
        kind: tag.kind.code().into(),
        description: tag.description,
        create_time: Some(timestamp(tag.created)),
        update_time: Some(timestamp(tag.updated)),
        etag: etag_of(tag.version),
        effects: (!tag.effects.is_empty()).then(|| pb::tag::Effects {
            assign_tag_ids: texts(&tag.effects.assign),
            remove_tag_ids: texts(&tag.effects.remove),
        }),
        rule: tag.rule.map(rule_to_pb),
        labels: tag.labels,
    }
}

fn rule_to_pb(rule: Rule) -> pb::SmartRule {
    let attribute =
        |attribute: AttributeMatch| pb::smart_rule::AttributeMatch { name: attribute.name, value: attribute.value };
    pb::SmartRule {
        event_type: rule.event_type,
        attributes: rule.attributes.into_iter().map(attribute).collect(),
        condition: rule.condition.map(|condition| condition.source().to_owned()).unwrap_or_default(),
    }
}

pub(super) fn usage_to_pb((user, display_name): (TagUser, String)) -> pb::TagUsage {
    use pb::tag_usage::User;
    let user = match user {
        TagUser::Webhook(id) => User::WebhookId(id.to_string()),
        TagUser::Tag(id) => User::TagId(id.to_string()),
        TagUser::Campaign(id) => User::CampaignId(id.to_string()),
    };
    pb::TagUsage { user: Some(user), display_name }
}
