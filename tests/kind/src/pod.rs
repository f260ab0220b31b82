//! What pods say.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{GetParams, LogParams};
use kube::core::Request;
use serde_json::Value;

use crate::Space;

/// Lines of pods, also of those that are gone in the end.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Warnings, errors, and what is not a log line at all, such as a panic.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| is_complaint(line)).cloned().collect()
    }

    fn add(&self, pod: &str, line: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{pod} {line}"));
    }
}

fn is_complaint(line: &str) -> bool {
    let (_, entry) = line.split_once(' ').unwrap_or_default();
    let entry: Option<Value> = serde_json::from_str(entry).ok();
    let level = entry.as_ref().and_then(|entry| entry["level"].as_str());
    !matches!(level, Some("INFO" | "DEBUG" | "TRACE"))
}

impl Space {
    /// Listens to a pod until it ends.
    pub fn listen(&self, pod: &Pod, lines: &Lines) {
        let (space, name, lines) = (self.clone(), pod.name_any(), lines.clone());
        // It ends with the pod's log, or with the test.
        drop(tokio::spawn(async move {
            let follow = LogParams { follow: true, ..LogParams::default() };
            let log = space.api::<Pod>().log_stream(&name, &follow).await;
            let log = log.unwrap_or_else(|error| panic!("the log of {name}: {error}"));
            let mut read = pin!(log.lines());
            while let Ok(Some(line)) = read.try_next().await {
                lines.add(&name, &line);
            }
        }));
    }

    /// A metric of a pod, summed up over its labels, through the API server; `None` if it does not have it.
    pub async fn metric(&self, pod: &Pod, port: u16, metric: &str) -> Option<f64> {
        let pod = pod.name_any();
        let proxy = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy", self.name);
        let request = Request::new(proxy).get("metrics", &GetParams::default());
        let text = self.client.request_text(request.expect("a request")).await.expect("metrics");
        sum(&text, metric)
    }
}

/// The sum of a metric's values in the OpenMetrics text format.
fn sum(text: &str, metric: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        (name == metric).then(|| value.parse::<f64>().ok())?
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// Whether a pod is ready, and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How often the containers of a pod ended and were started again.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).sum()
}

#[cfg(test)]
mod tests {
    use super::{Lines, sum};

    #[test]
    fn a_metric_is_summed_up_over_its_labels() {
        let text = "# TYPE a gauge\na{b=\"x y\"} 1\na{b=\"z\"} 2\nab 9\n";
        assert_eq!(sum(text, "a"), Some(3.0));
        assert_eq!(sum(text, "b"), None);
    }

    #[test]
    fn warnings_and_panics_are_complaints() {
        let lines = Lines::default();
        lines.add("chat-0", "{\"level\":\"INFO\",\"message\":\"started\"}");
        lines.add("chat-0", "{\"level\":\"WARN\",\"message\":\"slow\"}");
        lines.add("chat-1", "thread 'main' panicked at src/main.rs:1:1:");
        assert_eq!(lines.complaints().len(), 2);
    }
}
