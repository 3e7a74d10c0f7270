//! Files of the endpoint into a collection: read once, and what happens to them meanwhile is noted.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use protocol::collection::{CONTENT_BYTES, Item, ItemEnd, Kind, Source, Stat, spelled};

use super::packer::{Open, Packer};
use super::spool::SpoolError;
use super::tree::{Found, Seen, Tree, absolute, shown};

/// Reads all of these, in their order, as far as there is room.
pub(super) fn all(
    packer: &mut Packer<'_>,
    tree: &Tree,
    source: Source,
    found: Vec<Found>,
) -> Result<(), SpoolError> {
    for found in found {
        if !packer.has_room() {
            return Ok(());
        }
        one(packer, tree, source, &found)?;
    }
    Ok(())
}

fn one(
    packer: &mut Packer<'_>,
    tree: &Tree,
    source: Source,
    found: &Found,
) -> Result<(), SpoolError> {
    let name = spelled(&absolute(&found.path));
    let item = |kind, seen: Option<&Seen>| Item {
        source,
        name: name.clone(),
        kind,
        target: seen.and_then(|seen| seen.target().ok()).map(|target| shown(&target)),
        stat: seen.map(|seen| stat(&seen.about)),
    };
    if found.trouble.is_some() {
        return packer.empty(item(Kind::Absent, None), found.trouble.clone());
    }
    let seen = match tree.look(&found.path) {
        Ok(seen) => seen,
        Err(error) => return packer.empty(item(Kind::Absent, None), Some(error.to_string())),
    };
    if seen.about.is_symlink() {
        return packer.empty(item(Kind::Link, Some(&seen)), None);
    }
    if !seen.about.is_file() {
        return packer.empty(item(Kind::Special, Some(&seen)), None);
    }
    let file = match seen.open() {
        Ok(file) => file,
        Err(error) => return packer.empty(item(Kind::File, Some(&seen)), Some(error.to_string())),
    };
    let mut open = packer.begin(item(Kind::File, Some(&seen)))?;
    let (is_cut, trouble) = contents(packer, &mut open, &file)?;
    let there = tree.look(&found.path).map(|again| place(&again.about)).ok();
    let has_changed = file.metadata().map(|now| state(&now)).ok() != Some(state(&seen.about))
        || there != Some(place(&seen.about));
    packer.end(ItemEnd { is_cut, has_changed, trouble, ..open.end() })
}

/// Reads a file as far as it may be read. Whether there is more, and why it ended early.
fn contents(
    packer: &mut Packer<'_>,
    open: &mut Open,
    file: &File,
) -> Result<(bool, Option<String>), SpoolError> {
    let mut piece = vec![0; CONTENT_BYTES];
    loop {
        if packer.is_late() {
            return Ok((true, Some("the time for reading was up".to_owned())));
        }
        let room = usize::try_from(open.room()).unwrap_or(usize::MAX).min(piece.len());
        // Where there is no room, one byte more shows that something is left out.
        let into = piece.get_mut(..room.max(1)).unwrap_or_default();
        let (length, ended) = fill(file, into, || packer.is_late());
        if length > 0 && room == 0 {
            return Ok((true, None));
        }
        packer.add(open, into.get(..length).unwrap_or_default())?;
        match ended {
            Some(Ok(())) => return Ok((false, None)),
            Some(Err(error)) => return Ok((false, Some(error.to_string()))),
            None => {}
        }
    }
}

/// Reads until that is full, or the time is up: `None`, or how the file ended. Each piece becomes a record with a head
/// of its own, and whoever answers with a byte at a time must not make the heads more than the contents.
fn fill(
    mut file: &File,
    into: &mut [u8],
    is_late: impl Fn() -> bool,
) -> (usize, Option<io::Result<()>>) {
    let mut length = 0;
    while length < into.len() && !is_late() {
        match file.read(into.get_mut(length..).unwrap_or_default()) {
            Ok(0) => return (length, Some(Ok(()))),
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (length, Some(Err(error))),
        }
    }
    (length, None)
}

fn stat(about: &Metadata) -> Stat {
    Stat {
        mode: about.mode(),
        uid: about.uid(),
        gid: about.gid(),
        bytes: about.size(),
        modified_at: about.mtime(),
        changed_at: about.ctime(),
    }
}

/// What changes when somebody writes to a file.
pub(super) fn state(about: &Metadata) -> (u64, i64, i64, i64, i64) {
    (about.size(), about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec())
}

/// Which file it is.
fn place(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}
