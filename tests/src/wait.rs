//! Waiting for conditions.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take that normally holds within milliseconds: a slow machine with two busy cores.
pub const LONG: Duration = Duration::from_secs(30);

/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// Looks until `look` finds something.
///
/// # Errors
/// `look` fails, or finds nothing within `limit`; `what` names the condition.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Looks until `look` returns `wanted`.
///
/// # Errors
/// `look` fails, or returns something else for all of [`LONG`]; the error shows what it returned last.
pub fn until_equal<T: PartialEq + Debug>(
    what: &str,
    wanted: &T,
    mut look: impl FnMut() -> Result<T>,
) -> Result<()> {
    let mut last = None;
    let outcome = until(what, LONG, || {
        let seen = look()?;
        let equal = seen == *wanted;
        last = Some(seen);
        Ok(equal.then_some(()))
    });
    match (outcome, last) {
        (Err(error), Some(last)) => Err(error.context(format!("wanted {wanted:?}, last seen {last:?}"))),
        (outcome, _) => outcome,
    }
}
