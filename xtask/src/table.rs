//! A small table for people.

/// Prints `rows` of name and value, the values aligned to the right.
pub(crate) fn print(title: &str, rows: &[(String, String)]) {
    let left = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let right = rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    println!("{title}");
    for (name, value) in rows {
        println!("  {name:<left$}  {value:>right$}");
    }
}
