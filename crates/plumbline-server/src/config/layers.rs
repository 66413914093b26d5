//! Defaults < file < environment < flags, and a name for where each value came from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider, Source};
use serde::Serialize;

use super::{Config, ConfigError, KeyProblem};

/// The file that is read when none is named, if it exists; relative to the working directory.
pub const DEFAULT_CONFIG_FILE: &str = "config/plumbline.toml";

const PREFIX: &str = "PLUMBLINE_";

/// Names the file, as `--config` does; not a key itself.
const CONFIG_FILE_VARIABLE: &str = "PLUMBLINE_CONFIG";

impl Config {
    /// Loads and validates the configuration.
    ///
    /// `path` is the file that was asked for; without one, `PLUMBLINE_CONFIG`, else [`DEFAULT_CONFIG_FILE`] if it
    /// exists. `environment` is usually [`std::env::vars_os`]. `flags` is a struct (or map) of optional values named
    /// like the keys; what is `None` was not given.
    ///
    /// # Errors
    /// [`ConfigError`]; bad keys are all named at once.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &impl Serialize,
    ) -> Result<Self, ConfigError> {
        let variables = plumbline_variables(environment)?;
        let named_by_variable =
            variables.iter().find(|(name, value)| name == CONFIG_FILE_VARIABLE && !value.is_empty());
        let file = match (path, named_by_variable) {
            (Some(path), _) => Some(path.to_owned()),
            (None, Some((_, path))) => Some(PathBuf::from(path)),
            (None, None) => Some(PathBuf::from(DEFAULT_CONFIG_FILE)).filter(|path| path.exists()),
        };
        let defaults = Serialized::defaults(Self::default());
        let default_values = defaults.data().map_err(Box::new)?.remove(&Profile::Default).unwrap_or_default();

        let mut figment = Figment::from(defaults);
        if let Some(path) = file {
            figment = figment.merge(file_layer(path)?);
        }
        for (name, value) in variables.into_iter().filter(|(name, _)| name != CONFIG_FILE_VARIABLE) {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let value = match default_values.get(&key) {
                Some(default) => typed_like(&key, default, value),
                None => value.into(),
            };
            figment = figment.merge(OneKey { source: format!("environment variable {name}"), key, value });
        }
        for (key, value) in flag_values(flags)? {
            figment = figment.merge(OneKey { source: format!("flag --{}", key.replace('_', "-")), key, value });
        }
        assemble(&figment, &default_values)
    }
}

/// Deserialises key by key, so that every bad one is named and not just the first.
fn assemble(figment: &Figment, defaults: &Dict) -> Result<Config, ConfigError> {
    let values = figment.data().map_err(Box::new)?.remove(&Profile::Default).unwrap_or_default();
    let mut problems = Vec::new();
    for (key, value) in &values {
        let mut only = defaults.clone();
        only.insert(key.clone(), value.clone());
        if let Err(error) = Value::from(only).deserialize::<Config>() {
            problems.push(problem(figment, key, value, reason(&error.kind)));
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError::Keys(problems));
    }
    let config: Config = Value::from(values.clone()).deserialize().map_err(Box::new)?;
    let found = config.problems().into_iter().filter_map(|(key, reason)| {
        let value = values.get(key)?;
        Some(problem(figment, key, value, reason))
    });
    problems.extend(found);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::Keys(problems)) }
}

fn problem(figment: &Figment, key: &str, value: &Value, reason: String) -> KeyProblem {
    let source = figment.get_metadata(value.tag()).map_or_else(|| "default".into(), source_name);
    KeyProblem { key: key.to_owned(), value: shown(value), reason, source }
}

fn source_name(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        Some(Source::Code(_)) => "default".into(),
        _ => metadata.name.to_string(),
    }
}

fn reason(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(..) => "unknown key".into(),
        Kind::UnknownVariant(_, supported) => format!("not supported, use {}", supported.join(" or ")),
        other => other.to_string(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, char) => format!("{char:?}"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(integer), ..) => integer.to_string(),
            (None, Some(integer), _) => integer.to_string(),
            (None, None, Some(float)) => float.to_string(),
            (None, None, None) => format!("{number:?}"),
        },
        Value::Empty(..) => "nothing".into(),
        Value::Dict(..) => "a table".into(),
        Value::Array(..) => "an array".into(),
    }
}

