//! Connections between devices and hubs: reliable and in order while they last.

use std::collections::{BTreeMap, VecDeque};

use protocol::close::CloseCode;

/// Packets that the network takes towards an agent before its hub has to wait.
pub(crate) const WINDOW: usize = 3;

/// The number of a connection, never used again.
pub(crate) type LinkId = usize;

/// What travels on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Text(String),
    Ping,
    Pong,
    Close(CloseCode),
    /// The connection is gone.
    Lost,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) device: usize,
    /// The hub's process.
    pub(crate) hub: usize,
    /// The certificate was not looked at: the TLS session was resumed.
    pub(crate) is_resumed: bool,
    pub(crate) to_hub: VecDeque<Packet>,
    pub(crate) to_agent: VecDeque<Packet>,
    is_half_open: bool,
    has_hub: bool,
    has_agent: bool,
}

/// Every connection.
#[derive(Debug, Default)]
pub(crate) struct Links {
    next: LinkId,
    links: BTreeMap<LinkId, Link>,
}

impl Link {
    pub(crate) fn send_to_hub(&mut self, packet: Packet) {
        if self.has_hub && !self.is_half_open {
            self.to_hub.push_back(packet);
        }
    }

    pub(crate) fn send_to_agent(&mut self, packet: Packet) {
        if self.has_agent && !self.is_half_open {
            self.to_agent.push_back(packet);
        }
    }

    /// Whether the hub may write.
    pub(crate) fn has_room(&self) -> bool {
        self.is_half_open || !self.has_agent || self.to_agent.len() < WINDOW
    }
}

impl Links {
    pub(crate) fn open(&mut self, device: usize, hub: usize, is_resumed: bool) -> LinkId {
        self.next += 1;
        let link = Link {
            device,
            hub,
            is_resumed,
            to_hub: VecDeque::new(),
            to_agent: VecDeque::new(),
            is_half_open: false,
            has_hub: true,
            has_agent: true,
        };
        self.links.insert(self.next, link);
        self.next
    }

    pub(crate) fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    pub(crate) fn ids(&self) -> Vec<LinkId> {
        self.links.keys().copied().collect()
    }

    /// Packets under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.links.values().map(|link| link.to_hub.len() + link.to_agent.len()).sum()
    }

    /// Either end is told that the connection is gone; what was under way is lost.
    pub(crate) fn reset(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.is_half_open {
            return;
        }
        link.to_hub = VecDeque::from([Packet::Lost]);
        link.to_agent = VecDeque::from([Packet::Lost]);
    }

    /// Nothing arrives any more, and nobody is told.
    pub(crate) fn silence(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_half_open = true;
        link.to_hub.clear();
        link.to_agent.clear();
    }

    /// The hub's process closed its end, or is gone.
    pub(crate) fn drop_hub(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.send_to_agent(Packet::Lost);
            link.has_hub = false;
            link.to_hub.clear();
        }
        self.tidy(id);
    }

    /// The agent's process closed its end, or is gone.
    pub(crate) fn drop_agent(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.send_to_hub(Packet::Lost);
            link.has_agent = false;
            link.to_agent.clear();
        }
        self.tidy(id);
    }

    fn tidy(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| !link.has_hub && !link.has_agent) {
            self.links.remove(&id);
        }
    }

    /// Every connection of a hub's process.
    pub(crate) fn of_hub(&self, hub: usize) -> Vec<LinkId> {
        let of_hub = self.links.iter().filter(|(_, link)| link.hub == hub && link.has_hub);
        of_hub.map(|(id, _)| *id).collect()
    }
}
