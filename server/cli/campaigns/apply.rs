//! `taghook campaigns apply`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use prost_types::FieldMask;
use taghook_client::v1::campaign::State;
use taghook_client::v1::{
    ActivateCampaignRequest, Campaign, CreateCampaignRequest, PauseCampaignRequest, UpdateCampaignRequest,
};
use taghook_client::{Client, Error};
use tonic::Status;

use super::connect::told;
use super::file::{File, Kind, MAX_BYTES, Problem, line_of};
use super::names::Names;
use super::{Failure, Result, state_text};

/// Creates or updates the campaign of a file. Answers with what it did.
///
/// # Errors
///
/// Everything that is wrong with the file; the server's.
pub(super) async fn run(names: &mut Names, path: &Path, activate: bool) -> Result<String> {
    let source = Source::read(path)?;
    let file = File::parse(&source.text).map_err(|problem| source.refuse(&[problem]))?;
    let wanted = resolve(names, &source, &file).await?;
    let current = match names.ids(Kind::Campaign, &file.name).await?.pop() {
        Some(_) if Kind::Campaign.is_id(&file.name) => {
            let text = "`name` must not be an id: it finds the campaign".to_owned();
            return Err(source.refuse(&[Problem { line: None, text }]));
        }
        Some(id) => Some(names.campaign(&id).await?),
        None => None,
    };
    let apply = Apply { client: names.client(), source: &source, file: &file, activate };
    match current {
        Some(current) => apply.update(current, wanted).await,
        None => apply.create(wanted).await,
    }
}

/// The text of a file, and what it is called.
struct Source {
    name: String,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Self> {
        let is_stdin = path.as_os_str() == "-";
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let unreadable = |error: std::io::Error| format!("{name} can't be read: {error}");
        let input: Box<dyn Read> = if is_stdin {
            Box::new(std::io::stdin())
        } else {
            Box::new(std::fs::File::open(path).map_err(unreadable)?)
        };
        let mut text = String::new();
        input.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(format!("{name} has more than {MAX_BYTES} bytes").into());
        }
        Ok(Self { name, text })
    }

    /// All problems, one a line.
    fn refuse(&self, problems: &[Problem]) -> Failure {
        let mut text = String::from("the file isn't right; nothing was changed");
        for problem in problems {
            let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
            // Writing to a String can't fail.
            let _ = write!(text, "\n{}{line}: {}", self.name, problem.text);
        }
        text.into()
    }
}

/// The campaign that a file means, with the ids of what it names.
async fn resolve(names: &mut Names, source: &Source, file: &File) -> Result<Campaign> {
    let (mut known, mut problems) = (BTreeMap::new(), Vec::new());
    for (kind, name, line) in file.references() {
        let noun = kind.noun();
        match names.ids(kind, name).await?.as_slice() {
            [id] => {
                known.insert((kind, name.to_owned()), id.clone());
            }
            [] => {
                let text = format!("there is no {noun} {name:?}; create it first, or correct the name");
                problems.push(Problem { line, text });
            }
            several => {
                let text = format!(
                    "{} {noun}s have the name {name:?}; give the id of one: {}",
                    several.len(),
                    several.join(", ")
                );
                problems.push(Problem { line, text });
            }
        }
    }
    let id = |kind: Kind, name: &str| known.get(&(kind, name.to_owned())).cloned().unwrap_or_default();
    let campaign = match file.to_campaign(&id) {
        Ok(campaign) => campaign,
        Err(more) => {
            problems.extend(more);
            Campaign::default()
        }
    };
    if problems.is_empty() {
        return Ok(campaign);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(source.refuse(&problems))
}

struct Apply<'a> {
    client: &'a Client,
    source: &'a Source,
    file: &'a File,
    activate: bool,
}

