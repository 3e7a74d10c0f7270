//! Evidence as it is ordered: for which case, and what beyond a first look.

use serde::{Deserialize, Serialize};

use super::{ActionError, is_printable};
use crate::limits;
use crate::sealed::CaseKey;
use crate::state::Lane;

/// Parameters of [`Action::CollectEvidence`](super::Action::CollectEvidence).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectEvidence {
    /// Who may read it: the public half of the case's key.
    pub case_key: CaseKey,
    /// What is collected after the first look, in chunks that follow the receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Sources>,
}

/// What a device collects after the first look, the most volatile first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Processes whose memory is read: each an id, or the name that the kernel has of them (comm).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<String>,
    /// Whether the device's logs are read: the journal, and `/var/log`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logs: bool,
    /// Files and folders, absolute. `*` stands for any part of a name, within one folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Bytes of one file, or of one region of memory, at most: the rest is left out, and that is noted.
    pub item_bytes: u64,
    /// Bytes of all of it at most.
    pub total_bytes: u64,
}

impl CollectEvidence {
    /// A first look is short, and may be all that is left to do; what takes minutes must not keep a
    /// lock waiting.
    pub const fn lane(&self) -> Lane {
        match self.sources {
            None => Lane::Urgent,
            Some(_) => Lane::Bulk,
        }
    }

    /// Chunks of the largest collection that a device makes for it; none for a first look alone.
    pub fn most_chunks(&self) -> u32 {
        let Some(sources) = &self.sources else { return 0 };
        let full = sources.total_bytes.div_ceil(limits::CHUNK_BYTES as u64);
        let full = u32::try_from(full).unwrap_or(u32::MAX);
        full.saturating_add(limits::COLLECTION_EXTRA_CHUNKS).min(limits::COLLECTION_CHUNKS)
    }

    pub(super) fn check(&self) -> Result<(), ActionError> {
        self.sources.as_ref().map_or(Ok(()), Sources::check)
    }
}

impl Sources {
    fn check(&self) -> Result<(), ActionError> {
        for (field, list) in [("processes", &self.processes), ("paths", &self.paths)] {
            if list.len() > limits::LIST_ENTRIES {
                return Err(ActionError::List { field });
            }
        }
        let is_named = |name: &String| !name.is_empty() && is_printable(name);
        if !self.processes.iter().all(is_named) {
            return Err(ActionError::Text { field: "processes" });
        }
        if !self.paths.iter().all(|path| is_path(path)) {
            return Err(ActionError::Path);
        }
        if self.processes.is_empty() && self.paths.is_empty() && !self.logs {
            return Err(ActionError::NoSource);
        }
        let is_bounded = (1..=self.total_bytes).contains(&self.item_bytes)
            && self.total_bytes <= limits::COLLECTION_BYTES;
        if is_bounded { Ok(()) } else { Err(ActionError::Bytes) }
    }
}

/// Absolute, and such that it means what it says: no way back, nothing left out.
fn is_path(path: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    is_printable(path)
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.is_empty() || rest.split('/').all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::CaseSecret;

    fn check(change: impl FnOnce(&mut Sources)) -> Result<(), ActionError> {
        let mut sources = Sources {
            paths: vec!["/etc/*.conf".to_owned()],
            item_bytes: 1,
            total_bytes: 1,
            ..Sources::default()
        };
        change(&mut sources);
        let case_key = CaseSecret::new([9; 32]).public().expect("a key");
        CollectEvidence { case_key, sources: Some(sources) }.check()
    }

    #[test]
    fn sources_are_bounded_and_mean_what_they_say() {
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(check(|sources| sources.paths = vec!["/".to_owned()]), Ok(()));
        for path in ["", "etc", "//etc", "/etc/", "/etc/../root", "/./a", "/a\u{202e}b", "/a\0"] {
            let checked = check(|sources| sources.paths = vec![path.to_owned()]);
            assert_eq!(checked, Err(ActionError::Path), "{path:?}");
        }
        assert_eq!(check(|sources| sources.paths.clear()), Err(ActionError::NoSource));
        assert_eq!(check(|sources| sources.item_bytes = 0), Err(ActionError::Bytes));
        assert_eq!(check(|sources| sources.item_bytes = 2), Err(ActionError::Bytes));
        let most = limits::COLLECTION_BYTES;
        assert_eq!(check(|sources| sources.total_bytes = most), Ok(()));
        assert_eq!(check(|sources| sources.total_bytes = most + 1), Err(ActionError::Bytes));
        let many = vec!["/a".to_owned(); limits::LIST_ENTRIES + 1];
        let field = "paths";
        assert_eq!(check(|sources| sources.paths = many), Err(ActionError::List { field }));
        let hidden = vec!["a\u{1b}".to_owned()];
        let field = "processes";
        assert_eq!(check(|sources| sources.processes = hidden), Err(ActionError::Text { field }));
    }

    #[test]
    fn order_bounds_the_chunks_that_follow_it() {
        let most = |sources| {
            let case_key = CaseSecret::new([9; 32]).public().expect("a key");
            CollectEvidence { case_key, sources }.most_chunks()
        };
        let bytes = |total_bytes| Some(Sources { total_bytes, ..Sources::default() });
        let chunk = limits::CHUNK_BYTES as u64;
        let extra = limits::COLLECTION_EXTRA_CHUNKS;
        assert_eq!(most(None), 0);
        assert_eq!([1, chunk, chunk + 1].map(|total| most(bytes(total)) - extra), [1, 1, 2]);
        assert_eq!(most(bytes(limits::COLLECTION_BYTES)), limits::COLLECTION_CHUNKS);
        assert_eq!(most(bytes(u64::MAX)), limits::COLLECTION_CHUNKS);
    }

    #[test]
    fn what_takes_minutes_travels_behind_what_is_urgent() {
        let case_key = CaseSecret::new([9; 32]).public().expect("a key");
        let first = CollectEvidence { case_key, sources: None };
        let more = CollectEvidence { case_key, sources: Some(Sources::default()) };
        assert_eq!((first.lane(), more.lane()), (Lane::Urgent, Lane::Bulk));
        // As it was before there were sources.
        assert_eq!(
            serde_json::to_value(&first).expect("JSON"),
            serde_json::json!({ "case_key": case_key })
        );
    }
}
