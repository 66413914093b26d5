//! The end of an answer, which is known only once it is stored.

/// How an answer ends as it is worded: everything counts, everything is stored.
const AS_WORDED: &[u8] = br#","already_counted":[],"stored":true}"#;

/// The answer with its true end. `new` = of each sequence, whether this answer counts it.
pub(super) fn sealed(mut json: Vec<u8>, new: &[bool], stored: bool) -> Vec<u8> {
    let repeated: Vec<_> =
        new.iter().enumerate().filter(|(_, new)| !**new).map(|(index, _)| index.to_string()).collect();
    if (stored && repeated.is_empty()) || !json.ends_with(AS_WORDED) {
        return json;
    }
    json.truncate(json.len() - AS_WORDED.len());
    json.extend(format!(r#","already_counted":[{}],"stored":{stored}}}"#, repeated.join(",")).bytes());
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_counts_and_what_is_stored() {
        let worded = br#"{"id":"v","already_counted":[],"stored":true}"#.to_vec();
        let text = |new: &[bool], stored| String::from_utf8(sealed(worded.clone(), new, stored)).unwrap();
        assert_eq!(text(&[true, true], true).as_bytes(), worded);
        assert_eq!(text(&[false, true, false], true), r#"{"id":"v","already_counted":[0,2],"stored":true}"#);
        assert_eq!(text(&[true], false), r#"{"id":"v","already_counted":[],"stored":false}"#);
    }
}
