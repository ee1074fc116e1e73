//! Tier 0: who may use whom, and what thinking files may not contain.
//!
//! [`ARROWS`] is the architecture: a new arrow is a change of this table and needs a decision record. `cargo xtask
//! tidy` includes this file and runs the same check without building the daemon.

use std::fs;
use std::path::{Path, PathBuf};

/// Each part of `src/` and the parts it may name besides itself. A longer path is the stricter rule for the files
/// under it: it then counts for them instead of the rule of the folder above.
const ARROWS: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("model", &["net"]),
    ("kernel", &["net"]),
    ("kernel/netlink", &["net", "kernel/error"]),
    ("reconcile", &["net", "model"]),
    ("k8s", &["net", "model"]),
    ("proxy", &["net", "model", "kernel", "reconcile"]),
    ("firewall", &["net", "model", "kernel", "reconcile"]),
    ("routing", &["net", "model", "kernel", "reconcile"]),
    ("routing/bgp", &["net"]),
    ("routing/bgp/wire", &["net", "routing/bgp"]),
    ("routing/bgp/fsm", &["net", "routing/bgp"]),
    ("routing/bgp/negotiate", &["net", "routing/bgp"]),
    ("routing/bgp/decision", &["net", "routing/bgp"]),
    ("routing/bgp/rib", &["net", "routing/bgp"]),
    ("routing/bgp/policy/", &["net", "routing/bgp"]),
    ("admin", &["model", "reconcile"]),
    ("telemetry", &["reconcile"]),
    ("cli", &["net"]),
    ("config", &["net", "cli"]),
    (
        "testing",
        &[
            "net",
            "model",
            "kernel",
            "reconcile",
            "k8s",
            "proxy",
            "firewall",
            "routing",
            "admin",
            "telemetry",
            "cli",
            "config",
        ],
    ),
    (
        "app",
        &[
            "net",
            "model",
            "kernel",
            "reconcile",
            "k8s",
            "proxy",
            "firewall",
            "routing",
            "admin",
            "telemetry",
            "cli",
            "config",
        ],
    ),
    (
        "commands",
        &[
            "app",
            "net",
            "model",
            "kernel",
            "k8s",
            "proxy",
            "firewall",
            "routing",
            "admin",
            "telemetry",
            "cli",
            "config",
        ],
    ),
    ("main", &["app", "cli", "commands", "config", "telemetry"]),
];

/// Only lists the modules.
const CRATE_ROOT: &str = "lib";

/// What tests beside the code may use on top: builders and fakes, and the values they are made of.
const IN_TESTS: &[&str] = &["testing", "net", "model", "cli"];

/// Files that think: values in, values out; the same input gives the same bytes. A name ending in `/` is a folder.
const PURE: &[&str] = &[
    "model/",
    "k8s/convert/",
    "proxy/desired",
    "proxy/direct",
    "proxy/endpoints",
    "proxy/affinity",
    "proxy/nat",
    "proxy/dsr",
    "proxy/drain",
    "proxy/plan",
    "proxy/book",
    "proxy/render",
    "proxy/vips",
    "firewall/book",
    "firewall/resolve",
    "firewall/compile",
    "firewall/index",
    "firewall/pods",
    "firewall/members",
    "firewall/tiers",
    "firewall/explain",
    "firewall/frames",
    "firewall/group",
    "firewall/held",
    "firewall/denied",
    "firewall/legacy",
    "firewall/table/",
    "firewall/judge",
    "firewall/refused",
    "firewall/render",
    "firewall/nobody",
    "firewall/direct",
    "firewall/tunnelled",
    "firewall/unjudged",
    "routing/desired",
    "routing/advertise",
    "routing/peers",
    "routing/overlay",
    "routing/egress",
    "routing/aws/sign",
    "routing/logind/wire",
    "routing/boundary",
    "routing/speaker_config",
    "routing/render",
    "routing/bridge",
    "routing/drain",
    "routing/doctor",
    "routing/speakers",
    "routing/return_path",
    "routing/cni/edit",
    "routing/networks",
    "routing/boundary",
    "routing/speaker_config",
    "routing/render",
    "routing/plan",
    "routing/bgp/types",
    "routing/bgp/wire",
    "routing/bgp/negotiate",
    "routing/bgp/fsm",
    "routing/bgp/decision",
    "routing/bgp/policy/",
    "routing/bgp/output/",
    "routing/bgp/api/adapt",
    "routing/bgp/api/capability",
    "routing/bgp/api/policy_text",
    "routing/bgp/api/query",
    "routing/bgp/api/raw",
    "routing/bgp/api/schema",
    "routing/bgp/api/shown",
    "routing/bgp/api/text",
    "routing/bgp/api/typed",
    "routing/bgp/bfd/packet",
    "routing/bgp/bfd/session",
    "reconcile/delta",
    "reconcile/tracker",
    "reconcile/backoff",
    "kernel/filter/",
];

