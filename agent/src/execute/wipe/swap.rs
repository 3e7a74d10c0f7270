//! Swap that lies on no LUKS volume: switched off, then erased.
//!
//! Swap with a random key has nothing on disk that could be destroyed: its key is in the kernel's
//! memory and goes with the power, which nobody can observe afterwards. Source: swapon(8), and
//! mkswap(8) for the signature at the end of the first page.

use std::path::Path;

use super::destroy::{DestroyError, Erasing, Reached, verify_zero};
use super::graph::SwapKind;
use super::place::Place;
use super::record::Swap;
use super::volume::{Access, Disk, Volume};
use crate::execute::course::patience;
use crate::execute::tool::Tool;
use crate::host::{Arming, Host};

#[cfg(test)]
mod tests;

/// The signature, and where it stands for the page sizes of Linux.
const SIGNATURE: &[u8] = b"SWAPSPACE2";
const PAGES: [u64; 3] = [4096, 16 * 1024, 64 * 1024];
const STAGE: &str = "finish";

/// What is to be done about the swap at that path.
pub(super) fn inspect(
    disk: &dyn Disk,
    host: &Host,
    path: &Path,
    kind: SwapKind,
) -> Result<Swap, DestroyError> {
    let volume = disk.open(path, Access::Read)?;
    match kind {
        SwapKind::Plain if !is_swap(&*volume)? => return Err(DestroyError::Stranger),
        SwapKind::Plain | SwapKind::RandomKey => {}
    }
    let (path, place, bytes) = (path.to_owned(), Place::of(disk, host, path), volume.size());
    Ok(Swap { path, place, kind, bytes, done: 0, erasure: None })
}

/// Whether what is at that path is the swap, as far as anything tells.
pub(super) fn is_at(disk: &dyn Disk, host: &Host, swap: &Swap, path: &Path) -> bool {
    swap.place.is_none() || swap.place == Place::of(disk, host, path)
}

/// Has the kernel let go of the swap. A sandbox has none of its own. What the kernel cannot take
/// back into memory stays in use, and is erased all the same: the machine goes down.
pub(super) fn switch_off(host: &Host, swap: &Swap) {
    match host.arming {
        Arming::Armed => {}
        Arming::Sandboxed | Arming::Simulated => return,
    }
    let off = Tool::find("swapoff", STAGE).and_then(|tool| {
        let tool = tool.args([&swap.path]).budget(patience::SWAP_OFF);
        tool.during(&host.course).run_ok(STAGE)
    });
    if let Err(error) = off {
        tracing::warn!(error = error.detail, "swap was not switched off");
    }
}

/// Erases plain swap. `note` is called from time to time.
pub(super) fn erase(
    disk: &dyn Disk,
    host: &Host,
    swap: &mut Swap,
    mut note: impl FnMut(&Swap, u64, Reached),
) -> Result<(), DestroyError> {
    let volume = disk.open(&swap.path, Access::Write)?;
    let is_it = volume.size() == swap.bytes && is_at(disk, host, swap, &swap.path);
    if !is_it || (swap.done == 0 && !is_swap(&*volume)?) {
        return Err(DestroyError::Stranger);
    }
    // From the first byte on nothing names it as swap any more.
    swap.done = swap.done.max(1);
    note(swap, 0, Reached::Flushed);
    let mut erasing = Erasing { area: 0..swap.bytes, done: 0, erasure: swap.erasure };
    let erased = erasing.run(&*volume, &mut |erasing, reached| {
        swap.erasure = erasing.erasure;
        note(swap, erasing.done, reached);
    });
    swap.erasure = erasing.erasure;
    erased?;
    swap.done = swap.bytes;
    Ok(())
}

/// Whether nothing is left of it as far as its record says.
pub(super) fn verify(disk: &dyn Disk, swap: &Swap) -> Result<(), DestroyError> {
    match swap.kind {
        SwapKind::Plain if swap.is_done() => {
            verify_zero(&*disk.open(&swap.path, Access::Read)?, &(0..swap.bytes))
        }
        SwapKind::Plain | SwapKind::RandomKey => Ok(()),
    }
}

fn is_swap(volume: &dyn Volume) -> Result<bool, DestroyError> {
    for page in PAGES {
        let mut found = [0; SIGNATURE.len()];
        if volume.size() < page {
            break;
        }
        volume.read_at(&mut found, page - SIGNATURE.len() as u64)?;
        if found == SIGNATURE {
            return Ok(true);
        }
    }
    Ok(false)
}
