//! The steps that Redis takes in one go, as Lua.
//!
//! Each touches one key, so that a cluster can run it, and none reads a clock. Owns their texts
//! and names; what their answers mean is said by those who call them. A server is given them when
//! a connection is opened, and asked for them by their digest.

use redis::Cmd;

use super::dial::{Connection, Failure};
use super::reply::bytes;

/// One of the scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// `lease, incarnation, milliseconds` → 0 held by another, 1 taken, 2 renewed.
    Renew,
    /// `lease, incarnation` → 0 held by another, 1 free.
    Release,
    /// `bucket, device, entry, entry known to be dead, whether an equal epoch stays` → `{0 or 1 for
    /// refused or written, the entry that was there or nothing}`.
    Place,
    /// `bucket, device, session` → whether the entry was of that session, and is gone.
    Depart,
    /// `stream, bound, entry…` → whether all of them found room.
    Append,
}

const RENEW: &str = "\
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return held and 2 or 1
";

const RELEASE: &str = "\
local held = redis.call('GET', KEYS[1])
if not held then return 1 end
if held ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
";

// An entry begins with six bytes of epoch, the largest first, and sixteen of session. What is
// shorter is no entry of ours and keeps no place.
const PLACE: &str = "\
local function epoch(entry)
  local n = 0
  for i = 1, 6 do n = n * 256 + string.byte(entry, i) end
  return n
end
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and #known > 30 and known ~= ARGV[3]
    and string.sub(known, 7, 22) ~= string.sub(ARGV[2], 7, 22) then
  local there, here = epoch(known), epoch(ARGV[2])
  if there > here or (there == here and ARGV[4] == '1') then return {0, known} end
end
if known ~= ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return {1, known}
";

const DEPART: &str = "\
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or string.sub(known, 7, 22) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
";

const APPEND: &str = "\
local count = #ARGV - 1
if redis.call('XLEN', KEYS[1]) + count > tonumber(ARGV[1]) then return 0 end
for i = 2, #ARGV do redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
return 1
";

impl Script {
    const ALL: [Self; 5] = [Self::Renew, Self::Release, Self::Place, Self::Depart, Self::Append];

    const fn text(self) -> &'static str {
        match self {
            Self::Renew => RENEW,
            Self::Release => RELEASE,
            Self::Place => PLACE,
            Self::Depart => DEPART,
            Self::Append => APPEND,
        }
    }
}

/// The digests by which a server knows the scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scripts {
    digests: [Vec<u8>; Script::ALL.len()],
}

impl Scripts {
    /// Gives the scripts to a server.
    pub(super) async fn load(connection: &Connection) -> Result<Self, Failure> {
        let load = |script: Script| {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(script.text());
            command
        };
        let answers = connection.ask_all(&Script::ALL.map(load)).await?;
        let digests: Vec<_> =
            answers.into_iter().filter_map(|answer| bytes(&answer).map(<[u8]>::to_vec)).collect();
        let digests = digests.try_into().map_err(|_| Failure::Answer("SCRIPT LOAD"))?;
        Ok(Self { digests })
    }

    /// Asks whether a server still has them all.
    pub(super) fn exist(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("EXISTS").arg(&self.digests[..]);
        command
    }

    /// The call of a script on that key; its arguments are to be added.
    pub(super) fn call(&self, script: Script, key: &str) -> Cmd {
        let at = Script::ALL.iter().position(|known| *known == script).unwrap_or_default();
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.digests[at]).arg(1).arg(key);
        command
    }
}