impl Apply<'_> {
    async fn create(&self, wanted: Campaign) -> Result<String> {
        let request = CreateCampaignRequest { campaign: Some(wanted), ..Default::default() };
        let created = self.client.campaigns().create_campaign(request).await;
        let created = created.map_err(|status| self.refused(status))?.into_inner();
        let name = &created.name;
        if !self.activate {
            return Ok(format!("created {name:?}, a draft; --activate lets contacts enter\n"));
        }
        match self.activate(&created).await {
            Ok(_) => Ok(format!("created and activated {name:?}\n")),
            Err(status) => Err(self.left(status, &format!("{name:?} was created, but stays a draft"))),
        }
    }

    async fn update(&self, current: Campaign, wanted: Campaign) -> Result<String> {
        let (name, is_active) = (current.name.clone(), current.state() == State::Active);
        let changed = differences(&current, &wanted);
        if changed.is_empty() {
            if is_active || !self.activate {
                return Ok(format!(
                    "{name:?} is as the file says, {}; nothing was changed\n",
                    state_text(current.state())
                ));
            }
            self.activate(&current).await.map_err(|status| self.left(status, &format!("{name:?} wasn't changed")))?;
            return Ok(format!("activated {name:?}\n"));
        }
        let told = changed.join(", ");
        let does_other = changed.iter().any(|path| *path != "description");
        if !is_active || !does_other {
            let updated = self.write(&current, &wanted, &changed).await.map_err(|status| self.refused(status))?;
            if is_active || !self.activate {
                return Ok(format!("updated {name:?}, {}: {told}\n", state_text(updated.state())));
            }
            let done = self.activate(&updated).await;
            done.map_err(|status| self.left(status, &format!("{name:?} was updated, but isn't active")))?;
            return Ok(format!("updated and activated {name:?}: {told}\n"));
        }
        if !self.activate {
            return Err(format!(
                "{name:?} is active, and the file says otherwise ({told}); nothing was changed. With --activate it is paused, \
                 updated and activated again"
            )
            .into());
        }
        self.replace(current, &wanted, &changed).await?;
        Ok(format!("updated and activated {name:?} again: {told}\n"))
    }

    /// Changes what an active campaign does. If that can't be activated, it does again what it did.
    async fn replace(&self, current: Campaign, wanted: &Campaign, changed: &[&str]) -> Result<()> {
        let request = PauseCampaignRequest { id: current.id.clone(), etag: current.etag.clone(), ..Default::default() };
        let paused = self.client.campaigns().pause_campaign(request).await.map_err(told)?.into_inner();
        let (mut last, mut is_changed) = (paused, false);
        let failed = match self.write(&last, wanted, changed).await {
            Ok(updated) => {
                (last, is_changed) = (updated, true);
                match self.activate(&last).await {
                    Ok(_) => return Ok(()),
                    Err(status) => status,
                }
            }
            Err(status) => status,
        };
        let name = &current.name;
        if is_changed {
            match self.write(&last, &current, changed).await {
                Ok(restored) => last = restored,
                Err(_) => return Err(self.left(failed, &format!("{name:?} was updated, and is paused now"))),
            }
        }
        match self.activate(&last).await {
            Ok(_) => Err(self.refused(failed)),
            Err(_) => Err(self.left(failed, &format!("{name:?} wasn't changed, but is paused now"))),
        }
    }

    async fn write(&self, last: &Campaign, wanted: &Campaign, changed: &[&str]) -> Result<Campaign, Status> {
        let campaign = Campaign { id: last.id.clone(), etag: last.etag.clone(), ..wanted.clone() };
        let update_mask = Some(FieldMask { paths: changed.iter().map(|path| (*path).to_owned()).collect() });
        let request = UpdateCampaignRequest { campaign: Some(campaign), update_mask, ..Default::default() };
        Ok(self.client.campaigns().update_campaign(request).await?.into_inner())
    }

    async fn activate(&self, campaign: &Campaign) -> Result<Campaign, Status> {
        let request =
            ActivateCampaignRequest { id: campaign.id.clone(), etag: campaign.etag.clone(), ..Default::default() };
        Ok(self.client.campaigns().activate_campaign(request).await?.into_inner())
    }

    /// What the server has against it, where the file says so.
    fn refused(&self, status: Status) -> Failure {
        match self.problems(&status) {
            Some(problems) => self.source.refuse(&problems),
            None => told(status),
        }
    }

    /// The same, after something was changed.
    fn left(&self, status: Status, how: &str) -> Failure {
        let mut text = format!("{how}:");
        for problem in self.problems(&status).unwrap_or_default() {
            let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
            let _ = write!(text, "\n{}{line}: {}", self.source.name, problem.text);
        }
        if text.ends_with(':') {
            let _ = write!(text, " {}", told(status));
        }
        text.into()
    }

    fn problems(&self, status: &Status) -> Option<Vec<Problem>> {
        let violations = Error::from(status.clone()).violations;
        let problem = |violation: &taghook_client::Violation| {
            let path = violation.field.strip_prefix("campaign.").unwrap_or(&violation.field);
            let node = path.strip_prefix("nodes[").and_then(|rest| rest.split_once(']'));
            let node = node.and_then(|(index, field)| {
                Some((self.file.nodes.get(index.parse::<usize>().ok()?)?, field.trim_start_matches('.')))
            });
            let Some((node, field)) = node else {
                return Problem { line: None, text: format!("{path}: {}", violation.description) };
            };
            let (line, key) = (line_of(node), &node.value.key);
            let named = format!("node `{key}`: ");
            let what = violation.description.strip_prefix(&named).unwrap_or(&violation.description);
            // The file's `next` is the wire's `next_key`.
            let field = field.strip_suffix("_key").unwrap_or(field);
            Problem { line, text: format!("{named}{field}: {what}") }
        };
        let problems: Vec<Problem> = violations.iter().map(problem).collect();
        (!problems.is_empty()).then_some(problems)
    }
}

/// The fields in which a campaign isn't as it is wanted.
fn differences(current: &Campaign, wanted: &Campaign) -> Vec<&'static str> {
    let fields = [
        ("description", current.description != wanted.description),
        ("start_tag_id", current.start_tag_id != wanted.start_tag_id),
        ("reentry", current.reentry != wanted.reentry),
        ("nodes", current.nodes != wanted.nodes),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(path, _)| path).collect()
}
