//! JSON pointers (RFC 6901) of the places at which deserialising stopped.

use std::borrow::Cow;

use serde_path_to_error::{Path, Segment};

/// The pointer of a path.
#[must_use]
pub fn json_pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&escaped_key(key));
            }
            // Variants have no place in the JSON that is read here, and unknown segments no name.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// A key as it stands in a pointer.
#[must_use]
pub fn escaped_key(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) { key.replace('~', "~0").replace('/', "~1").into() } else { key.into() }
}

/// The path as people write it, `sequences[1].logprobs[2]`; as a pointer where a key would not be told from the path around it.
pub(crate) fn readable_path(path: &Path) -> String {
    let is_plain = |segment: &Segment| match segment {
        Segment::Map { key } => !key.is_empty() && !key.contains(['.', '[', ']', '/', '~']),
        _ => true,
    };
    if path.iter().all(is_plain) { path.to_string() } else { json_pointer(path) }
}