/// What thinking files may not contain, with the reason.
const FORBIDDEN_IN_PURE: &[(&str, &str)] = &[
    ("async", "thinking does not wait"),
    (".await", "thinking does not wait"),
    ("tokio::", "thinking does no I/O"),
    ("Instant::now", "time comes in as a value"),
    ("SystemTime", "time comes in as a value"),
    ("HashMap", "its order differs from run to run; use BTreeMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("std::process", "thinking does no I/O"),
    ("std::fs", "thinking does no I/O"),
    ("rand", "randomness comes in as a value"),
];

/// Everything wrong in `src/` below `root`, one line each, in the order of the files.
pub(crate) fn violations(root: &Path) -> Vec<String> {
    let source = root.join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    files.sort();
    files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&source).unwrap_or(file).to_string_lossy().into_owned();
            match fs::read_to_string(file) {
                Ok(text) => in_file(&name, &text),
                Err(error) => vec![format!("src/{name}: cannot be read: {error}")],
            }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Everything wrong in one file; `name` is its path below `src/`.
fn in_file(name: &str, text: &str) -> Vec<String> {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let module = stem.strip_suffix("/mod").unwrap_or(stem);
    if module == CRATE_ROOT {
        return Vec::new();
    }
    let mut wrong = forbidden_arrows(name, module, text);
    if is_pure(stem) && !is_test_file(module) {
        wrong.extend(impure_words(name, text));
    }
    wrong
}

/// Whether the whole file is a test module beside its code.
fn is_test_file(module: &str) -> bool {
    module.split('/').any(|name| name == "tests")
}

/// `stem` keeps the `mod` of `mod.rs`, so that a folder covers its own.
fn is_pure(stem: &str) -> bool {
    PURE.iter().any(|pure| {
        if pure.ends_with('/') {
            stem.starts_with(pure)
        } else {
            stem == *pure || stem.starts_with(&format!("{pure}/"))
        }
    })
}

fn forbidden_arrows(name: &str, module: &str, text: &str) -> Vec<String> {
    let rules = ARROWS.iter().filter(|(part, _)| covers(part, module));
    let Some((part, allowed)) = rules.max_by_key(|(part, _)| part.len()) else {
        return vec![format!("src/{name}: no rule in tests/architecture.rs covers this file: say what it may use")];
    };
    let mut wrong = Vec::new();
    for line in code_lines(text) {
        for used in used_modules(module, &line.code) {
            let known = ARROWS.iter().any(|(part, _)| covers(part, &used));
            let may = std::iter::once(part).chain(*allowed).any(|may| covers(may, &used));
            let may_in_test = (line.in_tests || is_test_file(module)) && IN_TESTS.iter().any(|may| covers(may, &used));
            if known && !may && !may_in_test {
                wrong.push(format!("src/{name}:{}: `{part}` may not use `{}`", line.number, used.replace('/', "::")));
            }
        }
    }
    wrong
}

/// Whether the rule for `part` is about `module`.
fn covers(part: &str, module: &str) -> bool {
    module.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn impure_words(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in code_lines(text).into_iter().filter(|line| !line.in_tests) {
        for (word, reason) in FORBIDDEN_IN_PURE {
            if contains_word(&line.code, word) {
                wrong.push(format!("src/{name}:{}: `{word}` in a file that only thinks: {reason}", line.number));
            }
        }
    }
    wrong
}

fn contains_word(code: &str, word: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        let open_left = word.starts_with(is_inside) && before.is_some_and(is_inside);
        let open_right = word.ends_with(is_inside) && after.is_some_and(is_inside);
        !open_left && !open_right
    })
}

