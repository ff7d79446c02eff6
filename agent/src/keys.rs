//! Keys of a TOML document that do not exist, named together with the nearest one that does.
//! Knows no document in particular.

use toml::Table;

/// The first key of `table` that is not in `known`, as a sentence; `place` names the table.
///
/// # Errors
/// The sentence.
pub fn check(table: &Table, place: &str, known: &[&str]) -> Result<(), String> {
    let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let nearest = known.iter().min_by_key(|name| distance(key, name));
    let hint = nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Err(format!("unknown key `{key}`{place}{hint}"))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
