//! Where the cache and the hub are, from the variables that every Hugging Face library reads.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::HubError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How long the hub may take to say what it has; as in `huggingface_hub`.
const DEFAULT_ANSWER_SECONDS: u64 = 10;

/// How long a download may stand still before it counts as failed.
const STALL: Duration = Duration::from_secs(60);

/// Where the cache and the hub are.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Folder of the cache, with one `models--ORG--NAME` per model.
    pub cache: PathBuf,
    /// The hub's address without a slash at its end.
    pub endpoint: String,
    /// What gives access to private and gated models.
    pub token: Option<HubToken>,
    /// Whether the network must not be used.
    pub offline: bool,
    /// How long the hub may take to say what it has.
    pub answer_within: Duration,
    /// How long a download may stand still.
    pub stall: Duration,
}

/// An access token. Never shown.
#[derive(Clone)]
pub struct HubToken(String);

impl HubToken {
    /// Wraps a token.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(token)
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubToken(hidden)")
    }
}

impl HubSettings {
    /// The public hub with a cache folder; no token.
    #[must_use]
    pub fn with_cache(cache: PathBuf) -> Self {
        Self {
            cache,
            endpoint: DEFAULT_ENDPOINT.into(),
            token: None,
            offline: false,
            answer_within: Duration::from_secs(DEFAULT_ANSWER_SECONDS),
            stall: STALL,
        }
    }

    /// What the environment says, by the names and in the order of `huggingface_hub`:
    /// - cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`/hub, `XDG_CACHE_HOME`/huggingface/hub,
    ///   ~/.cache/huggingface/hub;
    /// - token: `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH`, else the file `token` in `HF_HOME`;
    /// - `HF_ENDPOINT`; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`; `HF_HUB_ETAG_TIMEOUT` in seconds.
    ///
    /// # Errors
    /// A variable or token file that cannot be used, or no home folder to put the cache in.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(|name| std::env::var_os(name), std::env::home_dir().as_deref())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match set(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim().to_owned())),
            Some(Err(_)) => Err(HubError::Variable { name, reason: "is not UTF-8".into() }),
        };
        let path = |name: &str| set(name).map(|value| expand(PathBuf::from(value), home));

        let hugging_face = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("huggingface")))
            .or_else(|| home.map(|home| home.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hugging_face.as_ref().map(|folder| folder.join("hub")))
            .ok_or(HubError::NoCacheFolder)?;
        // Links inside the cache are computed from whole paths.
        let cache = std::path::absolute(&cache).map_err(|source| HubError::Cache { path: cache, source })?;
        let mut settings = Self::with_cache(cache);

        settings.token = match text("HF_TOKEN")? {
            Some(token) => Some(token),
            None => match text("HUGGING_FACE_HUB_TOKEN")? {
                Some(token) => Some(token),
                None => {
                    let file = path("HF_TOKEN_PATH").or_else(|| hugging_face.map(|folder| folder.join("token")));
                    file.map_or(Ok(None), |file| token_file(&file))?
                }
            },
        }
        .map(HubToken);
        if let Some(endpoint) = text("HF_ENDPOINT")? {
            let endpoint = endpoint.trim_end_matches('/');
            if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
                return Err(HubError::Variable {
                    name: "HF_ENDPOINT",
                    reason: "is not an http or https address".into(),
                });
            }
            settings.endpoint = endpoint.to_owned();
        }
        let offline = match text("HF_HUB_OFFLINE")? {
            Some(value) => Some(value),
            None => text("TRANSFORMERS_OFFLINE")?,
        };
        settings.offline =
            offline.is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()));
        if let Some(seconds) = text("HF_HUB_ETAG_TIMEOUT")? {
            settings.answer_within =
                seconds.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or(
                    HubError::Variable { name: "HF_HUB_ETAG_TIMEOUT", reason: "is not a number of seconds".into() },
                )?;
        }
        Ok(settings)
    }

    /// The endpoint without a user name and password, which a private mirror's address may have.
    pub(super) fn shown_endpoint(&self) -> String {
        match self.endpoint.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
            }
            None => self.endpoint.clone(),
        }
    }
}

fn expand(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn token_file(path: &Path) -> Result<Option<String>, HubError> {
    match std::fs::read_to_string(path) {
        Ok(token) => Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::TokenFile { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        HubSettings::from_variables(find, Some(Path::new("/no/such/home")))
    }

    #[test]
    fn the_cache_is_where_hugging_face_keeps_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        let all =
            [("HF_HUB_CACHE", "/a"), ("HUGGINGFACE_HUB_CACHE", "/b"), ("HF_HOME", "~/c"), ("XDG_CACHE_HOME", "/d")];
        let expected =
            ["/a", "/b", "/no/such/home/c/hub", "/d/huggingface/hub", "/no/such/home/.cache/huggingface/hub"];
        for (first, expected) in expected.iter().enumerate() {
            assert_eq!(cache(&all[first..]), PathBuf::from(expected));
        }
        assert_eq!(cache(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")]), PathBuf::from("/h/hub"));
        assert!(matches!(HubSettings::from_variables(|_| None, None), Err(HubError::NoCacheFolder)));
    }

    #[test]
    fn the_token_is_found_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("plumbline-hub-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "hf_file\n").unwrap();
        let home = folder.to_str().unwrap();
        let token = |variables: &[(&str, &str)]| settings(variables).unwrap().token.map(|token| token.0);
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_variable ")]).as_deref(), Some("hf_variable"));
        assert_eq!(token(&[("HF_HOME", "/no/such/folder")]), None);
        let path = folder.join("token");
        assert_eq!(token(&[("HF_TOKEN_PATH", path.to_str().unwrap())]).as_deref(), Some("hf_file"));
        assert!(matches!(settings(&[("HF_TOKEN_PATH", home)]), Err(HubError::TokenFile { .. })));
        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]).unwrap());
        assert!(shown.contains("hidden") && !shown.contains("hf_secret"), "{shown}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn offline_is_said_in_the_usual_ways() {
        for value in ["1", "ON", "yes", "True"] {
            assert!(settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, "{value}");
        }
        for value in ["0", "", "false"] {
            assert!(!settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, "{value}");
        }
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
    }

    #[test]
    fn endpoints_are_checked_and_shown_without_a_password() {
        let endpoint = |value| settings(&[("HF_ENDPOINT", value)]);
        assert_eq!(endpoint("https://mirror.example/").unwrap().endpoint, "https://mirror.example");
        assert_eq!(endpoint("https://u:p@mirror.example/hf").unwrap().shown_endpoint(), "https://mirror.example/hf");
        let error = endpoint("mirror.example").unwrap_err().to_string();
        assert_eq!(error, "the environment variable HF_ENDPOINT is not an http or https address");
        assert_eq!(settings(&[("HF_HUB_ETAG_TIMEOUT", "3")]).unwrap().answer_within, Duration::from_secs(3));
        assert!(settings(&[("HF_HUB_ETAG_TIMEOUT", "soon")]).is_err());
    }
}
