//! Who asks, and how far they reach.
//!
//! Owns API tokens, scopes and permits, and the gate before all routes. A guarded function takes a
//! [`Permit`], which only a [`Principal`] makes: forgetting the check does not compile. What a token may do never
//! includes a destructive effect by itself: that takes approvals, which are keys.

pub use self::gate::{Gate, guard};
pub use self::memory::Memory;
pub(crate) use self::memory::standing;
pub use self::permit::{Ability, Permit, Reach, ability};
pub(crate) use self::principal::refused;
pub use self::principal::{Principal, SIGN_IN_PREFIX, TOKEN_PREFIX};
pub use self::role::{ParseRoleError, Role, RoleGrant};
pub use self::scope::{ParseScopeError, Scope};
pub use self::secret::{Secret, SecretHash};
pub use self::step_up::{Act, Needed, StepUp};
pub use self::usage::Usage;
pub(crate) use self::usage::write_down;

mod gate;
mod memory;
mod permit;
mod principal;
mod role;
mod scope;
mod secret;
mod step_up;
#[cfg(test)]
mod tests;
mod usage;