/// A line, or a `use` statement of several lines joined, without comments and without what stands in quotes.
struct Line {
    number: usize,
    code: String,
    in_tests: bool,
}

fn code_lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut in_tests = false;
    let mut test_attribute = false;
    let mut open_use = false;
    for (index, raw) in text.lines().enumerate() {
        let code = without_comment_and_text(raw);
        let trimmed = code.trim();
        // Tests come last in a file: all that follows the test module's opening belongs to it.
        in_tests |= test_attribute && trimmed.starts_with("mod ") && trimmed.ends_with('{');
        test_attribute = trimmed == "#[cfg(test)]" || (test_attribute && trimmed.starts_with("#["));
        match lines.last_mut() {
            Some(last) if open_use => last.code.push_str(trimmed),
            _ => lines.push(Line { number: index + 1, code: code.clone(), in_tests }),
        }
        let starts_use = trimmed.starts_with("use ") || trimmed.contains(" use ");
        open_use = (open_use || starts_use) && !trimmed.ends_with(';');
    }
    lines
}

fn without_comment_and_text(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut escaped = false;
    let mut last = ' ';
    for c in line.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if c == '"' && last != '\'' {
            quoted = true;
        } else if c == '/' && last == '/' {
            code.pop();
            break;
        } else {
            code.push(c);
        }
        last = c;
    }
    code
}

/// The modules of this crate that a line names, as paths below `src/`.
fn used_modules(module: &str, code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for root in ["crate::", "ferrovia::"] {
        for (at, _) in code.match_indices(root) {
            let before = code.get(..at).and_then(|text| text.chars().next_back());
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                names(code.get(at + root.len()..).unwrap_or_default(), "", &mut used);
            }
        }
    }
    // Only a chain of `super` that leaves the part says anything new.
    let depth = module.split('/').count();
    let chain = "super::".repeat(depth);
    if depth > 1
        && let Some(at) = code.find(&chain)
    {
        names(code.get(at + chain.len()..).unwrap_or_default(), "", &mut used);
    }
    used
}

/// Follows `a::b::{c, d::e}` and adds `a/b/c` and `a/b/d/e`.
fn names(path: &str, above: &str, used: &mut Vec<String>) {
    let path = path.trim_start();
    if let Some(group) = path.strip_prefix('{') {
        for member in members(group) {
            names(member, above, used);
        }
        return;
    }
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let full = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
    match rest.strip_prefix("::") {
        Some(rest) if !name.is_empty() && !rest.starts_with('*') => names(rest, &full, used),
        _ if name.is_empty() || name == "self" => used.push(above.to_owned()),
        _ => used.push(full),
    }
}

