//! What is posted: Alertmanager's API v2, and the body of its webhooks.

use serde::Serialize;

use super::alert::{Alert, Labels, Moment};
use super::receiver::Receiver;

/// Said of an end that is not known yet.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// One of `POST /api/v2/alerts`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PostableAlert<'a> {
    labels: &'a Labels,
    annotations: &'a Labels,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "str::is_empty")]
    generator_url: &'a str,
}

/// The body of Alertmanager's webhooks, version 4.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookMessage<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u64,
    status: &'static str,
    receiver: &'a str,
    group_labels: &'a Labels,
    common_labels: &'a Labels,
    common_annotations: &'a Labels,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: [WebhookAlert<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookAlert<'a> {
    status: &'static str,
    labels: &'a Labels,
    annotations: &'a Labels,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: String,
}

/// Alerts for an Alertmanager, each with the end that it is to be told.
///
/// # Errors
/// A defect.
pub(super) fn alertmanager(alerts: &[(Alert, Moment)]) -> serde_json::Result<Vec<u8>> {
    let postable = |(alert, ends_at): &'_ (Alert, Moment)| {
        serde_json::to_value(PostableAlert {
            labels: &alert.labels,
            annotations: &alert.annotations,
            starts_at: alert.starts_at.rfc3339(),
            ends_at: ends_at.rfc3339(),
            generator_url: &alert.generator_url,
        })
    };
    serde_json::to_vec(&alerts.iter().map(postable).collect::<serde_json::Result<Vec<_>>>()?)
}

/// One alert as a group of its own, as with `group_by: ['...']`.
///
/// # Errors
/// A defect.
pub(super) fn webhook(receiver: &Receiver, alert: &Alert, external_url: &str) -> serde_json::Result<Vec<u8>> {
    let labels: Vec<_> = alert.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    serde_json::to_vec(&WebhookMessage {
        version: "4",
        group_key: format!("{{}}:{{{}}}", labels.join(", ")),
        truncated_alerts: 0,
        status: alert.status(),
        receiver: &receiver.name,
        group_labels: &alert.labels,
        common_labels: &alert.labels,
        common_annotations: &alert.annotations,
        external_url,
        alerts: [WebhookAlert {
            status: alert.status(),
            labels: &alert.labels,
            annotations: &alert.annotations,
            starts_at: alert.starts_at.rfc3339(),
            ends_at: alert.ends_at.map_or_else(|| NO_END.into(), Moment::rfc3339),
            generator_url: &alert.generator_url,
            fingerprint: alert.fingerprint(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::alerts::receivers;

    fn alert(ends_at: Option<Moment>) -> Alert {
        let map = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        Alert {
            labels: map("alertname", "PlumblineTest"),
            annotations: map("summary", "a \"test\""),
            generator_url: "http://here/x".into(),
            starts_at: Moment(1_000_000),
            ends_at,
        }
    }

    #[test]
    fn a_webhook_gets_what_alertmanager_would_send() {
        let receiver = receivers(&[], &["ops=http://h".into()]).unwrap().remove(0);
        let body: Value = serde_json::from_slice(&webhook(&receiver, &alert(None), "http://here").unwrap()).unwrap();
        let (labels, annotations) = (json!({"alertname": "PlumblineTest"}), json!({"summary": "a \"test\""}));
        assert_eq!(
            body,
            json!({
                "version": "4", "groupKey": "{}:{alertname=\"PlumblineTest\"}", "truncatedAlerts": 0, "status": "firing",
                "receiver": "ops", "groupLabels": labels, "commonLabels": labels, "commonAnnotations": annotations,
                "externalURL": "http://here",
                "alerts": [{
                    "status": "firing", "labels": labels, "annotations": annotations, "startsAt": "1970-01-01T00:16:40Z",
                    "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://here/x",
                    "fingerprint": alert(None).fingerprint(),
                }],
            })
        );
        let resolved = webhook(&receiver, &alert(Some(Moment(1_001_000))), "").unwrap();
        let resolved: Value = serde_json::from_slice(&resolved).unwrap();
        assert_eq!((&resolved["status"], &resolved["alerts"][0]["status"]), (&json!("resolved"), &json!("resolved")));
        assert_eq!(resolved["alerts"][0]["endsAt"], "1970-01-01T00:16:41Z");
    }

    #[test]
    fn an_alertmanager_gets_labels_annotations_and_times() {
        let body = alertmanager(&[(alert(None), Moment(2_000_000))]).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            json!([{
                "labels": {"alertname": "PlumblineTest"}, "annotations": {"summary": "a \"test\""},
                "startsAt": "1970-01-01T00:16:40Z", "endsAt": "1970-01-01T00:33:20Z", "generatorURL": "http://here/x",
            }])
        );
    }
}
