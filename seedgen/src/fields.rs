//! Reading one TOML table key by key, so that every mistake is one line with the key's full path.
//! Knows TOML's types; knows nothing of campaigns.

use crate::campaign::CampaignError;
use std::ops::RangeInclusive;
use toml::{Table, Value};

/// One table and its place in the file.
pub(crate) struct Fields<'a> {
    path: String,
    table: &'a Table,
}

impl<'a> Fields<'a> {
    /// The fields of `table`, which may hold the keys `known` and no other.
    pub(crate) fn new(
        path: String,
        table: &'a Table,
        known: &[&str],
    ) -> Result<Self, CampaignError> {
        let fields = Self { path, table };
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(fields),
            Some(stranger) => {
                let nearest = known.iter().min_by_key(|key| edit_distance(key, stranger));
                Err(CampaignError::UnknownKey {
                    key: fields.key(stranger),
                    nearest: nearest.map(ToString::to_string).unwrap_or_default(),
                    known: known.join(", "),
                })
            }
        }
    }

    /// The full path of `name`, as an error shows it.
    pub(crate) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The value of `name`, if it is there.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.table.get(name)
    }

    /// The value of `name`, which must be there.
    pub(crate) fn required(&self, name: &str, remedy: &str) -> Result<&'a Value, CampaignError> {
        self.value(name).ok_or_else(|| CampaignError::Missing {
            key: self.key(name),
            remedy: remedy.to_owned(),
        })
    }

    /// "`name` is `value`; remedy".
    pub(crate) fn wrong(&self, name: &str, remedy: &str) -> CampaignError {
        CampaignError::Wrong {
            key: self.key(name),
            value: self.value(name).map_or_else(|| "missing".to_owned(), shown),
            remedy: remedy.to_owned(),
        }
    }

    /// A string.
    pub(crate) fn text(&self, name: &str, remedy: &str) -> Result<&'a str, CampaignError> {
        self.required(name, remedy)?.as_str().ok_or_else(|| self.wrong(name, remedy))
    }

    /// A whole number within `range`.
    pub(crate) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
        remedy: &str,
    ) -> Result<u64, CampaignError> {
        let value = self.required(name, remedy)?.as_integer();
        value
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| range.contains(value))
            .ok_or_else(|| self.wrong(name, remedy))
    }

    /// An array of tables, as `[[name]]` or in line, each of whose keys must be among `known`.
    pub(crate) fn tables(
        &self,
        name: &str,
        known: &[&str],
        remedy: &str,
    ) -> Result<Vec<Self>, CampaignError> {
        let rows =
            self.required(name, remedy)?.as_array().ok_or_else(|| self.wrong(name, remedy))?;
        let tables = rows.iter().enumerate().map(|(position, row)| {
            let path = format!("{}[{position}]", self.key(name));
            let table = row.as_table().ok_or_else(|| self.wrong(name, remedy))?;
            Self::new(path, table, known)
        });
        tables.collect()
    }

    /// Seconds: a number, or text such as "72h".
    pub(crate) fn seconds(&self, name: &str, limit: u64) -> Result<u64, CampaignError> {
        let remedy = format!(
            "write 1 to {limit} seconds, as a number or as text with s, m, h or d, such as \"72h\""
        );
        let seconds = match self.required(name, &remedy)? {
            Value::Integer(seconds) => u64::try_from(*seconds).ok(),
            Value::String(text) => parse_seconds(text),
            _ => None,
        };
        seconds
            .filter(|seconds| (1..=limit).contains(seconds))
            .ok_or_else(|| self.wrong(name, &remedy))
    }
}

/// A value on one line: what the person wrote, or its kind when it is a table or array.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

fn parse_seconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { digits.parse::<u64>().ok()?.checked_mul(unit) } else { None }
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_exactly_or_not_at_all() {
        let check = |text: &str, expected| assert_eq!(parse_seconds(text), expected, "{text}");
        check("72h", Some(259_200));
        check("90", Some(90));
        check("2d", Some(172_800));
        check("1.5h", None);
        check("h", None);
        check("-3s", None);
        check("7w", None);
    }

    #[test]
    fn distance_counts_letters() {
        let check = |a, b, expected| assert_eq!(edit_distance(a, b), expected, "{a} {b}");
        check("packets", "packet", 1);
        check("packets", "packest", 2);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
    }
}
