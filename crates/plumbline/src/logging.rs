//! Logs on stderr.

use std::fmt;
use std::io::IsTerminal;

use anyhow::anyhow;
use plumbline_server::config::LogFormat;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging. `RUST_LOG` overrides `default_filter`.
pub(crate) fn start(format: LogFormat, default_filter: &str) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) => EnvFilter::try_new(&directives).map_err(|error| anyhow!("RUST_LOG={directives}: {error}"))?,
        Err(_) => EnvFilter::new(default_filter),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => {
            let json = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            json.map_event_format(Flat).try_init()
        }
    };
    started.map_err(|error| anyhow!("cannot start logging: {error}"))
}

/// Lines of JSON in which the fields of the spans around an event (`request_id`, `trace_id`, `span_id`) stand beside its own, where
/// collectors of logs look for them.
struct Flat<F>(F);

impl<S, N, F> FormatEvent<S, N> for Flat<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end();
        let Some(open) = object.strip_suffix('}') else { return writeln!(writer, "{object}") };
        writer.write_str(open)?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            // An object too.
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
            let inner = fields.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
            if !inner.is_empty() {
                write!(writer, ",{inner}")?;
            }
        }
        writeln!(writer, "}}")
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn fields_of_spans_stand_beside_those_of_the_event() {
        let lines = Lines::default();
        let written = lines.clone();
        let json = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false).with_span_list(false);
        let subscriber = json.map_event_format(Flat).with_writer(move || written.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", request_id = "a \"quoted\" one", trace_id = "t");
            span.in_scope(|| {
                tracing::info_span!("empty").in_scope(|| tracing::info!(status = 200, "answered"));
            });
            tracing::info!("alone");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let parsed: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&parsed[0]["request_id"], &parsed[0]["trace_id"]), (&"a \"quoted\" one".into(), &"t".into()));
        assert_eq!((&parsed[0]["message"], &parsed[0]["status"]), (&"answered".into(), &200.into()));
        assert!(parsed[0]["timestamp"].is_string() && parsed[0]["level"] == "INFO");
        assert_eq!((&parsed[1]["message"], &parsed[1]["request_id"]), (&"alone".into(), &Value::Null));
    }
}
