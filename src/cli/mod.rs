//! The command line: flags, environment and configuration file become one [`Request`].
//!
//! clap splits the arguments and prints help; what a value means is read by [`value`], because the flags keep the
//! syntax of kube-router (`--run-router=false`, never `--run-router false`). Only syntax is checked here:
//! [`crate::config`] says whether the values make sense together.

pub mod docs;
mod explain;
mod file;
pub mod flags;
pub mod gobgp;
pub mod value;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ContextKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

pub use explain::Explained;
pub use file::FileError;
use flags::{FLAGS, Flag, Given, Group, Origin};
pub use flags::{Flags, ValueError};
use value::{FlagValue as _, GoDuration, Syntax};

/// What the program was asked to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// Run the daemon.
    Run(Box<Flags>),
    /// Print this text to standard output and end with success.
    Print(String),
    /// Print what this node would hold for a cluster in files.
    Render(Box<Render>),
    /// Print the snapshot of a running daemon.
    Snapshot {
        /// Where it listens.
        admin_socket: PathBuf,
    },
    /// Print the state of a running daemon on one screen.
    Status {
        /// Where it listens.
        admin_socket: PathBuf,
    },
    /// Print where a running daemon serves one Service and to whom it is announced, where an address is reached, or
    /// what a peer is told, and why not.
    Explain {
        /// Where it listens.
        admin_socket: PathBuf,
        /// Of what.
        what: Explained,
    },
    /// Ask a BGP speaker, as gobgp's command line does.
    Gobgp(Box<gobgp::Gobgp>),
    /// Print what stands in the way of traffic on this node.
    Doctor {
        /// Where the running daemon listens.
        admin_socket: PathBuf,
    },
    /// Take this node out of traffic, or back into it.
    Drain {
        /// Where the running daemon listens.
        admin_socket: PathBuf,
        /// Back into it.
        stop: bool,
        /// How long to wait for its end.
        wait: Option<Duration>,
    },
    /// Print a generated document.
    GenDocs(docs::Page),
}

/// What `render` was asked for.
#[derive(Clone, Debug)]
pub struct Render {
    /// Where the cluster comes from.
    pub source: RenderSource,
    /// The node to decide for.
    pub node: Option<String>,
    /// The room to print.
    pub room: String,
    /// The form to print it in.
    pub output: Output,
    /// The flags that change decisions; all others have their defaults.
    pub flags: Flags,
}

/// Where `render` reads the cluster from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenderSource {
    /// A folder of Kubernetes YAML.
    Manifests(PathBuf),
    /// A snapshot of a running daemon, as JSON.
    Snapshot(PathBuf),
}

/// The form of printed decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The operators' own language: ipvsadm, nft, ip.
    Text,
    /// JSON.
    Json,
}

/// Why the command line cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to print to standard error.
    pub text: String,
    /// The exit code: 2 for a command line nobody can read, 1 for what reads well but is not allowed.
    pub code: u8,
}

/// The environment as far as flags take values from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NODE_NAME`, the name of the Node object.
    pub node_name: Option<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        Environment { node_name: std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()) }
    }

    fn get(&self, variable: &str) -> Option<&String> {
        self.node_name.as_ref().filter(|_| variable == "NODE_NAME")
    }
}

