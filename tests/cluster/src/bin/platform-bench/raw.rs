//! What a bare client gets out of the same JetStream: every message published by itself and acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::{self, stream};
use cluster::Platform;

use crate::figure::Figures;

/// As long as the text of a message in `chat-bench`.
const PAYLOAD_BYTES: usize = 128;
const UNDER_WAY: usize = 512;
const SUBJECTS: usize = 256;
const STREAM: &str = "raw_limit";

pub(crate) async fn measure(
    platform: &Platform,
    quick: bool,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let client = async_nats::connect(platform.nats.url_of(0)).await.context("connect to NATS")?;
    let jetstream = jetstream::new(client);
    let stream = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["raw.*".to_owned()],
        num_replicas: platform.nats.count(),
        max_bytes: 1 << 30,
        discard: stream::DiscardPolicy::Old,
        ..Default::default()
    };
    jetstream.create_stream(stream).await.context("make a stream")?;
    let before = platform.cpu_seconds();
    let (published, seconds) =
        publish(&jetstream, Duration::from_secs(if quick { 3 } else { 10 })).await?;
    let after = platform.cpu_seconds();
    jetstream.delete_stream(STREAM).await.context("delete the stream")?;
    figures.add("raw", "published and acknowledged", published as f64 / seconds, "1/s");
    for ((name, now), (_, then)) in after.iter().zip(&before) {
        if name.starts_with("nats-") {
            let figure = format!("CPU per million messages there: {name}");
            figures.add("raw", &figure, (now - then) / published as f64 * 1e6, "s");
        }
    }
    Ok(())
}

async fn publish(jetstream: &jetstream::Context, time: Duration) -> anyhow::Result<(u64, f64)> {
    let payload = bytes::Bytes::from_static(&[b'.'; PAYLOAD_BYTES]);
    let (mut waiting, mut acknowledged) = (VecDeque::with_capacity(UNDER_WAY), 0_u64);
    let start = Instant::now();
    for number in 0.. {
        let over = start.elapsed() >= time;
        if over || waiting.len() == UNDER_WAY {
            let Some(oldest) = waiting.pop_front() else { break };
            let oldest: jetstream::context::PublishAckFuture = oldest;
            oldest.await.context("an acknowledgement")?;
            acknowledged += 1;
        }
        if !over {
            let subject = format!("raw.{}", number % SUBJECTS);
            waiting
                .push_back(jetstream.publish(subject, payload.clone()).await.context("publish")?);
        }
    }
    Ok((acknowledged, start.elapsed().as_secs_f64()))
}
