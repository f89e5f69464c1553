//! Spans exported by OTLP when an endpoint is configured; nothing is made otherwise. The message path never waits for the export.
//! Must not know the domain.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};

use super::Metrics;
use crate::tasks::Tasks;

/// Spans that wait for the export; more are dropped, counted.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long a span may wait for its batch.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Of one request to the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the export; none means that no span is made.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanSettings {
    /// The collector's OTLP/HTTP URL, for instance `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// Share of messages traced, 0 to 1.
    pub sample_ratio: f64,
}

/// One finished span.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace_id: u128,
    pub span_id: u64,
    pub parent_span_id: Option<u64>,
    pub start: SystemTime,
    pub duration: Duration,
    pub attributes: Vec<(&'static str, String)>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// The exporter's handle. Cheap to clone. The default one exports nothing.
#[derive(Clone, Default)]
pub struct Spans {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    sample_ratio: f64,
    queue: mpsc::Sender<Work>,
    metrics: Arc<Metrics>,
}

enum Work {
    Span(Box<Span>),
    /// Export what is there, then say so.
    Flush(oneshot::Sender<()>),
}

impl Spans {
    /// Starts the export. Needs a tokio runtime.
    pub fn start(settings: Option<SpanSettings>, metrics: &Arc<Metrics>, tasks: &Tasks) -> Result<Self, String> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(HyperClient::with_default_connector(EXPORT_TIMEOUT, None))
            .with_endpoint(&settings.endpoint)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(&Resource::builder().with_service_name("holdfast").build());
        let (queue, work) = mpsc::channel(QUEUE);
        tasks.spawn(export(exporter, work));
        let inner = Inner { sample_ratio: settings.sample_ratio, queue, metrics: metrics.clone() };
        Ok(Self { inner: Some(Arc::new(inner)) })
    }

    /// True if the next message should be traced. Asked before anything is made for a span.
    pub fn sample(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| rand::random::<f64>() < inner.sample_ratio)
    }

    /// Queues a finished span for export; drops it, counted, where the bounded queue is full.
    pub fn record(&self, span: Span) {
        let Some(inner) = &self.inner else { return };
        if inner.queue.try_send(Work::Span(Box::new(span))).is_err() {
            inner.metrics.spans_dropped.inc();
        }
    }

    /// Exports what is queued, before the program leaves.
    pub async fn shutdown(&self) {
        let Some(inner) = &self.inner else { return };
        let (done, flushed) = oneshot::channel();
        if inner.queue.send(Work::Flush(done)).await.is_ok() {
            // The exporter bounds its own time; an error means that it is gone, with nothing left to wait for.
            let _ = flushed.await;
        }
    }
}

async fn export(exporter: SpanExporter, mut work: mpsc::Receiver<Work>) {
    let scope = InstrumentationScope::builder("holdfast").with_version(env!("CARGO_PKG_VERSION")).build();
    while let Some(first) = work.recv().await {
        let mut batch = Vec::new();
        let mut flushed = None;
        let mut next = Some(first);
        let ends = tokio::time::Instant::now() + BATCH_WAIT;
        while let Some(item) = next {
            match item {
                Work::Span(span) => batch.push(data_of(*span, &scope)),
                Work::Flush(done) => {
                    flushed = Some(done);
                    break;
                }
            }
            if batch.len() >= BATCH {
                break;
            }
            next = tokio::time::timeout_at(ends, work.recv()).await.ok().flatten();
        }
        if !batch.is_empty()
            && let Err(error) = exporter.export(batch).await
        {
            tracing::warn!("spans not exported: {error}");
        }
        if let Some(done) = flushed {
            // Whoever asked may have given up.
            let _ = done.send(());
        }
    }
}

fn data_of(span: Span, scope: &InstrumentationScope) -> SpanData {
    let context = SpanContext::new(
        TraceId::from(span.trace_id),
        SpanId::from(span.span_id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    SpanData {
        span_context: context,
        parent_span_id: span.parent_span_id.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent_span_id.is_some(),
        span_kind: SpanKind::Client,
        name: span.name.into(),
        start_time: span.start,
        end_time: span.start + span.duration,
        attributes: span.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}