/// A file that must exist: figment alone would take a missing one as empty.
fn file_layer(path: PathBuf) -> Result<impl Provider, ConfigError> {
    if let Err(source) = std::fs::read(&path) {
        return Err(ConfigError::Read { path, source });
    }
    let layer = Toml::file_exact(&path);
    match layer.data() {
        Ok(_) => Ok(layer),
        Err(error) => Err(ConfigError::Syntax { path, reason: error.kind.to_string().trim_end().to_owned() }),
    }
}

/// The variables with our prefix, without those that Kubernetes injects into every pod beside a service called
/// `plumbline` (`PLUMBLINE_SERVICE_HOST`, `PLUMBLINE_PORT_8080_TCP`, ...).
fn plumbline_variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let from_kubernetes = |rest: &str| {
        rest == "SERVICE_HOST" || rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_PORT")
    };
    let (mut variables, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in environment {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !from_kubernetes(rest)) else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name.into_owned(), value)),
            Err(value) => problems.push(KeyProblem {
                key: rest.to_ascii_lowercase(),
                value: format!("{value:?}"),
                reason: "not valid UTF-8".into(),
                source: format!("environment variable {name}"),
            }),
        }
    }
    if problems.is_empty() { Ok(variables) } else { Err(ConfigError::Keys(problems)) }
}

/// Lists whose entries hold colons: in variables they are separated by commas.
const BY_COMMA: [&str; 3] = ["alertmanager_url", "alert_webhook_url", "alert_label"];

/// A variable is text; its key's default says what it stands for. Text that stands for no such value stays text and is
/// refused as the wrong type.
fn typed_like(key: &str, default: &Value, text: String) -> Value {
    let typed = match default {
        Value::Bool(..) => text.parse::<bool>().ok().map(Value::from),
        Value::Num(_, number) if number.to_f64().is_some() => text.parse::<f64>().ok().map(Value::from),
        Value::Num(..) => text.parse::<i64>().ok().map(Value::from),
        Value::Array(..) => {
            // As in PATH, where that can be.
            let separator = if BY_COMMA.contains(&key) { ',' } else { ':' };
            let parts = text.split(separator).map(str::trim).filter(|part| !part.is_empty());
            Some(parts.collect::<Vec<_>>().into())
        }
        _ => None,
    };
    typed.unwrap_or_else(|| text.into())
}

fn flag_values(flags: &impl Serialize) -> Result<Dict, ConfigError> {
    let value = Value::serialize(flags).map_err(Box::new)?;
    let given = value.into_dict().unwrap_or_default();
    Ok(given.into_iter().filter(|(_, value)| !matches!(value, Value::Empty(..))).collect())
}

/// One value with a source of its own, so that problems can name it.
struct OneKey {
    source: String,
    key: String,
    value: Value,
}

