//! How far a command is, in words for people. Nobody signed it.

use protocol::advance::{Advance, Part};

use super::text;

/// Characters of what it is at.
const AT: usize = 64;

/// How far a stage has come, such as `/dev/sda2, 1 of 2, 4.0 MiB of 16.0 MiB (25 %)`.
pub fn words(advance: &Advance) -> String {
    let at = advance.at.as_deref().filter(|at| !at.is_empty());
    let parts = [
        at.map(|at| text::clean_to(at, AT)),
        advance.step.map(|Part { done, of }| format!("{done} of {of}")),
        advance.bytes.map(|part| {
            format!("{} of {} ({} %)", bytes(part.done), bytes(part.of), part.percent())
        }),
        advance.secs.map(|Part { done, of }| format!("{done} s of at most {of} s")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What lines that cannot move tell of it: only another one of these is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landmark {
    at: Option<String>,
    step: Option<u64>,
    tenth: Option<u64>,
}

impl Landmark {
    /// The last one that was passed.
    pub fn of(advance: &Advance) -> Self {
        let share = advance.bytes.or(advance.secs);
        Self {
            at: advance.at.clone(),
            step: advance.step.map(|step| step.done),
            tenth: share.map(|share| share.percent() / 10),
        }
    }
}

fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut tenths, mut unit) = (u128::from(count) * 10, "B");
    for next in units {
        if tenths < 10 * 1024 {
            break;
        }
        (tenths, unit) = (tenths / 1024, next);
    }
    match unit {
        "B" => format!("{count} B"),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}
