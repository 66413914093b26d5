//! What a value of the right type can still get wrong.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use plumbline_divergence::NoiseFloor;

use super::Config;
use crate::alerts::{address, parse_label, receivers};
use crate::body::MAX_SEQUENCES;

/// A store that is smaller would forget what it has just taken in.
const MIN_STORE_BYTES: u64 = 1 << 24;

/// Why an address without API keys is refused.
const OPEN_WITHOUT_KEYS: &str =
    "not loopback, which needs api_key_file or api_key_env, or no_auth = true to serve without keys";

impl Config {
    /// Every key whose value cannot be used, with the reason.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        const TOKENS: RangeInclusive<u64> = 1..=1 << 24;
        const SECONDS: RangeInclusive<u64> = 1..=30 * 24 * 3600;
        let ranges: [(&str, u64, RangeInclusive<u64>); 48] = [
            ("quarantine_seconds", self.quarantine_seconds, 0..=24 * 3600),
            ("restart_after_panics", u64::from(self.restart_after_panics), 0..=1_000_000),
            ("threads", self.threads as u64, 0..=4096),
            ("head_chunk_bytes", self.head_chunk_bytes as u64, 1 << 20..=1 << 36),
            ("mlp_chunk_bytes", self.mlp_chunk_bytes as u64, 1 << 20..=1 << 36),
            ("weights_poll_seconds", self.weights_poll_seconds, 1..=3600),
            ("keep_versions", self.keep_versions as u64, 1..=1000),
            ("version_wait_seconds", self.version_wait_seconds, 0..=3600),
            ("max_queue_tokens", self.max_queue_tokens as u64, 1..=1 << 32),
            ("max_batch_tokens", self.max_batch_tokens as u64, TOKENS),
            ("max_batch_sequences", self.max_batch_sequences as u64, 1..=1 << 16),
            ("max_sequence_tokens", self.max_sequence_tokens as u64, 0..=*TOKENS.end()),
            ("max_body_bytes", self.max_body_bytes as u64, 1024..=1 << 32),
            ("max_sequences_per_request", self.max_sequences_per_request as u64, 1..=1 << 20),
            ("store_max_bytes", self.store_max_bytes, 0..=1 << 44),
            ("store_max_days", self.store_max_days, 0..=36_500),
            ("max_jobs", self.max_jobs, 1..=10_000_000),
            ("max_lines_per_request", self.max_lines_per_request as u64, 1..=1 << 20),
            ("max_sequences_per_request", self.max_sequences_per_request as u64, 1..=MAX_SEQUENCES as u64),
            ("max_bodies_bytes", self.max_bodies_bytes as u64, 1024..=1 << 40),
            ("max_compression_ratio", self.max_compression_ratio as u64, 1..=1 << 20),
            ("max_connections", self.max_connections as u64, 1..=1 << 20),
            ("max_event_streams", self.max_event_streams as u64, 0..=1 << 16),
            ("max_header_bytes", self.max_header_bytes as u64, 8192..=1 << 24),
            ("max_headers", self.max_headers as u64, 1..=10_000),
            ("header_timeout_seconds", self.header_timeout_seconds, 1..=3600),
            ("body_timeout_seconds", self.body_timeout_seconds, 1..=3600),
            ("write_stall_seconds", self.write_stall_seconds, 1..=3600),
            ("credentials_poll_seconds", self.credentials_poll_seconds, 1..=3600),
            ("window_seconds", self.window_seconds, SECONDS),
            ("window_slices", self.window_slices as u64, 1..=3600),
            ("max_label_sets", self.max_label_sets as u64, 0..=10_000),
            ("label_idle_seconds", self.label_idle_seconds, SECONDS),
            ("verdict_min_tokens", self.verdict_min_tokens, 1..=1 << 32),
            ("aside_tokens", self.aside_tokens as u64, 32..=1 << 20),
            ("aside_max_tokens", self.aside_max_tokens as u64, TOKENS),
            ("noise_floor_tokens", self.noise_floor_tokens as u64, 0..=1 << 20),
            ("diagnosis_tokens_per_minute", self.diagnosis_tokens_per_minute as u64, 0..=1 << 32),
            ("diagnosis_request_tokens", self.diagnosis_request_tokens as u64, TOKENS),
            ("diagnosis_request_seconds", self.diagnosis_request_seconds, 1..=3600),
            ("drain_seconds", self.drain_seconds, 1..=3600),
            ("alert_interval_seconds", self.alert_interval_seconds, 1..=3600),
            ("alert_for_seconds", self.alert_for_seconds, 0..=24 * 3600),
            ("alert_keep_seconds", self.alert_keep_seconds, 0..=24 * 3600),
            ("alert_min_tokens", self.alert_min_tokens, 1..=1 << 32),
            ("alert_repeat_seconds", self.alert_repeat_seconds, 1..=30 * 24 * 3600),
            ("alert_timeout_seconds", self.alert_timeout_seconds, 1..=300),
            ("alert_queue", self.alert_queue as u64, 1..=100_000),
        ];
        let mut problems: Vec<_> = ranges
            .into_iter()
            .filter(|(_, value, range)| !range.contains(value))
            .map(|(key, _, range)| (key, format!("must be from {} to {}", range.start(), range.end())))
            .collect();
        let mut report = |key, reason: String| problems.push((key, reason));

