//! Pages: how many items, where to go on, and how many bytes a response may have.

use coretex_engine::{Error, PageRequest};

use crate::problem::Result;
use crate::validate::Fields;

/// Items of a page where the caller does not say.
const DEFAULT_SIZE: i32 = 50;
/// The most items of a page.
const MAX_SIZE: i32 = 1_000;

/// The most bytes of a response: stock clients stop at 4 MiB.
pub(crate) const MAX_RESPONSE_BYTES: usize = 3_500 * 1024;

/// Reads `page_size` and `page_token`.
pub(crate) fn read(fields: &mut Fields, size: i32, token: String) -> PageRequest {
    if size < 0 {
        fields.refuse("page_size", "must not be negative");
    }
    let size = match size {
        0 => DEFAULT_SIZE,
        given => given.clamp(1, MAX_SIZE),
    };
    PageRequest {
        size: usize::try_from(size).unwrap_or_default(),
        token: fields.token("page_token", token),
    }
}

/// A name for a list and its filters, to tell its tokens from those of others.
pub(crate) fn list_name<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    // FNV-1a: short, stable from version to version, and nobody gains anything by a collision.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.into_iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// Marks a token as one of the list `name`. The empty token, the end, stays empty.
pub(crate) fn seal(token: &str, name: u64) -> String {
    if token.is_empty() {
        return String::new();
    }
    format!("{name:016x}.{token}")
}

/// Takes the mark off a token.
///
/// # Errors
/// It belongs to another list.
pub(crate) fn unseal(page: PageRequest, name: u64) -> Result<PageRequest> {
    if page.token.is_empty() {
        return Ok(page);
    }
    match page.token.split_once('.') {
        Some((mark, token)) if mark == format!("{name:016x}") && !token.is_empty() => {
            let token = token.to_owned();
            Ok(PageRequest { token, ..page })
        }
        _ => Err(Error::PageTokenInvalid.into()),
    }
}

/// A page of a short list that is at hand as a whole and has lost its first `dropped` items.
pub(crate) struct Slice {
    /// Items to skip.
    pub(crate) skip: usize,
    /// Items to take.
    pub(crate) take: usize,
    /// Token of the next page; empty at the end.
    pub(crate) next: String,
}

/// Works out the page of a list of `length` items at hand. A `size` of 0 means all. Tokens count
/// from the first item ever, so that they hold while old ones are dropped.
///
/// # Errors
/// The token is not one of this list.
pub(crate) fn slice(
    length: usize,
    dropped: u32,
    size: i32,
    token: &str,
    name: u64,
) -> Result<Slice> {
    let page = PageRequest {
        size: 0,
        token: token.to_owned(),
    };
    let dropped = dropped as usize;
    let first = match unseal(page, name)?.token.as_str() {
        "" => 0,
        position => {
            let position: usize = position.parse().map_err(|_| Error::PageTokenInvalid)?;
            position.saturating_sub(dropped)
        }
    };
    let skip = first.min(length);
    let left = length - skip;
    let take = match usize::try_from(size) {
        Ok(0) | Err(_) => left,
        Ok(size) => size.min(left),
    };
    let next = if take < left {
        seal(&(dropped + skip + take).to_string(), name)
    } else {
        String::new()
    };
    Ok(Slice { skip, take, next })
}

/// How many of the items with these sizes fit into a response; at least one.
pub(crate) fn fitting(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        // Tag and length of each item.
        bytes += size + 8;
        bytes <= MAX_RESPONSE_BYTES
    };
    sizes.into_iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::problem::Problem;
    use crate::validate::check;

    #[test]
    fn sizes_have_a_default_and_a_cap() {
        let size = |size| check(|fields| read(fields, size, String::new()).size);
        assert_eq!(size(0), Ok(50));
        assert_eq!(size(7), Ok(7));
        assert_eq!(size(1_001), Ok(1_000));
        assert!(size(-1).is_err());
    }

    #[test]
    fn tokens_belong_to_one_list() {
        let name = list_name(["workers", "gpu", ""]);
        let page = |token: String| PageRequest { size: 1, token };
        let sealed = seal("w-1/s-1", name);
        assert_eq!(unseal(page(sealed.clone()), name).unwrap().token, "w-1/s-1");
        let other = list_name(["workers", "", "gpu"]);
        let refused = Problem::Engine(Error::PageTokenInvalid);
        for token in [sealed, "x".to_owned(), format!("{other:016x}.")] {
            assert_eq!(unseal(page(token), other).err(), Some(refused.clone()));
        }
        assert_eq!(seal("", name), "");
    }

    #[test]
    fn slices_go_on_where_they_stopped_while_old_items_are_dropped() {
        let name = list_name(["events", "j"]);
        let first = slice(5, 0, 2, "", name).unwrap();
        assert_eq!((first.skip, first.take), (0, 2));
        // Three more came, and three were dropped.
        let second = slice(5, 3, 2, &first.next, name).unwrap();
        assert_eq!((second.skip, second.take), (0, 2));
        let third = slice(5, 3, 4, &second.next, name).unwrap();
        assert_eq!((third.skip, third.take, third.next), (2, 3, String::new()));
        assert_eq!(slice(5, 0, 0, "", name).unwrap().take, 5);
        assert!(slice(5, 0, 2, "junk", name).is_err());
        assert!(slice(5, 0, 2, &seal("-1", name), name).is_err());
        let beyond = slice(5, 0, 2, &seal("99", name), name).unwrap();
        assert_eq!((beyond.take, beyond.next), (0, String::new()));
    }

    #[test]
    fn pages_end_by_bytes_but_are_never_empty() {
        assert_eq!(fitting([10, 10, 10]), 3);
        assert_eq!(fitting([MAX_RESPONSE_BYTES, 1]), 1);
        assert_eq!(fitting([1_000_000; 9]), 3);
        assert_eq!(fitting([MAX_RESPONSE_BYTES - 100, 84, 1]), 2);
    }
}
