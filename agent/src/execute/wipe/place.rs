//! Where something without keys lies, by what is the same in every boot.
//!
//! Volumes are known by what stands in them. Swap is not, nor a plain file system: it is nobody's from the first byte on that is erased, and
//! whoever finds something of its size under its name must not take that for it. So it is known by the drive that it
//! lies on and where it begins there, or by the UUID of its mapping.

use std::path::Path;

use drive::said::Said;
use serde::{Deserialize, Serialize};

use super::graph::{self, Origin};
use super::volume::Disk;
use crate::host::Host;

/// One place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// On a drive, or a whole one.
    Drive {
        /// What the drive calls itself.
        model: String,
        /// Which one it is; never empty.
        serial: String,
        /// Bytes of the drive before it.
        start: u64,
    },
    /// A mapping, such as a logical volume.
    Mapping {
        /// As the device mapper knows it; never empty.
        uuid: String,
    },
}

impl Place {
    /// Of the device at that path; `None` where nothing tells it from others.
    pub(super) fn of(disk: &dyn Disk, host: &Host, path: &Path) -> Option<Self> {
        match graph::origin(host, path)? {
            Origin::Mapping(uuid) => Some(Self::Mapping { uuid }),
            Origin::Drive(drive, start) => {
                let line = disk.drive(&drive)?;
                let said = Said::by(&*line);
                let (model, serial) = (said.model().to_owned(), said.serial().to_owned());
                (!serial.is_empty()).then_some(Self::Drive { model, serial, start })
            }
        }
    }
}