/// Read a command line, the program's name first.
///
/// # Errors
/// A [`Refusal`] with the text for standard error and the exit code.
pub fn parse<I, T>(arguments: I, environment: &Environment) -> Result<Request, Refusal>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if gobgp::is_meant(&words) {
        return gobgp::parse(&words).map(|asked| Request::Gobgp(Box::new(asked)));
    }
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments).map_err(|mut error| {
        // clap would propose to write the flag after `--`, which is never right here.
        error.remove(ContextKind::Suggested);
        let code = if error.use_stderr() { 2 } else { 0 };
        Refusal { text: error.to_string(), code }
    })?;
    match matches.subcommand() {
        Some(("render", inner)) => render(&mut command, inner, environment),
        Some(("snapshot", inner)) => {
            Ok(ask(&mut command, inner, "snapshot")?
                .unwrap_or_else(|| Request::Snapshot { admin_socket: socket(inner) }))
        }
        Some(("status", inner)) => {
            Ok(ask(&mut command, inner, "status")?.unwrap_or_else(|| Request::Status { admin_socket: socket(inner) }))
        }
        Some(("doctor", inner)) => {
            Ok(ask(&mut command, inner, "doctor")?.unwrap_or_else(|| Request::Doctor { admin_socket: socket(inner) }))
        }
        Some(("drain", inner)) => drain(&mut command, inner),
        Some(("explain", inner)) => explain::read(&mut command, inner),
        Some(("gen-docs", inner)) => {
            let page = inner.get_one::<String>("page").and_then(|name| docs::Page::parse(name));
            page.map(Request::GenDocs).ok_or_else(|| Refusal {
                text: format!("error: gen-docs takes one of {}\n", docs::Page::NAMES.join(", ")),
                code: 2,
            })
        }
        _ => run(&mut command, &matches, environment),
    }
}

/// The daemon itself.
fn run(command: &mut Command, matches: &ArgMatches, environment: &Environment) -> Result<Request, Refusal> {
    // Asked for before anything is read from files, so that --help works with a broken one.
    let flags = read_flags(matches, environment, None)?;
    if flags.v.parse::<i32>().is_err() {
        return Err(failure(&format!("--v={}: expected a whole number", flags.v)));
    }
    if let Some(leftover) = matches.get_many::<String>("leftover").and_then(|mut texts| texts.next()) {
        return Err(failure(&leftover_text(leftover)));
    }
    if flags.help {
        return Ok(Request::Print(command.render_long_help().to_string()));
    }
    if flags.version {
        return Ok(Request::Print(version_text()));
    }
    let values = config_file(&flags)?;
    Ok(Request::Run(Box::new(read_flags(matches, environment, values.as_ref())?)))
}

fn render(command: &mut Command, matches: &ArgMatches, environment: &Environment) -> Result<Request, Refusal> {
    let flags = read_flags(matches, environment, None)?;
    if flags.help {
        return Ok(help_of(command, "render"));
    }
    let path = |name: &str| matches.get_one::<String>(name).map(PathBuf::from);
    let source = match (path("manifests"), path("snapshot")) {
        (Some(folder), None) => RenderSource::Manifests(folder),
        (None, Some(file)) => RenderSource::Snapshot(file),
        _ => return Err(usage("render needs either --manifests DIR or --snapshot FILE")),
    };
    let output = match matches.get_one::<String>("output").map_or("text", String::as_str) {
        "text" => Output::Text,
        "json" => Output::Json,
        other => return Err(usage(&format!("invalid value {other:?} for --output: expected text or json"))),
    };
    let values = config_file(&flags)?;
    Ok(Request::Render(Box::new(Render {
        source,
        node: matches.get_one::<String>("node").cloned(),
        room: matches.get_one::<String>("room").cloned().unwrap_or_else(|| "proxy".to_owned()),
        output,
        flags: read_flags(matches, environment, values.as_ref())?,
    })))
}

/// The help of a question to a running daemon, where it was asked for.
fn ask(command: &mut Command, matches: &ArgMatches, name: &str) -> Result<Option<Request>, Refusal> {
    let flags = read_flags(matches, &Environment::default(), None)?;
    Ok(flags.help.then(|| help_of(command, name)))
}

fn drain(command: &mut Command, matches: &ArgMatches) -> Result<Request, Refusal> {
    if let Some(help) = ask(command, matches, "drain")? {
        return Ok(help);
    }
    let wait = match matches.get_one::<String>("wait") {
        None => None,
        Some(text) => {
            let parsed = GoDuration::parse(std::slice::from_ref(text)).ok().and_then(GoDuration::to_duration);
            Some(parsed.ok_or_else(|| usage(&format!("invalid value {text:?} for --wait: write 30s or 2m")))?)
        }
    };
    let stop = matches.get_flag("stop");
    if stop && wait.is_some() {
        return Err(usage("drain takes --stop or --wait, not both"));
    }
    Ok(Request::Drain { admin_socket: socket(matches), stop, wait })
}

