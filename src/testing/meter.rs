//! What both meters (`examples/bench`, `examples/bgp_bench`) say and take alike.

use anyhow::{Context, Result, bail};

/// Processor and kernel, as they call themselves.
///
/// # Errors
/// Where `/proc` does not tell.
pub fn machine() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let processors = std::fs::read_to_string("/proc/cpuinfo").context("read what the processor is")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let n_processors = processors.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!("{n_processors} × {model}, Linux {}", release.trim()))
}

/// The word after `--repetitions`.
///
/// # Errors
/// Where it is no number from 1.
pub fn repetitions<N: std::str::FromStr + PartialOrd + Default>(word: Option<&String>) -> Result<N> {
    let number = word.and_then(|word| word.parse().ok()).filter(|number| *number > N::default());
    number.context("--repetitions takes a number from 1")
}

/// That every scenario somebody asks for is one there is.
///
/// # Errors
/// Names the first that is none, and all there are.
pub fn check_scenarios<'a>(asked: &[String], known: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let known: Vec<&str> = known.into_iter().collect();
    match asked.iter().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => bail!("no scenario {unknown:?}; there are {}", known.join(", ")),
        None => Ok(()),
    }
}
