//! Permits: proof, in the types, that somebody asked whether this is allowed.
//!
//! Owns the abilities as types and the reach as a filter. Stores of features take the permit, so
//! that a list or an order can never go beyond it.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use protocol::action::Verb;
use protocol::id::{GroupName, PersonName};
use protocol::state::VerbClass;

use super::{Principal, Scope};
use crate::db::Sql;
use crate::http::{Problem, ProblemKind};

/// The abilities, as types.
pub mod ability {
    /// See devices, orders and commands.
    #[derive(Debug)]
    pub enum Read {}
    /// Order a verb. Made by [`super::Principal::permit_order`] alone.
    #[derive(Debug)]
    pub enum Order {}
    /// Withdraw orders and commands: one person suffices to stop.
    #[derive(Debug)]
    pub enum Stop {}
    /// Hand in approvals. What counts is their signature.
    #[derive(Debug)]
    pub enum Approve {}
    /// Make enrollment tokens.
    #[derive(Debug)]
    pub enum Enroll {}
    /// Revoke devices and put them into groups.
    #[derive(Debug)]
    pub enum Devices {}
    /// Hand in versions of the trust root. What counts is their signatures.
    #[derive(Debug)]
    pub enum Trust {}
    /// See and read sealed credentials; each reading is an event.
    #[derive(Debug)]
    pub enum Escrows {}
    /// Read the audit log.
    #[derive(Debug)]
    pub enum Events {}
    /// Make and revoke API tokens.
    #[derive(Debug)]
    pub enum Tokens {}
}

/// An ability that a token either has or has not, whatever is asked for.
pub trait Ability {
    /// Its name in scopes.
    const NAME: &'static str;
}

macro_rules! abilities {
    ($($name:ident = $text:literal,)+) => {
        $(impl Ability for ability::$name {
            const NAME: &'static str = $text;
        })+
    };
}

abilities! {
    Read = "read",
    Stop = "stop",
    Approve = "approve",
    Enroll = "enroll",
    Devices = "devices",
    Trust = "trust",
    Escrows = "escrows",
    Events = "events",
    Tokens = "tokens",
}

/// Which devices a permit reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Every device, and what belongs to none.
    Everything,
    /// Devices of these groups.
    Groups(BTreeSet<GroupName>),
}

/// Permission to use an ability within a reach.
#[derive(Debug)]
pub struct Permit<A> {
    person: PersonName,
    reach: Reach,
    ability: PhantomData<fn() -> A>,
}

impl Principal {
    /// Permission for that ability, if any scope gives it anywhere.
    pub fn permit<A: Ability>(&self) -> Result<Permit<A>, Problem> {
        self.permit_named(&[A::NAME])
    }

    /// Permission to order that verb.
    pub fn permit_order(&self, verb: Verb) -> Result<Permit<ability::Order>, Problem> {
        let order = format!("order:{verb}");
        match verb.class() {
            // Whoever may stop what waits may also stop what is on its way.
            VerbClass::Stop => self.permit_named(&[ability::Stop::NAME, &order]),
            VerbClass::Routine | VerbClass::Disruptive | VerbClass::Destructive => {
                self.permit_named(&[&order])
            }
        }
    }

    /// Any of the names will do.
    fn permit_named<A>(&self, names: &[&str]) -> Result<Permit<A>, Problem> {
        let mut groups = BTreeSet::new();
        let mut is_everything = false;
        let allows = |scope: &&Scope| names.iter().any(|name| scope.allows(name));
        for scope in self.scopes().iter().filter(allows) {
            match scope.group() {
                None => is_everything = true,
                Some(group) => {
                    groups.insert(group.clone());
                }
            }
        }
        if !is_everything && groups.is_empty() {
            let detail = format!("this token has no scope for `{}`", names.join("` or `"));
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
        let reach = if is_everything { Reach::Everything } else { Reach::Groups(groups) };
        Ok(Permit { person: self.operator().clone(), reach, ability: PhantomData })
    }
}

impl<A> Permit<A> {
    /// Whose permission it is.
    pub const fn person(&self) -> &PersonName {
        &self.person
    }

    /// Which devices it reaches.
    pub const fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Demands that it is not bound to groups.
    pub fn everywhere(self) -> Result<Self, Problem> {
        match self.reach {
            Reach::Everything => Ok(self),
            Reach::Groups(_) => Err(Problem::new(
                ProblemKind::Forbidden,
                "this token is bound to groups, and this concerns all",
            )),
        }
    }

    /// Demands that a device in these groups is within reach.
    pub fn demand(&self, groups: &[GroupName]) -> Result<(), Problem> {
        if self.reach.covers(groups) {
            Ok(())
        } else {
            let detail = "a device is outside of the groups of this token";
            Err(Problem::new(ProblemKind::Forbidden, detail))
        }
    }
}

impl Reach {
    /// Whether a device in these groups is within reach.
    pub fn covers(&self, groups: &[GroupName]) -> bool {
        match self {
            Self::Everything => true,
            Self::Groups(mine) => groups.iter().any(|group| mine.contains(group)),
        }
    }

    /// Adds a condition to a statement: the device in that column is within reach.
    pub(crate) fn filter(&self, query: &mut Sql, device_column: &'static str) {
        let Self::Groups(groups) = self else { return };
        query.push(" AND EXISTS (SELECT 1 FROM device_groups r WHERE r.device_id = ");
        query.push(device_column).push(" AND r.group_name IN ");
        query.push_list(groups.iter().map(|group| group.as_str().to_owned()));
        query.push(")");
    }
}
