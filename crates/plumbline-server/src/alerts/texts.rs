//! What alerts say, for people: annotations.

use std::fmt::Write;

use plumbline_divergence::{DriftDirection, DriftEvent, DriftKind, DriftUnit, GroupSummary};

use super::alert::Labels;
use crate::verify::SIGN;

fn annotations(pairs: impl IntoIterator<Item = (&'static str, String)>) -> Labels {
    pairs.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

/// Of a window whose verdict is divergent.
pub(super) fn divergent(group: &GroupSummary, reason: &str, window_seconds: u64) -> Labels {
    let (window, key) = (&group.window, &group.key);
    let mae = number(window.mae());
    let measured = match window.noise_floor_multiple() {
        Some(multiple) => format!("mean |d| is {multiple:.1} times the noise floor ({mae} nats)"),
        None => format!("mean |d| is {mae} nats; no noise floor is known"),
    };
    let description = format!(
        "Over the last {window_seconds} s: {} compared tokens of {} sequences, mean |d| {mae} nats, mean d {} nats, k3 {} nats, \
         ESS {}. {SIGN}. The verdict is divergent: {reason}.",
        window.tokens,
        window.sequences,
        number(window.log_ratio_mean()),
        number(window.kl_k3()),
        number(window.ess()),
    );
    let mut all = numbers(group);
    all.extend(annotations([
        ("summary", format!("{} diverges from the reference in run {}: {measured}.", key.engine, key.run)),
        ("description", description),
    ]));
    all
}

/// Of a change of level.
pub(super) fn drift(group: &GroupSummary, event: &DriftEvent, began: &str) -> Labels {
    let key = &group.key;
    let (unit, way) = (
        match event.unit {
            DriftUnit::NoiseFloors => "times the noise floor",
            DriftUnit::Nats => "nats",
        },
        match event.direction {
            DriftDirection::Up => "up",
            DriftDirection::Down => "down",
        },
    );
    let kind = match event.kind {
        DriftKind::Step => "at once",
        DriftKind::VersionSteps => "again and again where the policy version changes",
        DriftKind::Creep => "gradually",
    };
    let (before, after) = (event.level_before, event.level_before * event.size);
    let mut description = format!(
        "The level changed {kind}, {way} from {before:.3} to {after:.3} {unit}, with sequence {} at {began}",
        event.began_sequence
    );
    // Writing to a string does not fail.
    let _ = match &event.policy_version {
        Some(version) if event.at_version_change => write!(description, ", the first of policy version {version}."),
        Some(version) => write!(description, ", within policy version {version}."),
        None => write!(description, "."),
    };
    if event.direction == DriftDirection::Down {
        description.push_str(" The engine recovered, or the signal was lost: it may echo the reference.");
    }
    let _ = write!(description, " {SIGN}.");
    let mut all = numbers(group);
    all.extend(annotations([
        (
            "summary",
            format!(
                "The level of |d| of {} in run {} changed to {:.2} times what it was ({before:.2} to {after:.2} {unit}).",
                key.engine, key.run, event.size
            ),
        ),
        ("description", description),
        ("drift_size", format!("{:.3}", event.size)),
        ("drift_began_at", began.to_owned()),
    ]));
    all
}

/// Of a reference that cannot score.
pub(super) fn reference_down(detail: String) -> Labels {
    annotations([("summary", "The reference cannot score: nothing is verified.".to_owned()), ("description", detail)])
}

/// Of a store in trouble.
pub(super) fn store_trouble(state: &str, reason: &str) -> Labels {
    annotations([
        (
            "summary",
            format!("The store is {state}: answers are sent without being stored, nothing is accepted for later."),
        ),
        ("description", format!("{reason}.")),
    ])
}

/// Of `plumbline alerts test`.
pub(super) fn test() -> Labels {
    annotations([
        ("summary", "A test of plumbline's alerts: nothing is wrong.".to_owned()),
        ("description", "Sent by `plumbline alerts test`.".to_owned()),
    ])
}

/// Where to look at a run; empty where nobody said where the service is reached.
pub(super) fn link(external_url: &str, run: &str) -> String {
    if external_url.is_empty() {
        return String::new();
    }
    let mut path = String::new();
    for byte in run.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => path.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(path, "%{byte:02X}")),
        }
    }
    format!("{}/#/runs/{path}", external_url.trim_end_matches('/'))
}

/// Numbers for machines.
fn numbers(group: &GroupSummary) -> Labels {
    let window = &group.window;
    let mut all = annotations([
        ("log_ratio_sign", SIGN.to_owned()),
        ("window_tokens", window.tokens.to_string()),
        ("mean_abs_log_ratio_nats", number(window.mae())),
        ("mean_log_ratio_nats", number(window.log_ratio_mean())),
    ]);
    if let Some(multiple) = window.noise_floor_multiple() {
        all.insert("noise_floor_multiple".into(), format!("{multiple:.3}"));
    }
    all
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "unknown".into(), |value| format!("{value:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_hold_any_name_and_need_an_address() {
        assert_eq!(link("", "a"), "");
        assert_eq!(link("https://p.example/x/", "grpo/math ü"), "https://p.example/x/#/runs/grpo%2Fmath%20%C3%BC");
    }
}
