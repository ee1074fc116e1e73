//! Rules about the text of one file.

use super::Source;

/// Lines of a Rust file without its tests. More needs a reason at the top: `//! Long because …`.
const SOFT_LIMIT: usize = 600;

/// How many lines count as the top of a file.
const TOP: usize = 20;

/// The reason that lifts the soft limit.
const REASON: &str = "//! Long because ";

/// Words in quotes here, split so that this file does not contain them.
const UNFINISHED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it, or open an issue and say what is missing where the reader looks"),
    (concat!("FIX", "ME"), "finish it, or open an issue and say what is missing where the reader looks"),
    (concat!("to", "do!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (concat!("X", "XX"), "finish it, or say what is uncertain"),
    (concat!("<<<<", "<<< "), "finish the merge"),
    (concat!(">>>>", ">>> "), "finish the merge"),
];

/// What tells about the maker's desk instead of the work.
const PRIVATE: &[(&str, &str)] = &[
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/Us", "ers/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("Co-auth", "ored-by"), "history belongs in git"),
    (concat!("Generated", " with"), "history belongs in git; generated pages name their command"),
];

/// Everything wrong with one file.
pub(super) fn violations(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for (word, why) in UNFINISHED.iter().chain(PRIVATE) {
            if line.contains(word) && !is_exempt(&source.name) {
                wrong.push(format!("{}:{}: `{word}`: {why}", source.name, index + 1));
            }
        }
    }
    if source.name.ends_with(".rs") {
        wrong.extend(rust(source));
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        wrong.push(format!("{}: no line end at the end", source.name));
    }
    wrong
}

/// Files made by tools, and licences, are not ours to word.
fn is_exempt(name: &str) -> bool {
    name == "Cargo.lock" || name == "LICENSE" || name.starts_with("tests/vectors/")
}

fn rust(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    let first = lines.iter().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    let only_tests = source.name.ends_with("/tests.rs") || source.name.contains("/tests/");
    if !only_tests && !first.is_some_and(|line| line.starts_with("//!")) {
        wrong.push(format!("{}: opens without `//!`: say what it is for and what it must not know", source.name));
    }
    let length = length_without_tests(&lines);
    let excused = lines.iter().take(TOP).any(|line| line.starts_with(REASON));
    if length > SOFT_LIMIT && !excused && !only_tests && !source.name.starts_with("tests/") {
        wrong.push(format!(
            "{}: {length} lines without tests, the limit is {SOFT_LIMIT}: split it, or say `{REASON}…` at the top",
            source.name
        ));
    }
    wrong
}

/// Lines up to the test module, which stands last.
fn length_without_tests(lines: &[&str]) -> usize {
    let tests = lines.windows(2).position(|pair| {
        matches!(pair, [attribute, module] if *attribute == "#[cfg(test)]" && module.starts_with("mod ") && module.ends_with('{'))
    });
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> String {
        violations(&Source { name: name.to_owned(), text: text.to_owned() }).join("\n")
    }

    #[test]
    fn a_file_within_the_rules_passes() {
        assert_eq!(found("src/net.rs", "//! Words.\n\nuse std::fmt;\n"), "");
        assert_eq!(found("README.md", "# Ferrovia\n"), "");
    }

    #[test]
    fn finds_unfinished_work() {
        assert!(found("src/net.rs", concat!("//! Words.\n// TO", "DO later\n")).contains("src/net.rs:2"));
        assert!(found("docs/a.md", concat!("FIX", "ME\n")).contains("docs/a.md:1"));
    }

    #[test]
    fn finds_a_path_of_one_machine() {
        assert!(found("docs/a.md", concat!("see /ho", "me/me/x\n")).contains("a path of one machine"));
    }

    #[test]
    fn a_module_says_what_it_is_for() {
        assert!(found("src/net.rs", "use std::fmt;\n").contains("opens without"));
        assert_eq!(found("src/net.rs", "#![no_std]\n//! Words.\n"), "");
        assert_eq!(found("src/net/tests.rs", "use super::*;\n"), "");
    }

    #[test]
    fn a_long_file_needs_a_reason_and_tests_do_not_count() {
        let code = "//! Words.\n".to_owned() + &"fn f() {}\n".repeat(600);
        assert!(found("src/net.rs", &code).contains("601 lines"));
        assert_eq!(found("src/net.rs", &code.replacen('\n', "\n//! Long because of reasons.\n", 1)), "");
        let tested = "//! Words.\n#[cfg(test)]\nmod tests {\n".to_owned() + &"fn f() {}\n".repeat(600) + "}\n";
        assert_eq!(found("src/net.rs", &tested), "");
    }
}
