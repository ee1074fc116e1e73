//! Generated pages of the user documents: the tables people look things up in.
//!
//! Written from the same tables the program reads, so they cannot disagree with it. Same program, same bytes.

use std::fmt::Write as _;

use super::flags::{DIFFERENT, FLAGS, Flag, Group, Standing};
use super::value::Syntax;

/// A page that can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `docs/user/flags.md`.
    Flags,
    /// `docs/user/annotations.md`.
    Annotations,
    /// `docs/user/metrics.md`.
    Metrics,
    /// An example configuration file with every key at its default.
    Config,
}

impl Page {
    /// What `gen-docs` takes.
    pub const NAMES: [&'static str; 4] = ["flags", "annotations", "metrics", "config"];

    /// The page of that name.
    pub fn parse(name: &str) -> Option<Page> {
        match name {
            "flags" => Some(Page::Flags),
            "annotations" => Some(Page::Annotations),
            "metrics" => Some(Page::Metrics),
            "config" => Some(Page::Config),
            _ => None,
        }
    }
}

/// A text as it may stand in a cell of a Markdown table.
pub fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// `docs/user/flags.md`.
pub fn flags_page() -> String {
    let mut page = String::from(FLAGS_HEAD);
    for group in Group::ALL {
        push(
            &mut page,
            format_args!(
                "\n## {}\n\n| Flag | Value | Default | Meaning |\n| --- | --- | --- | --- |\n",
                group.heading()
            ),
        );
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            push(&mut page, format_args!("{}\n", flag_row(flag)));
        }
    }
    page.push_str(DIFFERENT_HEAD);
    for (name, how) in DIFFERENT {
        push(&mut page, format_args!("| `--{name}` | {} |\n", cell(how)));
    }
    page
}

const FLAGS_HEAD: &str = "\
# Flags

<!-- Written by `cargo xtask gen`; change `src/cli/flags.rs`, not this page. -->

Every flag of kube-router is accepted with its name, its default and its way of writing values. A flag can be given on the
command line, through the environment where a variable is named, or in the file of `--config` (the same name without
dashes, YAML or TOML); the first of these that sets it wins.

Values:

- BOOL: `--flag`, `--flag=true` or `--flag=false` (also `1`, `0`, `t`, `f`). `--flag false` is an error.
- DURATION: a number with a unit, or several: `300ms`, `5s`, `1m30s`, `2h`.
- LIST, NUMBERS, IPS: separated by commas; a flag given again adds to the list; the first use replaces the default.

Exit codes: 0 for `--help`, `--version` and an ordered end; 1 for a start-up error; 2 for a command line that cannot be read.

Flags marked *not yet* are read and validated, and have no effect: the part they belong to is not in this version.
";

const DIFFERENT_HEAD: &str = "
## Deliberately different from kube-router

| Flag | What is different |
| --- | --- |
";

fn flag_row(flag: &Flag) -> String {
    let short = flag.short().filter(|_| flag.name != "v").map_or(String::new(), |letter| format!("`-{letter}`, "));
    let short = if flag.name == "v" { "`-v`, ".to_owned() } else { short };
    let default = if flag.default.is_empty() { "none".to_owned() } else { format!("`{}`", flag.default) };
    let env = flag.env().map_or(String::new(), |variable| format!(" Environment: `{variable}`."));
    let standing = match flag.standing() {
        Standing::NotYet => " *Not yet.*",
        Standing::Works | Standing::Differs(_) => "",
    };
    let word = flag.syntax.word();
    format!("| {short}`--{}` | {word} | {default} | {}.{env}{standing} |", flag.name, cell(flag.help))
}

/// An example configuration file: every key with its default, commented out.
pub fn config_page() -> String {
    let mut page =
        String::from("# Ferrovia configuration, every key with its default. The command line wins over this file.\n");
    for group in Group::ALL {
        push(&mut page, format_args!("\n# {}\n", group.heading()));
        for flag in FLAGS.iter().filter(|flag| flag.group == group && flag.in_file()) {
            let value = match flag.syntax {
                Syntax::List | Syntax::Numbers | Syntax::Addresses => format!("[{}]", flag.default),
                Syntax::Bool | Syntax::Number(_) => flag.default.to_owned(),
                Syntax::Duration | Syntax::Text | Syntax::Path => format!("{:?}", flag.default),
            };
            push(&mut page, format_args!("\n# {}.\n#{}: {value}\n", flag.help, flag.name));
        }
    }
    page
}

/// Append formatted text; writing to a `String` cannot fail.
fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}
