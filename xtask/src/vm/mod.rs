//! `cargo xtask vm`: any command, as root, on a kernel of our own.
//!
//! A QEMU guest boots the distribution's kernel (unpacked into a cache, never installed) and sees this
//! machine's own file tree read-only under a throw-away overlay, at the same paths. So a test binary built
//! here runs there as it is, with IPVS, dummy links and tunnels, and nothing it does reaches the host.
//!
//! - [`mod@setup`]: the packages needed on this machine
//! - [`kernel`]: kernel, modules and initramfs in the cache
//! - [`qemu`]: the command line of QEMU, and whether KVM works here
//! - [`state`]: the emulated guest saved after boot, so that later runs start in a second
//! - [`peers`]: the other BGP daemons that tests talk to
//! - [`guest`]: one run from start to exit status
//! - [`mod@test`]: the integration tests of tier 4
//! - [`lanes`]: all of them, in several guests

mod cache;
mod guest;
mod initramfs;
mod kernel;
mod lanes;
mod peers;
mod qemu;
mod setup;
mod state;
mod test;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use guest::{Console, Guest};
pub(crate) use peers::{TOOLS, folder as tools_folder};
pub(crate) use setup::setup;
pub(crate) use test::{Selection, test};

const HELP: &str = "\
cargo xtask vm [OPTIONS] [--] CMD ARG…

Runs CMD as root in a guest with its own kernel. The guest sees this machine's files read-only under a
throw-away overlay, the same working directory and the same environment. The exit status is CMD's;
124: it ran into the time-out, 125: the guest died.

  -w, --write DIR     share DIR read-write (repeatable); everything else written in the guest is lost
  -i, --stdin         pass standard input on
      --shell         give CMD this terminal as its console (Ctrl-A X ends the guest)
      --timeout SECS  end the guest after so long (default 300; 0 and --shell: never)
      --mem SIZE      the guest's memory (default 2G)
      --net KIND      none (default), or user: the host's loopback is 10.0.2.2 in the guest
      --cold          boot afresh instead of from the state saved after boot

cargo xtask vm setup             install QEMU and the network tools, fetch the kernel
cargo xtask vm test [--bin NAME] [--] [LIBTEST ARGS]
                                 run the integration tests `vm` (or NAME) in one guest; all of
                                 them: in several, two at a time

Environment: FERROVIA_VM_CACHE (default ~/.cache/ferrovia/vm), FERROVIA_VM_KERNEL (a Debian kernel version),
FERROVIA_VM_ACCEL (kvm or tcg instead of trying), FERROVIA_VM_QEMU (the QEMU program).
";

/// How long a command may run when nobody says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// The `vm` command; returns the exit status.
pub(crate) fn main(args: &[OsString]) -> Result<u8> {
    match args.first().and_then(|word| word.to_str()) {
        None | Some("--help" | "-h" | "help") => {
            print!("{HELP}");
            Ok(if args.is_empty() { 2 } else { 0 })
        }
        Some("setup") => setup().map(|()| 0),
        Some("test") => test(&Selection::parse(args.get(1..).unwrap_or_default())?),
        Some(_) => parse(args)?.run(),
    }
}

/// Options up to the first word that is none, or up to `--`; the rest is the command.
fn parse(args: &[OsString]) -> Result<Guest> {
    let mut guest = Guest::new(Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let (option, inline) = match word.to_str().and_then(|word| word.split_once('=')) {
            Some((option, value)) if option.starts_with("--") => (option, Some(OsString::from(value))),
            _ => (word.to_str().unwrap_or_default(), None),
        };
        let mut value = || {
            let given = inline.clone().or_else(|| words.next().cloned());
            given.with_context(|| format!("{option} needs a value"))
        };
        match option {
            "-w" | "--write" => {
                let folder = PathBuf::from(value()?);
                let real = folder.canonicalize().with_context(|| format!("{option} {}", folder.display()))?;
                guest.write.push(real);
            }
            "-i" | "--stdin" => guest.console = Console::StreamsWithInput,
            "--shell" => guest.console = Console::Terminal,
            "--timeout" => guest.timeout = seconds(option, &value()?)?,
            "--mem" => guest.memory = value()?.to_string_lossy().into_owned(),
            "--net" => guest.network = network(&value()?)?,
            "--cold" => guest.saved_state = false,
            "--" => {
                guest.command = words.cloned().collect();
                break;
            }
            _ if option.starts_with('-') => bail!("unknown option {option}; see `cargo xtask vm --help`"),
            _ => {
                guest.command = std::iter::once(word).chain(words).cloned().collect();
                break;
            }
        }
    }
    if guest.command.is_empty() {
        bail!("no command to run in the guest; see `cargo xtask vm --help`");
    }
    Ok(guest)
}

/// `None` is: without limit.
fn seconds(option: &str, value: &OsString) -> Result<Option<Duration>> {
    let number = value.to_str().and_then(|value| value.parse::<u64>().ok());
    match number.with_context(|| format!("{option} {value:?} is not a number of seconds"))? {
        0 => Ok(None),
        n => Ok(Some(Duration::from_secs(n))),
    }
}

/// Whether the guest gets QEMU's user network.
fn network(value: &OsString) -> Result<bool> {
    match value.to_str() {
        Some("user") => Ok(true),
        Some("none") => Ok(false),
        _ => bail!("--net {value:?} is neither `user` nor `none`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn options_end_at_the_command() {
        let guest = parse(&words("-i --timeout 5 --mem=1G --net user sh -i -c x")).unwrap();
        assert_eq!(guest.console, Console::StreamsWithInput);
        assert_eq!(guest.timeout, Some(Duration::from_secs(5)));
        assert_eq!(guest.memory, "1G");
        assert!(guest.network);
        assert_eq!(guest.command, words("sh -i -c x"));
    }

    #[test]
    fn two_dashes_end_the_options() {
        let guest = parse(&words("--timeout 0 -- --odd name")).unwrap();
        assert_eq!(guest.timeout, None);
        assert_eq!(guest.command, words("--odd name"));
    }

    #[test]
    fn says_what_is_wrong_with_an_option() {
        let told = |line| parse(&words(line)).map(|_| ()).unwrap_err().to_string();
        assert!(told("--timeout soon true").contains("\"soon\" is not a number of seconds"));
        assert!(told("--net bridge true").contains("neither `user` nor `none`"));
        assert!(told("--frob true").contains("unknown option --frob"));
        assert!(told("--mem").contains("--mem needs a value"));
        assert!(told("-i").contains("no command"));
        assert!(told("-w /nonexistent true").contains("/nonexistent"));
    }
}
