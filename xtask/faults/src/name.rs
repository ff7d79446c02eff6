//! What a file is called in orders and in the log. Pure.

/// Digits from here on are a number that another run would not repeat.
const DIGITS_MIN: usize = 6;

/// The name of the file at `path`: relative to `root`, with each long number as `#`; `None` for
/// what does not lie there. The root itself is `.`.
///
/// A segment of a log carries the sequence of its first record: `journal/journal-#.yaojournal` is
/// whichever one is written.
#[must_use]
pub(crate) fn of(path: &str, root: &str) -> Option<String> {
    let relative = path.strip_prefix(root)?;
    if relative.is_empty() {
        return Some(".".to_owned());
    }
    let relative = relative.strip_prefix('/')?;
    let mut name = String::with_capacity(relative.len());
    let mut digits = String::new();
    for character in relative.chars().chain(['\0']) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        name.push_str(if digits.len() < DIGITS_MIN { &digits } else { "#" });
        digits.clear();
        // The end is no part of the name, and a space would end it in the log.
        match character {
            '\0' => {}
            ' ' => name.push('_'),
            other => name.push(other),
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_relative_and_the_same_in_each_run() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(of(path, "/mnt/state").as_deref(), expected, "{path}");
        };
        check("/mnt/state", Some("."));
        check("/mnt/state/lock", Some("lock"));
        check("/mnt/state/cursor/wave-000.yaocursor", Some("cursor/wave-000.yaocursor"));
        let segment = "/mnt/state/journal/journal-00000000000000000031.yaojournal";
        check(segment, Some("journal/journal-#.yaojournal"));
        check("/mnt/state/0123456789", Some("#"));
        check("/mnt/state2/lock", None);
        check("/mnt", None);
        check("socket:[4711]", None);
    }
}
