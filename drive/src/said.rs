//! What a drive says about itself when it is asked. Asking changes nothing.

use crate::ata;
use crate::line::{Line, LineError};
use crate::nvme::{self, Command, Page};

/// The drive is there and can be locked (`OPAL_FL_SUPPORTED`).
const OPAL_SUPPORTED: u32 = 1;

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// In which words.
    pub tongue: Tongue,
    /// It has Opal.
    pub has_opal: bool,
}

/// In which words a drive speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tongue {
    /// NVMe.
    Nvme {
        /// The controller.
        controller: nvme::Controller,
        /// The namespace that the device is.
        namespace: nvme::Namespace,
        /// All namespaces there.
        active: Vec<u32>,
    },
    /// ATA.
    Ata(ata::Identify),
    /// None that is understood here.
    Unknown,
}

impl Said {
    /// Asks the drive.
    pub fn by(line: &dyn Line) -> Self {
        let tongue = nvme(line).or_else(|_| ata(line)).unwrap_or(Tongue::Unknown);
        let has_opal = line.opal_flags().is_ok_and(|flags| flags & OPAL_SUPPORTED != 0);
        Self { tongue, has_opal }
    }

    /// Its model, if it said one.
    pub fn model(&self) -> &str {
        match &self.tongue {
            Tongue::Nvme { controller, .. } => &controller.model,
            Tongue::Ata(identify) => &identify.model,
            Tongue::Unknown => "",
        }
    }

    /// Its serial number, if it said one.
    pub fn serial(&self) -> &str {
        match &self.tongue {
            Tongue::Nvme { controller, .. } => &controller.serial,
            Tongue::Ata(identify) => &identify.serial,
            Tongue::Unknown => "",
        }
    }
}

fn nvme(line: &dyn Line) -> Result<Tongue, LineError> {
    let id = line.namespace()?;
    let page = |page, namespace| {
        let mut bytes = [0; nvme::PAGE];
        line.nvme(&Command::identify(page, namespace), &mut bytes).map(|()| bytes)
    };
    Ok(Tongue::Nvme {
        controller: nvme::Controller::read(&page(Page::Controller, 0)?),
        namespace: nvme::Namespace::read(id, &page(Page::Namespace, id)?),
        active: nvme::active(&page(Page::Active, 0)?),
    })
}

fn ata(line: &dyn Line) -> Result<Tongue, LineError> {
    Ok(identify(line)?.map_or(Tongue::Unknown, Tongue::Ata))
}

/// What an ATA drive says; `None` when that is no such page.
pub(crate) fn identify(line: &dyn Line) -> Result<Option<ata::Identify>, LineError> {
    let mut page = [0; ata::PAGE];
    line.ata(&ata::Command::short(ata::IDENTIFY), ata::Data::In(&mut page))?;
    Ok(ata::Identify::read(&page))
}

/// A text of a page, which goes into plans and receipts: printable, without the spaces around it.
pub(crate) fn text(bytes: &[u8]) -> String {
    let printable = bytes.iter().map(|byte| char::from(*byte)).filter(|c| matches!(c, ' '..='~'));
    printable.collect::<String>().trim().to_owned()
}
