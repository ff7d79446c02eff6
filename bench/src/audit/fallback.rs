//! Which directory is the fallback of which spool, by the small file that lies in both
//! (spool-file.md 6.2). A fallback that nobody names hides acknowledged opens. Reads no record.

use super::evidence::text;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the file says; for whom, the node has checked.
#[derive(Deserialize)]
struct Pair {
    pair: String,
    fallback: PathBuf,
}

fn read(folder: &Path) -> Result<Option<Pair>> {
    let path = folder.join("pair.json");
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_str(&text(&path)?).map(Some).with_context(|| path.display().to_string())
}

/// What is wrong when the spool in `own` has a fallback, and `named` is not it.
pub(super) fn check(own: &Path, named: Option<&Path>) -> Result<Option<String>> {
    let Some(pair) = read(own)? else { return Ok(None) };
    let own = own.display();
    let Some(named) = named else {
        let fallback = pair.fallback.display();
        return Ok(Some(format!(
            "{own} has a fallback, in {fallback} once, where acknowledged opens may lie; name it"
        )));
    };
    let same = read(named)?.is_some_and(|other| other.pair == pair.pair);
    Ok((!same).then(|| format!("{} is not the fallback of {own}", named.display())))
}

/// The fallback of each state's spool, if it is among `fallbacks`, in order.
///
/// # Errors
/// A fallback of none of these spools.
pub(super) fn of_states(states: &[PathBuf], fallbacks: &[PathBuf]) -> Result<Vec<Option<PathBuf>>> {
    let spools: Vec<Option<Pair>> =
        states.iter().map(|state| read(&state.join("spool"))).collect::<Result<_>>()?;
    let mut found = vec![None; states.len()];
    for fallback in fallbacks {
        let pair = read(fallback)?.map(|pair| pair.pair);
        let same = |spool: &Option<Pair>| spool.as_ref().map(|spool| &spool.pair) == pair.as_ref();
        match spools.iter().position(|spool| pair.is_some() && same(spool)) {
            Some(at) => found[at] = Some(fallback.clone()),
            None => bail!("{} is the fallback of no --reclaimed-state", fallback.display()),
        }
    }
    Ok(found)
}