/// The members of a group, up to its closing brace.
fn members(group: &str) -> Vec<&str> {
    let mut members = Vec::new();
    let mut depth = 0usize;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                members.extend(group.get(start..at));
                break;
            }
            ',' if depth == 0 => {
                members.extend(group.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    members.retain(|member| !member.trim().is_empty());
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        // The same file is part of xtask, one folder down.
        if here.join("src/net.rs").exists() { here.to_path_buf() } else { here.join("..") }
    }

    #[test]
    fn the_tree_keeps_the_rules() {
        let wrong = violations(&root());
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    #[test]
    fn the_check_reads_the_tree() {
        let mut files = Vec::new();
        collect(&root().join("src"), &mut files);
        assert!(files.len() > 10, "only {} files found", files.len());
    }

    #[test]
    fn every_allowed_part_has_a_rule_or_lies_in_one() {
        for (part, allowed) in ARROWS {
            for used in *allowed {
                assert!(
                    ARROWS.iter().any(|(rule, _)| covers(rule, used)),
                    "{part} may use {used}, which no rule names"
                );
            }
        }
    }

    #[test]
    fn catches_a_forbidden_arrow() {
        let found = |name, text| in_file(name, text).join("\n");
        assert!(
            found("proxy/plan.rs", "use crate::firewall::Desired;").contains("`proxy` may not use `firewall::Desired`")
        );
        assert!(found("model/pod.rs", "fn f(x: crate::kernel::Error) {}").contains("src/model/pod.rs:1"));
        assert!(
            found("proxy/mod.rs", "use crate::{\n    model::{Pod, Node},\n    k8s::watch,\n};").contains("k8s::watch")
        );
        assert!(found("proxy/plan.rs", "use super::super::routing::Peer;").contains("routing::Peer"));
        assert!(found("main.rs", "use ferrovia::proxy::plan;").contains("proxy::plan"));
        assert!(found("kernel/netlink/socket.rs", "use crate::kernel::ipvs::Op;").contains("kernel::ipvs"));
        assert!(found("routing/bgp/wire.rs", "use crate::model::Node;").contains("model::Node"));
        assert!(found("shed/mod.rs", "").contains("no rule"));
        assert!(found("net.rs", "pub(crate) use crate::model::Pod;").contains("model::Pod"));
    }

    #[test]
    fn leaves_allowed_arrows_alone() {
        let clean = |name, text| assert_eq!(in_file(name, text), Vec::<String>::new(), "{name}: {text}");
        clean("proxy/plan.rs", "use crate::kernel::ipvs::{self, Op};\nuse crate::proxy::desired;\nuse super::drain;");
        clean("proxy/plan.rs", "// crate::firewall is not for us\nlet x = \"crate::firewall\";");
        clean("proxy/plan.rs", "#[cfg(test)]\nmod tests {\n    use crate::testing::service;\n}");
        clean("kernel/netlink/socket.rs", "use crate::kernel::error::Error;\nuse crate::kernel::netlink::attr;");
        clean("routing/bgp/wire.rs", "use crate::routing::bgp::negotiate::Parameters;");
        clean("model/tests.rs", "use crate::testing::service;\nuse std::collections::HashMap;");
        clean("main.rs", "use ferrovia::app;");
        clean("lib.rs", "pub mod proxy;");
    }

    #[test]
    fn code_may_not_use_what_only_tests_may() {
        let text = "use crate::testing::service;\n#[cfg(test)]\nmod tests {\n}";
        assert_eq!(in_file("proxy/plan.rs", text).len(), 1);
        // Tests in a file of their own end nothing here.
        let text = "#[cfg(test)]\nmod tests;\nuse crate::testing::service;";
        assert_eq!(in_file("proxy/plan.rs", text).len(), 1);
    }

    #[test]
    fn catches_a_clock_in_a_pure_file() {
        let found = |text| in_file("proxy/drain.rs", text).join("\n");
        assert!(found("let now = std::time::Instant::now();").contains("`Instant::now`"));
        assert!(found("async fn f() {}").contains("does not wait"));
        assert!(found("use std::collections::HashMap;").contains("BTreeMap"));
        assert!(found("let x = rand::random();").contains("`rand`"));
        assert!(in_file("kernel/filter/mod.rs", "use std::fs;").join("\n").contains("std::fs"));
        // Neither comments, nor tests, nor longer words.
        assert_eq!(found("/// not async\nlet operand = brand;"), "");
        assert_eq!(found("#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}"), "");
        assert_eq!(in_file("proxy/reconciler.rs", "async fn run() {}"), Vec::<String>::new());
    }
}
