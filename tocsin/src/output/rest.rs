//! What a destruction did not reach, in words.
//!
//! A grade is of what was to be destroyed; an incident report also needs what stays readable beside it, which is in
//! the same evidence. Everything in there is a device's word, and is shown as such.

use protocol::receipt::Evidence;
use serde_json::Value;

use super::text;

/// Things that are named in one line.
const NAMED: usize = 4;
/// Observations that these words are made of.
pub const NAMES: [&str; 4] = ["left", "left_unnamed", "still_open", "unencrypted"];

/// What stays readable, and what is open until the power goes. Begins with a semicolon, or is nothing.
pub fn words(evidence: &Evidence) -> String {
    let path = |path: &Value| Some(text::clean_to(path.as_str()?, 60));
    let why = |left: &Value| {
        let why = left["why"].as_str().map(|why| text::clean_to(why, 20).replace('_', " "));
        Some(format!("{} ({})", path(&left["path"])?, why.unwrap_or_default()))
    };
    let more = evidence.get("left_unnamed").and_then(Value::as_u64);
    let more = more.map(|more| format!("; LEFT, NOT NAMED: {more} more"));
    // Only of what failed it is said whether a volume is destroyed.
    let kept = |target: &&Value| target["destroyed"].as_bool() == Some(false);
    let targets = evidence.get("targets").and_then(Value::as_array).into_iter().flatten();
    let kept = Value::Array(targets.filter(kept).map(|target| target["path"].clone()).collect());
    let parts = [
        part("NOT DESTROYED", Some(&kept), path),
        part("LEFT, NOT ENCRYPTED", evidence.get("unencrypted"), path),
        part("LEFT, WITH ITS KEYS", evidence.get("left"), why),
        more,
        part("OPEN UNTIL THE POWER GOES", evidence.get("still_open"), path),
    ];
    parts.into_iter().flatten().collect()
}

fn part(
    title: &str,
    list: Option<&Value>,
    word: impl Fn(&Value) -> Option<String>,
) -> Option<String> {
    let list = list?.as_array().filter(|list| !list.is_empty())?;
    let mut words: Vec<_> = list.iter().take(NAMED).filter_map(word).collect();
    if list.len() > NAMED {
        words.push(format!("{} more", list.len() - NAMED));
    }
    Some(format!("; {title}: {}", words.join(", ")))
}
