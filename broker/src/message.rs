//! What travels on the bus. Both sides treat what they read here as hostile input.

use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::{DeviceId, HubId, SessionId};
use serde::{Deserialize, Serialize};

/// From the control plane to one device, through the hub that has its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Downstream {
    /// Frames for a device, in order. A hub without a session of that device drops them.
    Deliver {
        /// The device.
        device: DeviceId,
        /// The frames.
        frames: Vec<HubFrame>,
    },
    /// Close every session of a device at once: its enrollment was revoked.
    Revoke {
        /// The device.
        device: DeviceId,
        /// Generations up to and including this one are refused from now on.
        through_generation: u32,
    },
    /// Close that session of a device: it has a later one on another hub. From hub to hub.
    Replaced {
        /// The device.
        device: DeviceId,
        /// Exactly the session that is over; another one of the device stays.
        session: SessionId,
    },
}

impl Downstream {
    /// The device that it is about.
    pub const fn device(&self) -> DeviceId {
        match self {
            Self::Deliver { device, .. }
            | Self::Revoke { device, .. }
            | Self::Replaced { device, .. } => *device,
        }
    }
}

/// From one device, through a hub, to the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The device, as its certificate says.
    pub device: DeviceId,
    /// Its enrollment generation, as its certificate says.
    pub generation: u32,
    /// Where the answer goes.
    pub hub: HubId,
    /// The session it came through.
    pub session: SessionId,
    /// What the agent said.
    pub frame: AgentFrame,
}
