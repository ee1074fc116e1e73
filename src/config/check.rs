//! The checks that turn a flag's value into a type. Every fault is kept, so that one start tells them all.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::cli::value::GoDuration;
use crate::net::{Family, Prefix};

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}={value}: {reason}")]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it and what to do.
    pub reason: String,
}

/// All faults of a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Collects faults while values are read. A faulty value is replaced by a harmless one that nobody sees, because a
/// configuration with faults is never handed out.
#[derive(Debug, Default)]
pub(super) struct Check {
    errors: Vec<ConfigError>,
}

impl Check {
    pub(super) fn fault(&mut self, flag: &'static str, value: impl fmt::Display, reason: impl Into<String>) {
        self.errors.push(ConfigError { flag, value: value.to_string(), reason: reason.into() });
    }

    /// The configuration, if nothing was found.
    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(self.errors)) }
    }

    /// A time between two events: more than nothing.
    pub(super) fn period(&mut self, flag: &'static str, value: GoDuration) -> Duration {
        match value.to_duration().filter(|duration| !duration.is_zero()) {
            Some(duration) => duration,
            None => {
                self.fault(flag, seconds(value), "must be longer than 0s");
                Duration::MAX
            }
        }
    }

    /// A length of time that may be nothing.
    pub(super) fn duration(&mut self, flag: &'static str, value: GoDuration) -> Duration {
        value.to_duration().unwrap_or_else(|| {
            self.fault(flag, seconds(value), "must not be negative");
            Duration::ZERO
        })
    }

    /// A timeout in whole seconds that fits the kernel's field; 0 means "keep".
    pub(super) fn timeout(&mut self, flag: &'static str, value: GoDuration) -> Duration {
        let duration = self.duration(flag, value);
        // ip_vs_timeout_user holds int seconds, and the kernel refuses what overflows when counted in jiffies.
        if duration.subsec_nanos() != 0 || duration.as_secs() > u64::from(u32::MAX >> 1) / 1000 {
            self.fault(flag, seconds(value), "must be whole seconds, at most 2147483");
        }
        duration
    }

    /// A length of time within bounds, both included.
    pub(super) fn within(
        &mut self,
        flag: &'static str,
        value: GoDuration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let duration = value.to_duration().unwrap_or_default();
        if value.0 < 0 || duration < least || duration > most {
            let reason = format!("must be from {}s to {}s", least.as_secs_f64(), most.as_secs_f64());
            self.fault(flag, seconds(value), reason);
        }
        duration
    }

    /// A number within bounds, both included.
    pub(super) fn number<T: PartialOrd + fmt::Display + Copy>(
        &mut self,
        flag: &'static str,
        value: T,
        least: T,
        most: T,
    ) -> T {
        if value < least || value > most {
            self.fault(flag, value, format!("must be from {least} to {most}"));
        }
        value
    }

    /// Address blocks; host bits are dropped, as Go does.
    pub(super) fn prefixes(&mut self, flag: &'static str, texts: &[String]) -> Vec<Prefix> {
        let mut prefixes = Vec::new();
        for text in texts {
            match text.trim().parse::<Prefix>() {
                Ok(prefix) => prefixes.push(prefix.trunc()),
                Err(_) => self.fault(flag, text, "is not an address block such as 10.96.0.0/12 or fd00::/108"),
            }
        }
        prefixes
    }

    /// Address blocks whose families must be enabled.
    pub(super) fn enabled_prefixes(
        &mut self,
        flag: &'static str,
        texts: &[String],
        families: &[Family],
    ) -> Vec<Prefix> {
        let prefixes = self.prefixes(flag, texts);
        for prefix in &prefixes {
            let family = Family::of(prefix.addr());
            if !families.contains(&family) {
                let reason = format!("{family} is not enabled; add --enable-{family}=true or change the range");
                self.fault(flag, prefix, reason);
            }
        }
        prefixes
    }

    /// Where a server listens.
    pub(super) fn host(&mut self, flag: &'static str, text: &str) -> BindHost {
        if text.is_empty() {
            return BindHost::Any;
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if let Ok(address) = inner.parse::<std::net::Ipv6Addr>() {
                return BindHost::Address(IpAddr::V6(address));
            }
            self.fault(flag, text, "is not an IPv6 address in brackets");
            return BindHost::Any;
        }
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => BindHost::Address(IpAddr::V4(address)),
            Ok(IpAddr::V6(address)) => {
                self.fault(flag, text, format!("write an IPv6 address in brackets: [{address}]"));
                BindHost::Any
            }
            Err(_) if text.contains([':', '/', ' ']) => {
                self.fault(flag, text, "is not an address or a host name; the port has a flag of its own");
                BindHost::Any
            }
            Err(_) => BindHost::Name(text.to_owned()),
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindHost {
    /// On every address, both families where the kernel has both.
    Any,
    /// On one address.
    Address(IpAddr),
    /// On the addresses of a host name.
    Name(String),
}

impl fmt::Display for BindHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindHost::Any => Ok(()),
            BindHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            BindHost::Address(address) => write!(f, "{address}"),
            BindHost::Name(name) => f.write_str(name),
        }
    }
}

/// A duration as text for messages.
pub(super) fn seconds(value: GoDuration) -> String {
    let sign = if value.0 < 0 { "-" } else { "" };
    format!("{sign}{}s", Duration::from_nanos(value.0.unsigned_abs()).as_secs_f64())
}
