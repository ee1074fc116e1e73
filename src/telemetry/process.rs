//! Metrics of this process, read from `/proc/self` at each scrape (proc(5)).

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks of `/proc/self/stat` in a second: USER_HZ, which is 100 on every architecture this program is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory, processor time, open files and start of this process.
#[derive(Debug, Default)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory in bytes", resident_bytes()),
            ("process_open_fds", "Open file descriptors", open_files()),
            ("process_start_time_seconds", "Start of the process, seconds since the epoch", start_time()),
        ];
        for (name, help, value) in gauges {
            // What cannot be read is left out: a wrong number would be worse.
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        if let Some(seconds) = cpu_seconds() {
            encoder
                .encode_descriptor("process_cpu_seconds", "User and system time in seconds", None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        Ok(())
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floating point; memory stays far below 2^52 bytes")]
fn resident_bytes() -> Option<f64> {
    let status = read("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes.saturating_mul(1024) as f64)
}

#[allow(clippy::cast_precision_loss, reason = "a process has far fewer than 2^52 files")]
fn open_files() -> Option<f64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

/// Field `number` of `/proc/self/stat`, counted as in proc(5); the name in brackets may hold spaces.
fn stat_field(number: usize) -> Option<f64> {
    let stat = read("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')')?;
    // After the name comes field 3.
    fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat_field(14)? + stat_field(15)?) / TICKS_PER_SECOND)
}

fn start_time() -> Option<f64> {
    let stat = read("/proc/stat")?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat_field(22)? / TICKS_PER_SECOND)
}
