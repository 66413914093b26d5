//! ES modules in one script: a page that is one file has nothing to import from.

/// Modules one behind the other, each after those that it imports, without their imports and exports: names that they share are
/// then in one scope. Imports stand on one line each; a test holds modules to it.
pub(super) fn joined<'a>(modules: impl IntoIterator<Item = &'a str>) -> String {
    let mut script = String::new();
    for line in modules.into_iter().flat_map(str::lines) {
        if line.starts_with("import ") {
            continue;
        }
        script.push_str(line.strip_prefix("export ").unwrap_or(line));
        script.push('\n');
    }
    script
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::assets::MODULES;

    /// Names that lines declare at the top of a module.
    fn declared(source: &str) -> Vec<&str> {
        let word = |text: &'static str| {
            move |line: &&str| {
                let line = line.strip_prefix("export ").unwrap_or(line);
                line.starts_with(text)
            }
        };
        let mut names = Vec::new();
        for kind in ["const ", "let ", "function ", "async function ", "class "] {
            for line in source.lines().filter(word(kind)) {
                let rest = &line.strip_prefix("export ").unwrap_or(line)[kind.len()..];
                names.push(rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').next().unwrap());
            }
        }
        names
    }

    #[test]
    fn what_is_joined_is_what_was_imported() {
        let report = include_str!("../../assets/report.js");
        let mut known = BTreeSet::new();
        for (file, source) in MODULES.into_iter().chain([("report.js", report)]) {
            for line in source.lines().filter(|line| line.contains("import ") && !line.trim_start().starts_with("//")) {
                let names = line.strip_prefix("import { ").and_then(|rest| rest.split_once(" } from \"./"));
                let (names, from) = names.unwrap_or_else(|| panic!("{file}: {line}"));
                let from = from.strip_suffix("\";").unwrap_or_else(|| panic!("{file}: {line}"));
                for name in names.split(", ") {
                    assert!(
                        known.contains(&(name, from)),
                        "{file} imports {name} from {from}, which comes later or is not there"
                    );
                }
            }
            for name in declared(source) {
                assert!(known.iter().all(|(other, _)| *other != name), "{file} declares {name} again");
                known.insert((name, file));
            }
        }
        let script = joined(MODULES.map(|(_, source)| source).into_iter().chain([report]));
        assert!(script.lines().all(|line| !line.starts_with("import ") && !line.starts_with("export ")));
    }
}
