//! Drives nft(8): loads one transaction, and reads back what the kernel holds.
//!
//! It must never name a table other than quarantine's own in anything that changes; other tables
//! are only ever read, as one text whose digest tells whether they changed.

use std::time::Duration;

use protocol::receipt::{Failure, FailureKind};
use serde::Deserialize;

use super::super::failure;
use super::super::tool::{Output, Tool};
use super::ruleset::{DELETE, TABLE};
use crate::execute::sha256_hex;

/// Bytes of the machine's whole ruleset that are read; block lists can be long.
const RULESET_BYTES: usize = 64 * 1024 * 1024;
/// Time for one run; loading waits for the kernel's grace periods.
const BUDGET: Duration = Duration::from_secs(20);

/// nft, found and ready.
#[derive(Debug, Clone)]
pub(super) struct Nft {
    tool: Tool,
    stage: &'static str,
}

/// One base chain of quarantine's table, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Chain {
    pub(super) name: String,
    #[serde(default)]
    pub(super) hook: String,
    #[serde(default)]
    pub(super) prio: i32,
    #[serde(default)]
    pub(super) policy: String,
}

/// The parts of `nft -j` answers that are read; everything else is passed over.
#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Debug, Deserialize)]
struct Object {
    chain: Option<Chain>,
    table: Option<Table>,
}

#[derive(Debug, Deserialize)]
struct Table {
    family: String,
    name: String,
}

impl Nft {
    /// The system's nft; failures will name that stage.
    pub(super) fn find(stage: &'static str) -> Result<Self, Failure> {
        Ok(Self { tool: Tool::find("nft", stage)?.budget(BUDGET), stage })
    }

    /// Lets the kernel judge a transaction without applying it.
    pub(super) fn check(&self, transaction: &str) -> Result<(), Failure> {
        self.run(&["--check", "-f", "-"], transaction).map(drop)
    }

    /// Applies a transaction: all of it or nothing.
    pub(super) fn load(&self, transaction: &str) -> Result<(), Failure> {
        self.run(&["-f", "-"], transaction).map(drop)
    }

    /// Removes quarantine's table, if it is there.
    pub(super) fn delete(&self) -> Result<(), Failure> {
        self.load(DELETE)
    }

    /// Whether quarantine's table is there.
    pub(super) fn stands(&self) -> Result<bool, Failure> {
        let tables = self.listing(&["-j", "list", "tables"])?;
        let own = |table: Table| format!("{} {}", table.family, table.name) == TABLE;
        Ok(tables.into_iter().filter_map(|object| object.table).any(own))
    }

    /// Digest of quarantine's table, without handles and counters.
    pub(super) fn table_sha256(&self) -> Result<String, Failure> {
        let output = self.run(&["-n", "-s", "list", "table", "inet", "tocsin"], "")?;
        Ok(sha256_hex(&output.stdout))
    }

    /// The base chains of quarantine's table.
    pub(super) fn chains(&self) -> Result<Vec<Chain>, Failure> {
        let objects = self.listing(&["-j", "list", "table", "inet", "tocsin"])?;
        Ok(objects.into_iter().filter_map(|object| object.chain).collect())
    }

    /// Digest of every table that is not quarantine's, handles included, counters not.
    pub(super) fn others_sha256(&self) -> Result<String, Failure> {
        let output = self.run(&["-a", "-n", "-s", "list", "ruleset"], "")?;
        Ok(sha256_hex(without_own_table(&output.text()).as_bytes()))
    }

    fn listing(&self, args: &[&str]) -> Result<Vec<Object>, Failure> {
        let output = self.run(args, "")?;
        serde_json::from_slice::<Listing>(&output.stdout)
            .map(|listing| listing.nftables)
            .map_err(|error| failure(FailureKind::Tool, self.stage, format!("nft -j: {error}")))
    }

    fn run(&self, args: &[&str], stdin: &str) -> Result<Output, Failure> {
        self.tool.clone().args(args).stdin(stdin).output_bytes(RULESET_BYTES).run_ok(self.stage)
    }
}

/// The text of `nft list ruleset` without the block of quarantine's own table.
pub(super) fn without_own_table(ruleset: &str) -> String {
    let opening = format!("table {TABLE} {{");
    let mut own = false;
    let mut others = String::new();
    for line in ruleset.split_inclusive('\n') {
        own |= line.starts_with(&opening);
        if !own {
            others.push_str(line);
        }
        own &= !line.starts_with('}');
    }
    others
}
