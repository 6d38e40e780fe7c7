//! The known name that somebody probably meant.

/// The longest names that are compared, in bytes.
const MAX_LENGTH: usize = 64;

/// The candidate nearest to `name`, if one is near enough to be a slip of the keyboard: a third of
/// the letters, at least two.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = name.chars().count();
    let allowed = (length / 3).max(2);
    candidates
        .into_iter()
        // Comparing costs the product of the lengths, and no key is as long as this.
        .filter(|candidate| length.max(candidate.len()) <= MAX_LENGTH)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::{MAX_LENGTH, nearest};

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["retention", "listen", "limits", "dev"];
        assert_eq!(nearest("retension", known), Some("retention"));
        assert_eq!(nearest("lisetn", known), Some("listen"));
        assert_eq!(nearest("limit", known), Some("limits"));
        assert_eq!(nearest("frobnicate", known), None);
        assert_eq!(nearest("x", known), None);
        let long = "l".repeat(MAX_LENGTH);
        assert_eq!(nearest(&long[1..], [long.as_str()]), Some(long.as_str()));
        let longer = format!("{long}l");
        assert_eq!(nearest(&long, [longer.as_str()]), None);
    }
}
