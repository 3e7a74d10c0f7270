//! From what a person types to devices: names, ids, and the nearest name when there is none.

use std::collections::BTreeSet;

use api::commands::wire::Targets;
use api::devices::DeviceView;
use protocol::id::{DeviceId, GroupName};

use super::Failure;
use crate::client::{Client, ClientError};
use crate::output::text;

/// Names that are suggested at most.
const SUGGESTIONS: usize = 3;

/// The targets that were typed. Names stay names, so that the control plane judges them at the
/// moment of the order.
pub async fn parse(
    client: &Client,
    typed: &[String],
    group: Option<GroupName>,
) -> Result<Targets, Failure> {
    if let Some(group) = group {
        return Ok(Targets::Group(group));
    }
    let ids: Vec<DeviceId> = typed.iter().filter_map(|text| text.parse().ok()).collect();
    if ids.is_empty() {
        return Ok(Targets::Names(typed.to_vec()));
    }
    if ids.len() == typed.len() {
        return Ok(Targets::Devices(ids));
    }
    let mut all = BTreeSet::new();
    for text in typed {
        all.insert(one(client, text).await?.id);
    }
    Ok(Targets::Devices(all.into_iter().collect()))
}

/// The one device of that name or id.
pub async fn one(client: &Client, typed: &str) -> Result<DeviceView, Failure> {
    if let Ok(id) = typed.parse::<DeviceId>() {
        return match client.get(&format!("/v1/devices/{id}")).await {
            Err(error) if error.problem_kind() == Some("not-found") => {
                Err(Failure::new(format!("no device has the id {id}")).next("see `tocsin devices`"))
            }
            outcome => Ok(outcome?),
        };
    }
    let query = [("name", typed.to_owned())];
    let mut found: Vec<DeviceView> = client.all("/v1/devices", &query, None).await?;
    if found.len() > 1 {
        found.retain(|device| device.revoked_at.is_none());
    }
    match found.len() {
        1 => found.pop().ok_or_else(|| unknown(typed, &[])),
        0 => Err(unknown_of(client, typed).await),
        _ => Err(ambiguous(typed, &found)),
    }
}

/// A refusal of an order, with the nearest names when it is for an unknown one.
pub async fn explain(client: &Client, targets: &Targets, error: ClientError) -> Failure {
    let Targets::Names(names) = targets else { return error.into() };
    let ClientError::Problem(problem) = &error else { return error.into() };
    let wrong = problem.errors.iter().find_map(|field| {
        let index = field.pointer.strip_prefix("/targets/names/")?.parse::<usize>().ok()?;
        names.get(index)
    });
    match wrong {
        Some(name) => match one(client, name).await {
            Ok(_) => error.into(),
            Err(failure) => failure,
        },
        None => error.into(),
    }
}

async fn unknown_of(client: &Client, typed: &str) -> Failure {
    let devices: Vec<DeviceView> = client.all("/v1/devices", &[], None).await.unwrap_or_default();
    let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
    unknown(typed, &nearest(typed, &names))
}

fn unknown(typed: &str, nearest: &[String]) -> Failure {
    let failure = Failure::new(format!("no device is called `{}`", text::clean(typed)));
    match nearest {
        [] => failure.next("see `tocsin devices`"),
        names => failure.next(format!("did you mean {}?", names.join(" or "))),
    }
}

fn ambiguous(typed: &str, found: &[DeviceView]) -> Failure {
    let ids: Vec<_> = found.iter().map(|device| device.id.to_string()).collect();
    let text = format!("{} devices are called `{}`", found.len(), text::clean(typed));
    Failure::new(text).next(format!("name the one you mean by its id: {}", ids.join(", ")))
}

/// The names nearest to what was typed, nearest first; none that is too far to be meant.
pub fn nearest(typed: &str, names: &[&str]) -> Vec<String> {
    let most = (typed.chars().count() / 3).max(1);
    let mut ranked: Vec<_> = names
        .iter()
        .map(|name| (distance(typed, name), *name))
        .filter(|(distance, name)| *distance <= most || name.contains(typed))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().take(SUGGESTIONS).map(|(_, name)| text::clean_to(name, 63)).collect()
}

/// Levenshtein's distance, by rows.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let cost = usize::from(x != *y);
            left = (before + cost).min(above + 1).min(left + 1);
            before = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
