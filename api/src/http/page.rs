//! Pages of lists: `?limit=&after=`, answered with `{items, next}`.
//!
//! Owns the bounds and the cursor, which is the id of the last item and nothing to be parsed by
//! clients.

use serde::{Deserialize, Serialize};

use super::Problem;

/// Items of a page when the client does not say.
const DEFAULT: u32 = 50;
/// Items of a page at most.
pub const MAX: u32 = 500;

/// What a client may ask of a list.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items wanted, 1 to 500; 50 by default.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// A page to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<C> {
    /// Items at most.
    pub limit: u32,
    /// The last item of the page before.
    pub after: Option<C>,
}

impl PageQuery {
    /// The page, with a cursor of that type.
    pub fn page<C: std::str::FromStr>(&self) -> Result<Page<C>, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT);
        if !(1..=MAX).contains(&limit) {
            return Err(Problem::field("limit", format!("must be 1 to {MAX}")));
        }
        let after = self.after.as_deref().map(str::parse).transpose();
        let after = after.map_err(|_| Problem::field("after", "is no cursor of this list"))?;
        Ok(Page { limit, after })
    }
}

impl<C> Page<C> {
    /// How many rows to read: one more than wanted tells whether there is a next page.
    pub fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Cuts what was read to the page, and says where the next begins.
    pub fn cut<T>(&self, mut items: Vec<T>, cursor: impl Fn(&T) -> String) -> Paged<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).map(cursor);
        Paged { items, next }
    }
}

/// A page as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to pass as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
