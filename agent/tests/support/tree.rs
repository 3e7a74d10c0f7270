//! What lies below a folder, to be compared before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// Of a file what it holds, of a link where it leads.
    pub(crate) content: Vec<u8>,
}

/// By path.
pub(crate) type Tree = BTreeMap<PathBuf, Node>;

/// Adds a folder and all that is in it.
pub(crate) fn walk(at: &Path, tree: &mut Tree) {
    let metadata = fs::symlink_metadata(at).unwrap();
    let content = if metadata.is_symlink() {
        fs::read_link(at).unwrap().into_os_string().into_encoded_bytes()
    } else if metadata.is_file() {
        fs::read(at).unwrap()
    } else {
        Vec::new()
    };
    let owner = (metadata.uid(), metadata.gid());
    tree.insert(at.to_owned(), Node { mode: metadata.mode(), owner, content });
    if metadata.is_dir() {
        fs::read_dir(at).unwrap().for_each(|entry| walk(&entry.unwrap().path(), tree));
    }
}
