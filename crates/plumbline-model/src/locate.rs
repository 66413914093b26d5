//! What the text after `--model` means: a path or a model of the Hugging Face hub.

use std::path::Path;

use crate::error::LoadError;
use crate::load::ModelSource;

/// The longest name that the hub gives a repository.
const MAX_NAME: usize = 96;

impl ModelSource {
    /// The same model at one fixed state: a model of the hub at the commit that its revision stands for now, downloaded if the
    /// cache lacks it. Everything else is what it is.
    ///
    /// # Errors
    /// The model of the hub cannot be had.
    pub fn pinned(self) -> Result<Self, LoadError> {
        match self {
            #[cfg(feature = "hub")]
            Self::Hub(model) => {
                let revision = model.snapshot()?.commit;
                Ok(Self::Hub(crate::hub::HubModel { revision, ..model }))
            }
            other => Ok(other),
        }
    }

    /// What `model` names. A path that exists is a GGUF file or a Hugging Face folder. Else, what is written like a hub
    /// id (`NAME` or `ORGANISATION/NAME`) is a model of the Hugging Face hub at `revision`, a branch, tag or commit
    /// (`main` if `None`); where the cache and the hub are is read from the environment, see `HubSettings::from_env`.
    /// Touches no network.
    ///
    /// # Errors
    /// A path that does not exist and is no hub id, a revision of something that has none, a hub id in a build without
    /// the feature `hub`, or an environment that says nothing usable.
    pub fn named(model: &Path, revision: Option<&str>) -> Result<Self, LoadError> {
        if model.exists() {
            return match revision {
                None => Ok(Self::from_path(model.to_owned())),
                Some(revision) => {
                    Err(LoadError::RevisionOfPath { path: model.to_owned(), revision: revision.to_owned() })
                }
            };
        }
        match model.to_str().filter(|text| is_hub_id(text)) {
            Some(id) => hub_model(id, revision),
            None => Err(LoadError::NothingThere { path: model.to_owned() }),
        }
    }
}

#[cfg(feature = "hub")]
fn hub_model(id: &str, revision: Option<&str>) -> Result<ModelSource, LoadError> {
    let settings = crate::hub::HubSettings::from_env()?;
    let revision = revision.unwrap_or(crate::hub::DEFAULT_REVISION).to_owned();
    Ok(ModelSource::Hub(crate::hub::HubModel { id: id.to_owned(), revision, settings }))
}

#[cfg(not(feature = "hub"))]
fn hub_model(id: &str, _revision: Option<&str>) -> Result<ModelSource, LoadError> {
    Err(LoadError::WithoutHub { id: id.to_owned() })
}

/// Whether a text follows the hub's rules for repositories: `NAME` or `ORGANISATION/NAME` of ASCII letters, digits, `-`,
/// `_` and `.`. What ends like a file of weights is taken for a path.
fn is_hub_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let good = |part: &&str| {
        part.len() <= MAX_NAME
            && part.starts_with(word)
            && part.ends_with(word)
            && part.chars().all(|character| word(character) || matches!(character, '-' | '.'))
    };
    let of_a_file = [".gguf", ".safetensors", ".bin", ".json", ".git"];
    parts.len() <= 2
        && parts.iter().all(good)
        && !text.contains("--")
        && !text.contains("..")
        && !of_a_file.iter().any(|ending| text.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        for id in ["gpt2", "Qwen/Qwen2.5-0.5B", "a/b", "HuggingFaceTB/SmolLM2-135M-Instruct", "x_1/_y.z-2", "policy"] {
            assert!(is_hub_id(id), "{id}");
        }
        let long = format!("a/{}", "b".repeat(97));
        for path in [
            "",
            "/",
            "/models/a",
            "./a",
            "../a",
            "a/b/c",
            "a/",
            "/a",
            "~/a",
            "a b",
            "a--b",
            "a..b",
            "-a",
            "a-",
            ".a",
            "a.",
            "m.gguf",
            "o/m.gguf",
            "a\\b",
            "modèle",
            "a/b.git",
            &long,
        ] {
            assert!(!is_hub_id(path), "{path}");
        }
    }

    #[test]
    fn a_missing_path_is_not_taken_for_a_hub_id() {
        for path in ["/no/such/model", "./policy-7", "models/of/mine", "no-such.gguf"] {
            let error = ModelSource::named(Path::new(path), None).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "there is no folder or file {path}, and it is not written like a Hugging Face hub id (NAME or ORGANISATION/NAME) either"
                )
            );
        }
    }

    #[test]
    fn only_hub_models_have_a_revision() {
        let error = ModelSource::named(Path::new("."), Some("v1")).unwrap_err().to_string();
        assert_eq!(
            error,
            "revision v1 was asked for, but . is a folder or file: only models of the hub have revisions"
        );
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_a_hub_id_says_so() {
        let error = ModelSource::named(Path::new("Qwen/Qwen2.5-0.5B"), None).unwrap_err().to_string();
        assert!(error.contains("built without the feature `hub`"), "{error}");
    }
}