fn help_of(command: &mut Command, name: &str) -> Request {
    let help = command.find_subcommand_mut(name).map(|sub| sub.render_long_help().to_string());
    Request::Print(help.unwrap_or_default())
}

fn socket(matches: &ArgMatches) -> PathBuf {
    let default = FLAGS.iter().find(|flag| flag.name == "admin-socket").map_or("", |flag| flag.default);
    PathBuf::from(matches.get_one::<String>("admin-socket").map_or(default, String::as_str))
}

fn config_file(flags: &Flags) -> Result<Option<file::FileValues>, Refusal> {
    if flags.config.as_os_str().is_empty() {
        return Ok(None);
    }
    file::read(&flags.config).map(Some).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        failure(&format!("{error}{cause}"))
    })
}

/// Every flag's value: command line, else environment, else file, else default.
fn read_flags(
    matches: &ArgMatches,
    environment: &Environment,
    file: Option<&file::FileValues>,
) -> Result<Flags, Refusal> {
    let given = |flag: &Flag| {
        let on_line = matches.try_get_many::<String>(flag.name).ok().flatten();
        if let Some(texts) = on_line {
            return Given { origin: Origin::CommandLine, texts: texts.cloned().collect() };
        }
        if let Some(text) = flag.env().and_then(|variable| environment.get(variable)) {
            return Given { origin: Origin::Environment, texts: vec![text.clone()] };
        }
        match file.and_then(|values| values.get(flag.name)) {
            Some(texts) => Given { origin: Origin::File, texts: texts.clone() },
            None => flag.default_given(),
        }
    };
    Flags::read(given).map_err(|error| match error.origin {
        Origin::CommandLine => usage(&error.to_string()),
        Origin::Default | Origin::Environment | Origin::File => failure(&error.to_string()),
    })
}

fn usage(message: &str) -> Refusal {
    Refusal { text: format!("error: {message}\n\nFor more information, try '--help'.\n"), code: 2 }
}

fn failure(message: &str) -> Refusal {
    Refusal { text: format!("error: {message}\n"), code: 1 }
}

const COMMANDS: [&str; 4] = ["render", "snapshot", "status", "explain"];

fn leftover_text(leftover: &str) -> String {
    if <bool as value::FlagValue>::parse(&[leftover.to_owned()]).is_ok() {
        format!("unexpected argument {leftover:?}: write switches with an equals sign, such as --run-router={leftover}")
    } else if COMMANDS.contains(&leftover) {
        format!("unexpected argument {leftover:?}: write the command first and its flags after it")
    } else {
        format!("unexpected argument {leftover:?}: only flags and the commands of --help are known")
    }
}

/// `ferrovia VERSION (git REVISION, rustc VERSION)`, as far as known when this was compiled.
pub fn version_text() -> String {
    let git = option_env!("FERROVIA_GIT_HASH").map(|hash| format!("git {hash}"));
    let rustc = option_env!("FERROVIA_RUSTC_VERSION").map(|version| format!("rustc {version}"));
    let known: Vec<String> = git.into_iter().chain(rustc).collect();
    let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
    format!("ferrovia {}{known}\n", env!("CARGO_PKG_VERSION"))
}

/// The whole command line as clap knows it.
fn command() -> Command {
    let mut command = bare(Command::new("ferrovia"))
        .about("One node daemon for Kubernetes: Services on IPVS, taking the place of kube-router")
        .args_conflicts_with_subcommands(true)
        .override_usage("ferrovia [FLAGS]\n       ferrovia <COMMAND> [FLAGS]")
        .after_help(EXAMPLES)
        .args(FLAGS.iter().map(argument))
        .arg(Arg::new("leftover").num_args(0..).hide(true));
    for sub in [render_command(), question("snapshot", SNAPSHOT_ABOUT), question("status", STATUS_ABOUT)] {
        command = command.subcommand(sub);
    }
    let wait = Arg::new("wait").long("wait").value_name("DURATION").num_args(0..=1).require_equals(true);
    let wait = wait.default_missing_value("1m").help("Wait until the node is drained, at most this long [default: 1m]");
    let stop = Arg::new("stop").long("stop").action(ArgAction::SetTrue).help("Take the node back into traffic");
    command = command.subcommand(question("drain", DRAIN_ABOUT).arg(wait).arg(stop));
    command = command.subcommand(question("doctor", DOCTOR_ABOUT));
    command = command.subcommand(explain::command());
    // Only for the list: their lines never get here.
    for (name, about) in gobgp::ABOUT {
        command = command.subcommand(bare(Command::new(name)).about(about));
    }
    command.subcommand(bare(Command::new("gen-docs")).hide(true).arg(Arg::new("page").required(true)))
}

