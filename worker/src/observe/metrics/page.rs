//! A page of metrics in the making: families of samples, built anew for each scrape from numbers that live elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::{BOUNDS_NS, Histogram};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as Rendered, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

const NS_PER_SECOND: f64 = 1e9;

/// See the module. Samples of one family have the same labels, and no two the same values of them: those are added up.
#[derive(Default)]
pub(super) struct Page {
    families: Vec<MetricFamily>,
}

/// Values of the labels, in the order of their names.
pub(super) type Labels = Vec<String>;

/// Name, help and names of the labels of a family.
pub(super) type About<'a> = (&'a str, &'a str, &'a [&'a str]);

impl Page {
    /// A number that only grows.
    pub(super) fn counter<L: Into<Labels>>(
        &mut self,
        about: About<'_>,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) {
        let summed = by_labels(samples, |sum: &mut u64, more| *sum = sum.wrapping_add(more));
        self.family(about, MetricType::COUNTER, summed, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
    }

    /// A number of now; those with the same labels are added up.
    pub(super) fn gauge<L: Into<Labels>>(
        &mut self,
        about: About<'_>,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) {
        self.gauges(about, by_labels(samples, |sum, more| *sum += more));
    }

    /// A number of now; the largest of those with the same labels.
    pub(super) fn largest<L: Into<Labels>>(
        &mut self,
        about: About<'_>,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) {
        self.gauges(about, by_labels(samples, |most, other| *most = f64::max(*most, other)));
    }

    fn gauges(&mut self, about: About<'_>, samples: BTreeMap<Labels, f64>) {
        self.family(about, MetricType::GAUGE, samples, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    /// Durations, in seconds.
    pub(super) fn durations<'h, L: Into<Labels>>(
        &mut self,
        about: About<'_>,
        samples: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) {
        let samples = samples.into_iter().map(|(labels, histogram)| (labels, Durations::read(histogram)));
        let summed = by_labels(samples, |sum: &mut Durations, more| sum.add(&more));
        self.family(about, MetricType::HISTOGRAM, summed, |metric, value| {
            metric.set_histogram(value.render());
        });
    }

    fn family<V>(
        &mut self,
        (name, help, label_names): About<'_>,
        kind: MetricType,
        samples: BTreeMap<Labels, V>,
        set: impl Fn(&mut Metric, V),
    ) {
        // A family without samples is nothing that can be written.
        if samples.is_empty() {
            return;
        }
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut metric = Metric::from_label(
                label_names.iter().zip(labels).map(|(name, value)| label(name, value)).collect(),
            );
            set(&mut metric, value);
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics.collect());
        self.families.push(family);
    }

    /// The page as Prometheus' text.
    pub(super) fn text(self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&self.families, &mut text)?;
        Ok(text)
    }
}

fn label(name: &str, value: String) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value);
    label
}

fn by_labels<L: Into<Labels>, V>(
    samples: impl IntoIterator<Item = (L, V)>,
    join: impl Fn(&mut V, V),
) -> BTreeMap<Labels, V> {
    let mut joined = BTreeMap::new();
    for (labels, value) in samples {
        match joined.entry(labels.into()) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => join(entry.get_mut(), value),
        }
    }
    joined
}

/// One reading of a histogram.
struct Durations {
    buckets: [u64; BOUNDS_NS.len() + 1],
    sum_ns: u64,
}

impl Durations {
    fn read(histogram: &Histogram) -> Durations {
        Durations {
            buckets: std::array::from_fn(|index| histogram.buckets[index].load(Relaxed)),
            sum_ns: histogram.sum_ns.load(Relaxed),
        }
    }

    fn add(&mut self, more: &Durations) {
        for (sum, more) in self.buckets.iter_mut().zip(more.buckets) {
            *sum = sum.wrapping_add(more);
        }
        self.sum_ns = self.sum_ns.wrapping_add(more.sum_ns);
    }

    /// Prometheus' buckets hold all that is not longer; the last one, without a bound, is the count.
    fn render(&self) -> Rendered {
        let mut so_far = 0u64;
        let buckets = BOUNDS_NS.iter().zip(self.buckets).map(|(bound, count)| {
            so_far = so_far.wrapping_add(count);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / NS_PER_SECOND);
            bucket.set_cumulative_count(so_far);
            bucket
        });
        let mut rendered = Rendered::default();
        rendered.set_bucket(buckets.collect());
        rendered.set_sample_count(so_far.wrapping_add(self.buckets[BOUNDS_NS.len()]));
        rendered.set_sample_sum(self.sum_ns as f64 / NS_PER_SECOND);
        rendered
    }
}

/// Nanoseconds as seconds.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / NS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(page: Page) -> String {
        String::from_utf8(page.text().expect("rendered")).expect("text")
    }

    #[test]
    fn buckets_hold_all_that_is_not_longer() {
        let histogram = Histogram::default();
        for ns in [50_000, 100_000, 200_000, 90_000_000_000] {
            histogram.observe(ns);
        }
        let mut page = Page::default();
        page.durations(("t_seconds", "T.", &["who"]), [([String::from("a")], &histogram)]);
        let text = text(page);
        for line in [
            "# TYPE t_seconds histogram",
            "t_seconds_bucket{who=\"a\",le=\"0.0001\"} 2",
            "t_seconds_bucket{who=\"a\",le=\"0.00025\"} 3",
            "t_seconds_bucket{who=\"a\",le=\"60\"} 3",
            "t_seconds_bucket{who=\"a\",le=\"+Inf\"} 4",
            "t_seconds_count{who=\"a\"} 4",
            "t_seconds_sum{who=\"a\"} 90.00035",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn no_sample_appears_twice_and_labels_are_escaped() {
        let mut page = Page::default();
        let same = || [String::from("a\"\n")];
        page.counter(("c_total", "C.", &["l"]), [(same(), 1), (same(), 2)]);
        page.gauge(("g", "G.", &["l"]), [(same(), 1.0), (same(), 2.0)]);
        page.largest(("m", "M.", &["l"]), [(same(), 2.0), (same(), 1.0)]);
        page.gauge(("none", "Nothing to say.", &[]), std::iter::empty::<(Labels, f64)>());
        let text = text(page);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, [r#"c_total{l="a\"\n"} 3"#, r#"g{l="a\"\n"} 3"#, r#"m{l="a\"\n"} 2"#]);
    }
}
