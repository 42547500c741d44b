//! What makes a worker ask to be replaced: requests served, private memory, age. It goes on serving meanwhile.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forkgate_shared::control::RecycleReason;
use forkgate_shared::proc::is_far_over;
use forkgate_shared::rows::monotonic_ns;
use forkgate_shared::settings::Settings;

use super::essential::{Duty, OnDuty};
use super::memory::{self, OverLimit};
use crate::gateway::{Gateway, Shared};

/// How often the event loop shows that it turns: more often than the watchdog looks.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// Spread of the age at which workers ask, as a part of the lifetime: workers started together do not leave together.
const AGE_JITTER: f64 = 0.1;

/// At how many requests a worker asks; 0 = never.
pub(super) fn request_limit(settings: &Settings) -> u64 {
    if settings.max_requests == 0 {
        return 0;
    }
    settings.max_requests.saturating_add(rand::random_range(0..=settings.max_requests_jitter))
}

/// Counts a request that has ended; asks for replacement when it was the last one due.
pub(crate) fn count_request(gateway: &Gateway) {
    let row = gateway.row();
    let served = row.counters.requests.fetch_add(1, Relaxed) + 1;
    let limit = row.request_limit.load(Relaxed);
    if limit != 0 && served >= limit {
        gateway.control.want_recycle(RecycleReason::MaxRequests);
    }
}

/// Keeps the row's heartbeat fresh. Never returns.
async fn heartbeat(gateway: Shared, _on_duty: OnDuty) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        gateway.row().heartbeat_ns.store(monotonic_ns(), Relaxed);
        gateway.row().abandoned_calls.store(gateway.lifecycle.calls().abandoned() as u64, Relaxed);
        ticks.tick().await;
    }
}

/// Samples private memory. Never returns.
async fn watch_memory(gateway: Shared) {
    let mut over = OverLimit::default();
    loop {
        // The blocking pool's thread ends when it is idle; a sample each ten seconds keeps none alive.
        match tokio::task::spawn_blocking(memory::private_bytes).await {
            Ok(Ok(bytes)) => {
                gateway.row().private_bytes.store(bytes, Relaxed);
                let far_over = is_far_over(bytes, gateway.settings.max_rss);
                gateway.lifecycle.over_memory.store(far_over, Relaxed);
                if over.sample(bytes, gateway.settings.max_rss) {
                    gateway.control.want_recycle(RecycleReason::Memory);
                }
            }
            Ok(Err(error)) => {
                return tracing::warn!(%error, "private memory cannot be read: no limit on it applies");
            }
            Err(error) => tracing::error!(%error, "the memory sampler failed"),
        }
        tokio::time::sleep(gateway.settings.memory_sample_interval).await;
    }
}

/// Asks for replacement at the end of the lifetime.
async fn watch_age(gateway: Shared) {
    let Some(lifetime) = gateway.settings.worker_lifetime else { return };
    tokio::time::sleep(lifetime.mul_f64(1.0 + rand::random_range(0.0..=AGE_JITTER))).await;
    gateway.control.want_recycle(RecycleReason::Age);
}

/// Starts the tasks that watch this worker.
pub(super) fn start(gateway: &Shared) {
    let on_duty = gateway.lifecycle.essential.take_up(Duty::Heartbeat);
    super::task::spawn(on_duty.duty().as_str(), heartbeat(Shared::clone(gateway), on_duty));
    super::task::spawn("memory-sampler", watch_memory(Shared::clone(gateway)));
    super::task::spawn("age", watch_age(Shared::clone(gateway)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_spread_over_the_jitter_and_off_means_off() {
        let mut settings = crate::fixtures::settings();
        (settings.max_requests, settings.max_requests_jitter) = (100, 10);
        let limits: std::collections::BTreeSet<u64> = (0..500).map(|_| request_limit(&settings)).collect();
        assert!(limits.iter().all(|limit| (100..=110).contains(limit)) && limits.len() > 5, "{limits:?}");
        settings.max_requests = 0;
        assert_eq!(request_limit(&settings), 0, "jitter alone recycles nobody");
    }
}