const SNAPSHOT_ABOUT: &str = "Print the cluster as a running daemon sees it, as JSON that render can read";
const DOCTOR_ABOUT: &str =
    "Print what stands in the way of traffic on this node, and what to do; ends with 1 when there is anything";
const DRAIN_ABOUT: &str = "Take this node out of traffic in stages until the daemon ends, as ferrovia.dev/drain does; \
                           with --wait ends with 1 when time is up first";
const STATUS_ABOUT: &str = "Print the state of a running daemon on one screen; ends with 1 when it is not healthy";

const EXAMPLES: &str = "\
Switches are written --flag, --flag=true or --flag=false; lists take commas or are given again; durations look like \
300ms, 5s, 1m30s, 2h. A switch followed by a space and a word is an error.

Examples:
  Serve Services, leave routing and policies to others:
    ferrovia --run-router=false --run-firewall=false
  The same, outside a cluster, from a folder of YAML that is followed:
    ferrovia --run-router=false --run-firewall=false --manifests=./cluster --hostname-override=node-1
  Print what a node would hold, without being root and without a kernel:
    ferrovia render --manifests=./cluster --node=node-1
  What is a running daemon doing?
    ferrovia status
  Why is a Service not served here?
    ferrovia explain service default/web
  Record what it sees, and look at it on another machine:
    ferrovia snapshot > snapshot.json
    ferrovia render --snapshot=snapshot.json";

fn bare(command: Command) -> Command {
    command.disable_help_flag(true).disable_version_flag(true).disable_help_subcommand(true).args_override_self(true)
}

fn render_command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).allow_hyphen_values(true)
    };
    bare(Command::new("render"))
        .about("Print what a node would hold for a cluster in files; needs no root and changes nothing")
        .arg(text("manifests", "DIR", "Folder of Kubernetes YAML"))
        .arg(text("snapshot", "FILE", "Snapshot that a running daemon printed"))
        .arg(text(
            "node",
            "NAME",
            "The node to decide for; with --snapshot the node it was taken on [default: that node]",
        ))
        .arg(text("room", "ROOM", "The part to print [default: proxy]"))
        .arg(text("output", "FORM", "text or json [default: text]").short('o'))
        .args(FLAGS.iter().filter(|flag| flag.decides()).map(argument))
}

fn question(name: &'static str, about: &'static str) -> Command {
    bare(Command::new(name))
        .about(about)
        .args(FLAGS.iter().filter(|flag| matches!(flag.name, "admin-socket" | "help")).map(argument))
}

/// A flag as clap knows it: a text that may come several times.
fn argument(flag: &Flag) -> Arg {
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .action(ArgAction::Append)
        .value_name(flag.syntax.word())
        .help_heading(flag.group.heading())
        .help(help_text(flag));
    let argument = match flag.short() {
        Some(letter) => argument.short(letter),
        None => argument,
    };
    if flag.syntax == Syntax::Bool {
        argument.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        argument.num_args(1).allow_hyphen_values(true)
    }
}

/// The help of one flag: what it means, its default, and whether it has no effect yet.
fn help_text(flag: &Flag) -> String {
    let default = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
    let env = flag.env().map_or(String::new(), |variable| format!(" [environment: {variable}]"));
    let standing = match flag.standing() {
        flags::Standing::NotYet if flag.group == Group::General => " (not part of this version: only false works)",
        flags::Standing::NotYet => " (no effect in this version)",
        flags::Standing::Works | flags::Standing::Differs(_) => "",
    };
    format!("{}{standing}{env}{default}", flag.help)
}