        for (key, level) in [
            ("verdict_floor_suspect", self.verdict_floor_suspect),
            ("verdict_floor_divergent", self.verdict_floor_divergent),
            ("verdict_negligible_mae_nats", self.verdict_negligible_mae_nats),
            ("verdict_mae_suspect_nats", self.verdict_mae_suspect_nats),
            ("verdict_mae_divergent_nats", self.verdict_mae_divergent_nats),
            ("verdict_kl_k3_suspect_nats", self.verdict_kl_k3_suspect_nats),
            ("verdict_kl_k3_divergent_nats", self.verdict_kl_k3_divergent_nats),
        ] {
            if !(level.is_finite() && level > 0.0) {
                report(key, "must be a finite number above 0".into());
            }
        }
        if !(self.verdict_significance.is_finite() && self.verdict_significance >= 0.0) {
            report("verdict_significance", "must be a finite number of at least 0".into());
        }
        if self.verdict_floor_divergent < self.verdict_floor_suspect {
            report("verdict_floor_divergent", "must not be below verdict_floor_suspect".into());
        }
        if self.verdict_mae_divergent_nats < self.verdict_mae_suspect_nats {
            report("verdict_mae_divergent_nats", "must not be below verdict_mae_suspect_nats".into());
        }
        if self.verdict_kl_k3_divergent_nats < self.verdict_kl_k3_suspect_nats {
            report("verdict_kl_k3_divergent_nats", "must not be below verdict_kl_k3_suspect_nats".into());
        }
        if let Err(error) = self.drift().validate() {
            let key = match error.key {
                "mean_run_length" => "drift_mean_run_length",
                "baseline_sequences" => "drift_baseline_sequences",
                // The cap has no key of its own: the tolerance has come too near to it.
                _ => "drift_tolerance",
            };
            let expected = if error.key == "cap" { "below 4" } else { error.expected };
            report(key, format!("must be {expected}"));
        }
        if (1..MIN_STORE_BYTES).contains(&self.store_max_bytes) {
            report("store_max_bytes", format!("must be 0 (no limit) or at least {MIN_STORE_BYTES}"));
        }
        if self.max_queue_tokens < self.max_batch_tokens {
            report("max_queue_tokens", "must not be below max_batch_tokens, or no batch could ever fill".into());
        }
        if !(0.0..=0.5).contains(&self.aside_share) {
            report("aside_share", "must be from 0 to 0.5".into());
        }
        if !(1.5..=1000.0).contains(&self.interactive_stretch) {
            report("interactive_stretch", "must be from 1.5 to 1000".into());
        }
        if self.aside_max_tokens < self.aside_tokens {
            report("aside_max_tokens", "must not be below aside_tokens".into());
        }
        if (1..NoiseFloor::MIN_TOKENS).contains(&(self.noise_floor_tokens as u64)) {
            report("noise_floor_tokens", format!("must be 0 or at least {}", NoiseFloor::MIN_TOKENS));
        }
        if self.label_idle_seconds < self.window_seconds {
            report(
                "label_idle_seconds",
                "must not be below window_seconds: the series would go before their data".into(),
            );
        }
        if self.weights_marker.is_empty() || self.weights_marker.contains('/') {
            report("weights_marker", "must be the name of a file".into());
        }
        if self.weights_root.iter().any(|root| root.as_os_str().is_empty()) {
            report("weights_root", "must not have an empty path".into());
        }
        if self.revision.is_some() && self.model.is_none() {
            report(
                "revision",
                "needs model, which names the model of the hub: the embedded one has no revisions".into(),
            );
        }
        if self.max_bodies_bytes < self.max_body_bytes {
            report(
                "max_bodies_bytes",
                "must not be below max_body_bytes, or the largest body would never be read".into(),
            );
        }
        self.alert_problems().into_iter().for_each(|(key, reason)| report(key, reason));
        if self.no_auth && self.has_keys() {
            let key = if self.api_key_file.is_some() { "api_key_file" } else { "api_key_env" };
            report("no_auth", format!("contradicts {key}"));
        }
        for (key, name) in [("api_key_env", &self.api_key_env), ("alert_secret_env", &self.alert_secret_env)] {
            if name.as_deref().is_some_and(|name| name.starts_with("PLUMBLINE_") || name.contains(['=', '\0'])) {
                report(
                    key,
                    "must be the name of a variable that does not begin with PLUMBLINE_: those are keys".into(),
                );
            }
        }
        match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(_), None) => report("tls_cert_file", "needs tls_key_file".into()),
            (None, Some(_)) => report("tls_key_file", "needs tls_cert_file".into()),
            _ => {}
        }
        if let Some(reason) = self.refuses(self.listen) {
            report("listen", reason);
        }
        problems
    }

    /// What is wrong with who is told of alerts and of spans.
    fn alert_problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        problems.extend(receivers(&self.alertmanager_url, &self.alert_webhook_url).err());
        let label = self.alert_label.iter().find_map(|text| parse_label(text).err());
        problems.extend(label.map(|reason| ("alert_label", reason)));
        let external = self.external_url.as_deref().and_then(|url| address(url).err());
        problems.extend(external.map(|reason| ("external_url", reason)));
        let otlp = self.otlp_endpoint.as_deref().and_then(|url| address(url).err());
        problems.extend(otlp.map(|reason| ("otlp_endpoint", reason)));
        problems
    }

    /// Whether requests need an API key.
    fn has_keys(&self) -> bool {
        self.api_key_file.is_some() || self.api_key_env.is_some()
    }

    /// Why this configuration must not serve on an address: it would be open to everybody.
    pub(crate) fn refuses(&self, address: SocketAddr) -> Option<String> {
        let open = !address.ip().to_canonical().is_loopback() && !self.has_keys() && !self.no_auth;
        open.then(|| OPEN_WITHOUT_KEYS.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(change: fn(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        config.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn each_bad_value_is_named() {
        assert_eq!(keys(|c| c.window_seconds = 0), ["window_seconds"]);
        assert_eq!(keys(|c| c.max_body_bytes = 10), ["max_body_bytes"]);
        assert_eq!(keys(|c| c.verdict_floor_suspect = 0.0), ["verdict_floor_suspect"]);
        assert_eq!(keys(|c| c.verdict_floor_divergent = 2.0), ["verdict_floor_divergent"]);
        assert_eq!(keys(|c| c.verdict_significance = -1.0), ["verdict_significance"]);
        assert_eq!(keys(|c| c.drift_mean_run_length = 0.0), ["drift_mean_run_length"]);
        assert_eq!(keys(|c| c.drift_tolerance = 4.0), ["drift_tolerance"]);
        assert_eq!(keys(|c| c.drift_baseline_sequences = 1), ["drift_baseline_sequences"]);
        assert_eq!(keys(|c| c.verdict_mae_suspect_nats = f64::NAN), ["verdict_mae_suspect_nats"]);
        assert_eq!(keys(|c| c.verdict_mae_suspect_nats = 0.2), ["verdict_mae_divergent_nats"]);
        assert_eq!(keys(|c| c.verdict_kl_k3_divergent_nats = 1e-4), ["verdict_kl_k3_divergent_nats"]);
        assert_eq!(keys(|c| c.max_queue_tokens = 100), ["max_queue_tokens"]);
        assert_eq!(keys(|c| c.label_idle_seconds = 299), ["label_idle_seconds"]);
        assert_eq!(keys(|c| c.aside_share = 0.6), ["aside_share"]);
        assert_eq!(keys(|c| c.aside_share = f64::NAN), ["aside_share"]);
        assert_eq!(keys(|c| c.aside_max_tokens = 255), ["aside_max_tokens"]);
        assert_eq!(keys(|c| c.interactive_stretch = 1.0), ["interactive_stretch"]);
        assert_eq!(keys(|c| c.quarantine_seconds = 86_401), ["quarantine_seconds"]);
        assert_eq!(keys(|c| c.noise_floor_tokens = 255), ["noise_floor_tokens"]);
        assert_eq!(keys(|c| c.noise_floor_tokens = 0), [] as [&str; 0]);
        assert_eq!(keys(|c| c.revision = Some("main".into())), ["revision"]);
        assert_eq!(keys(|c| c.max_bodies_bytes = 1 << 20), ["max_bodies_bytes"]);
        assert_eq!(keys(|c| c.max_header_bytes = 100), ["max_header_bytes"]);
        assert_eq!(keys(|c| c.alert_webhook_url = vec!["h:1".into()]), ["alert_webhook_url"]);
        assert_eq!(keys(|c| c.alertmanager_url = vec!["http://h/?x=1".into()]), ["alertmanager_url"]);
        assert_eq!(keys(|c| c.alert_label = vec!["run=x".into()]), ["alert_label"]);
        assert_eq!(keys(|c| c.external_url = Some("h".into())), ["external_url"]);
        assert_eq!(keys(|c| c.alert_secret_env = Some("PLUMBLINE_X".into())), ["alert_secret_env"]);
        assert_eq!(keys(|c| c.alert_queue = 0), ["alert_queue"]);
        assert_eq!(keys(|c| c.tls_cert_file = Some("c".into())), ["tls_cert_file"]);
        assert_eq!(keys(|c| c.tls_key_file = Some("k".into())), ["tls_key_file"]);
        assert_eq!(keys(|c| c.api_key_env = Some("PLUMBLINE_KEYS".into())), ["api_key_env"]);
        assert_eq!(
            keys(|c| {
                c.no_auth = true;
                c.api_key_file = Some("k".into());
            }),
            ["no_auth"]
        );
    }

    #[test]
    fn only_loopback_is_served_without_keys() {
        let config = Config::default();
        for address in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(config.refuses(address.parse().unwrap()), None, "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            assert!(config.refuses(address.parse().unwrap()).is_some(), "{address}");
        }
    }
}
