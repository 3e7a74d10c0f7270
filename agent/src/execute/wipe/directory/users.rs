//! Who has files of a directory open: for the words of a receipt.

use std::fs;
use std::path::{Path, PathBuf};

use super::as_named;
use crate::host::Host;

/// Open files that are named.
const NAMED: usize = 8;

/// What is open below that folder and who has it, as the end of a sentence.
pub(super) fn named(host: &Host, folder: &Path) -> String {
    let found: Vec<_> = open(host, folder).into_iter().take(NAMED + 1).collect();
    if found.is_empty() {
        return ": files are open that it opened".to_owned();
    }
    let more = if found.len() > NAMED { ", and more" } else { "" };
    let named: Vec<_> = found.into_iter().take(NAMED).collect();
    format!(": open are {}{more}", named.join(", "))
}

fn open(host: &Host, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for process in entries(&host.path("/proc")) {
        let id = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if id.parse::<u32>().is_err() {
            continue;
        }
        let ways = entries(&process.join("fd")).into_iter().chain([process.join("cwd")]);
        let paths = ways.filter_map(|way| fs::read_link(way).ok());
        let inside = paths.filter(|path| path.starts_with(folder));
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        found.extend(inside.map(|path| {
            format!("{} (process {id}, {})", as_named(host, &path).display(), name.trim())
        }));
    }
    found.dedup();
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
