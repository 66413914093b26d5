//! Names of versions: what a checkpoint's folder is called, and which of two versions is newer.

use std::path::Path;

/// The version that a checkpoint's folder stands for: the number at the end of its name without leading zeros
/// (`step_42` -> `42`, `weight_v000007` -> `7`), else the whole name. `None` if the path has no readable name.
pub(crate) fn directory_version(directory: &Path) -> Option<String> {
    let name = directory.file_name()?.to_str()?;
    Some(match trailing_number(name) {
        Some(number) => number.to_string(),
        None => name.to_owned(),
    })
}

/// The number at the end of a version's name, by which versions are ordered.
pub(super) fn trailing_number(name: &str) -> Option<u64> {
    let digits = name.len() - name.trim_end_matches(|character: char| character.is_ascii_digit()).len();
    name[name.len() - digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_at_the_end_is_the_version() {
        for (path, version) in [
            ("/b/step_42", "42"),
            ("/b/weight_v000007", "7"),
            ("checkpoint-100", "100"),
            ("42", "42"),
            ("step_0", "0"),
            ("final", "final"),
            ("v2-final", "v2-final"),
            ("step_99999999999999999999999", "step_99999999999999999999999"),
            ("schritt_ü", "schritt_ü"),
        ] {
            assert_eq!(directory_version(Path::new(path)).as_deref(), Some(version), "{path}");
        }
        assert_eq!(directory_version(Path::new("/")), None);
    }
}
