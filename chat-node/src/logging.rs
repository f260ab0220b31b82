//! Log output. Secrets never reach it: they live in types whose `Debug` hides them, and nothing logs headers or bodies.
//!
//! Fields of the spans around an event, such as the request id, are part of its line.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// The database's driver repeats a warning that is about how programs may be written, and tells an outage many times a
/// second; the node tells it once. The broker's client tells each failed attempt to connect as an error, and tries on. The
/// configured filter comes after these.
const QUIET: &str = "scylla::network::connection=error,scylla::cluster=off,scylla::policies=off,async_nats::connector=off";

/// Starts logging to standard error, for the whole process. Fails if something else logs already.
pub fn start(log: &Log) -> anyhow::Result<()> {
    subscriber(log, std::io::stderr)?.try_init()?;
    Ok(())
}

fn subscriber<W>(log: &Log, writer: W) -> anyhow::Result<Box<dyn tracing::Subscriber + Send + Sync>>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(format!("{QUIET},{}", log.filter.0))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match log.format {
        // Colours would end up in files; a terminal shows levels well enough without them.
        LogFormat::Text => Box::new(builder.with_ansi(false).finish()),
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .finish(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::LogFilter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { format, filter: LogFilter("info".to_owned()) };
        let subscriber = subscriber(&log, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", request_id = "r-1");
            let _entered = span.enter();
            tracing::debug!("not wanted");
            tracing::error!(target: "scylla::policies::load_balancing::plan", "told for each query");
            tracing::warn!(partition = 7, "append refused");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_holds_level_message_fields_and_request_id() {
        let line = logged(LogFormat::Json);
        let value: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "append refused");
        assert_eq!(value["partition"], 7);
        assert_eq!(value["span"]["request_id"], "r-1");
    }

    #[test]
    fn a_text_line_holds_the_same_for_people() {
        let line = logged(LogFormat::Text);
        assert!(line.contains("WARN request{request_id=\"r-1\"}"), "{line}");
        assert!(line.trim().ends_with("append refused partition=7"), "{line}");
    }
}