impl Provider for OneKey {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(Dict::from([(self.key.clone(), self.value.clone())])))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use plumbline_core::ComputeDevices;

    use crate::config::LogFormat;

    #[derive(Default, Serialize)]
    struct Flags {
        listen: Option<String>,
        threads: Option<usize>,
        model: Option<PathBuf>,
        device: Option<String>,
        no_auth: Option<bool>,
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("plumbline-config-{}-{name}.toml", std::process::id()));
            fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn problems(file: &str, text: &str, variables: &[(&str, &str)], flags: &Flags) -> Vec<String> {
        let file = File::new(file, text);
        match Config::load(Some(&file.0), env(variables), flags) {
            Err(ConfigError::Keys(problems)) => {
                problems.iter().map(|p| p.to_string().replace(&*file.0.to_string_lossy(), "FILE")).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_layers_win() {
        let file = File::new(
            "layers",
            "threads = 1\nmax_batch_tokens = 100\npolicy_version = \"7\"\nverdict_mae_suspect_nats = 0.02",
        );
        let variables = [
            ("PLUMBLINE_THREADS", "2"),
            ("PLUMBLINE_POLICY_VERSION", "42"),
            ("PLUMBLINE_LOG_FORMAT", "json"),
            ("PLUMBLINE_VERDICT_MAE_DIVERGENT_NATS", "1"),
            ("PLUMBLINE_WEIGHTS_ROOT", "/a:/b"),
            ("PLUMBLINE_ALERTMANAGER_URL", "http://a:9093, b=http://b:9093"),
            ("OTHER_THREADS", "9"),
        ];
        let flags = Flags { threads: Some(3), model: Some("/m".into()), ..Flags::default() };
        let config = Config::load(Some(&file.0), env(&variables), &flags).unwrap();
        assert_eq!(config.threads, 3);
        assert_eq!(config.max_batch_tokens, 100);
        assert_eq!(config.policy_version.as_deref(), Some("42"), "a string that looks like a number stays one");
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!((config.verdict_mae_suspect_nats, config.verdict_mae_divergent_nats), (0.02, 1.0));
        assert_eq!(config.model.as_deref(), Some(Path::new("/m")));
        assert_eq!(config.weights_root, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config.alertmanager_url, ["http://a:9093", "b=http://b:9093"]);
        assert_eq!(config.device, ComputeDevices::default());
        let flags = Flags { device: Some("cuda:1,0".into()), ..Flags::default() };
        assert_eq!(Config::load(Some(&file.0), env(&[]), &flags).unwrap().device.to_string(), "cuda:1,0");
    }

    #[test]
    fn every_bad_key_is_named_with_value_source_and_reason() {
        let text = "threads = \"many\"\nthraeds = 4\nmax_batch_tokens = -5\ndtype = \"int3\"\n[server]\nport = 1";
        let variables = [("PLUMBLINE_LISTENN", "x"), ("PLUMBLINE_NO_AUTH", "maybe"), ("PLUMBLINE_LISTEN", "localhost")];
        let flags = Flags { device: Some("gpu".into()), ..Flags::default() };
        let mut found = problems("bad", text, &variables, &flags);
        found.sort();
        let expected = [
            "device = \"gpu\" (flag --device): not supported, use auto, cpu, cuda:N, cuda:N,M,... or metal",
            "dtype = \"int3\" (FILE): not supported, use f32 or bf16 or f16 or f64",
            "listen = \"localhost\" (environment variable PLUMBLINE_LISTEN): invalid socket address syntax",
            "listenn = \"x\" (environment variable PLUMBLINE_LISTENN): unknown key",
            "max_batch_tokens = -5 (FILE): invalid value signed int `-5`, expected usize",
            "no_auth = \"maybe\" (environment variable PLUMBLINE_NO_AUTH): invalid type: found string \"maybe\", expected a boolean",
            "server = a table (FILE): unknown key",
            "thraeds = 4 (FILE): unknown key",
            "threads = \"many\" (FILE): invalid type: found string \"many\", expected usize",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn values_out_of_range_are_named_with_their_source() {
        let found = problems("range", "window_slices = 0", &[("PLUMBLINE_MAX_BATCH_TOKENS", "0")], &Flags::default());
        assert_eq!(
            found,
            [
                "max_batch_tokens = 0 (environment variable PLUMBLINE_MAX_BATCH_TOKENS): must be from 1 to 16777216",
                "window_slices = 0 (FILE): must be from 1 to 3600"
            ]
        );
    }

    #[test]
    fn an_open_address_needs_keys_or_no_auth() {
        let flags = |no_auth| Flags { listen: Some("0.0.0.0:80".into()), no_auth, ..Flags::default() };
        let found = problems("open", "", &[], &flags(None));
        assert_eq!(
            found,
            [
                "listen = \"0.0.0.0:80\" (flag --listen): not loopback, which needs api_key_file or api_key_env, or no_auth = true to serve without keys"
            ]
        );
        let file = File::new("open-no-auth", "");
        assert!(Config::load(Some(&file.0), env(&[]), &flags(Some(true))).is_ok());
        let keys = env(&[("PLUMBLINE_API_KEY_FILE", "/keys")]);
        assert!(Config::load(Some(&file.0), keys, &flags(None)).is_ok());
    }

    #[test]
    fn files_that_are_missing_or_not_toml_are_errors() {
        let missing = Path::new("/no/such/plumbline.toml");
        let error = Config::load(Some(missing), env(&[]), &Flags::default()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read configuration file /no/such/plumbline.toml");
        let variable = env(&[("PLUMBLINE_CONFIG", "/no/such/plumbline.toml")]);
        assert!(matches!(Config::load(None, variable, &Flags::default()), Err(ConfigError::Read { .. })));
        let file = File::new("syntax", "threads = = 2");
        let error = Config::load(Some(&file.0), env(&[]), &Flags::default()).unwrap_err().to_string();
        assert!(error.contains("is not valid TOML") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn variables_of_kubernetes_are_not_ours() {
        let variables = [
            ("PLUMBLINE_SERVICE_HOST", "10.0.0.1"),
            ("PLUMBLINE_SERVICE_PORT", "80"),
            ("PLUMBLINE_SERVICE_PORT_HTTP", "80"),
            ("PLUMBLINE_PORT", "tcp://10.0.0.1:80"),
            ("PLUMBLINE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ];
        let file = File::new("kubernetes", "");
        let config = Config::load(Some(&file.0), env(&variables), &Flags::default()).unwrap();
        assert_eq!(config, Config::default());
    }
}
