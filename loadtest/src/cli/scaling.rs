//! The options of `scaling`, and what they mean.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::plan::Store;
use crate::rate::Rate;
use crate::scaling::{Fleet, Sizes};

/// Arguments of `scaling`.
#[derive(Debug, Args)]
pub struct ScalingArgs {
    /// Sessions of one hub, measured with that many each
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "1000,5000,10000,18000"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub connections: Vec<u64>,
    /// Numbers of hubs beside one
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "2,3,4")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub hubs: Vec<u32>,
    /// Sessions of each hub where there are several
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub per_hub: u64,
    /// What the control plane writes to
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    pub store: Store,
    /// Orders of one device each
    #[arg(long, default_value = "200/s")]
    pub rate: Rate,
    /// How long quiet sessions are watched, in seconds: measured are the last whole heartbeats, of 25 s, after
    /// one that is not
    #[arg(long, value_name = "SECS", default_value_t = 75)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub quiet_secs: u32,
    /// How long orders of one device each are given, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 15)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub order_secs: u32,
    /// Devices that only check in, to learn what that costs; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub polling: u64,
    /// Orders at a rate that cannot be held, to learn which can; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 16_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub flood: u64,
    /// Minutes after which no further size is begun
    #[arg(long, value_name = "MIN", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub at_most_mins: u64,
    /// Measure nothing: reckon anew from the JSON of an earlier run
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// The fleet that is reckoned with
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// The program `tocsin`, if not the one beside this
    #[arg(long, value_name = "FILE")]
    pub tocsin: Option<PathBuf>,
    /// Keep the report of every run in that folder
    #[arg(long, value_name = "DIR")]
    pub reports: Option<PathBuf>,
    /// Write the document as JSON as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write it as one HTML file as well
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The fleet, by its differences from the usual one.
#[derive(Debug, Args)]
pub struct FleetArgs {
    /// Devices, all of which have a session
    #[arg(long, value_name = "N", default_value_t = Fleet::default().devices)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub devices: u64,
    /// Sessions of a hub; as many as were measured at most, unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub sessions_per_hub: Option<u64>,
    /// Orders that each device has in a day
    #[arg(long, value_name = "N", default_value_t = Fleet::default().orders_per_day)]
    pub orders_per_day: f64,
    /// How often each device connects in a day
    #[arg(long, value_name = "N", default_value_t = Fleet::default().connects_per_day)]
    pub connects_per_day: f64,
    /// Seconds within which all of them come back when all are cut at once
    #[arg(long, value_name = "SECS", default_value_t = Fleet::default().back_secs)]
    pub back_secs: f64,
    /// How busy a processor is to be at most, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = Fleet::default().processor_share)]
    pub processor_share: f64,
}

impl ScalingArgs {
    /// What is measured.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            connections: self.connections.clone(),
            hubs: self.hubs.clone(),
            per_hub: self.per_hub,
            store: self.store,
            rate: self.rate,
            quiet_secs: self.quiet_secs,
            order_secs: self.order_secs,
            polling: self.polling,
            flood: self.flood,
            at_most: Duration::from_secs(self.at_most_mins * 60),
            program: self.tocsin.clone(),
            reports: self.reports.clone(),
        }
    }
}

impl FleetArgs {
    /// The fleet.
    pub fn fleet(&self) -> Fleet {
        Fleet {
            devices: self.devices,
            per_hub: self.sessions_per_hub,
            orders_per_day: self.orders_per_day,
            connects_per_day: self.connects_per_day,
            back_secs: self.back_secs,
            processor_share: self.processor_share,
            ..Fleet::default()
        }
    }
}
