//! Relative links in Markdown.

use std::path::Path;

use super::Source;

/// Links of one file whose target is not there.
pub(super) fn dead(root: &Path, source: &Source) -> Vec<String> {
    if !source.name.ends_with(".md") {
        return Vec::new();
    }
    let folder = Path::new(&source.name).parent().unwrap_or(Path::new(""));
    let mut wrong = Vec::new();
    let mut fenced = false;
    for (index, line) in source.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        for target in targets(line).into_iter().filter(|_| !fenced) {
            let path = target.split('#').next().unwrap_or_default();
            let absolute = target.contains("://") || target.starts_with("mailto:");
            if !absolute && !path.is_empty() && !root.join(folder).join(path).exists() {
                wrong.push(format!("{}:{}: `{target}` leads nowhere", source.name, index + 1));
            }
        }
    }
    wrong
}

/// The targets of `[text](target)` and `[text]: target`.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("](") {
        let end = after.find([')', ' ']).unwrap_or(after.len());
        found.extend(after.get(..end));
        rest = after.get(end..).unwrap_or_default();
    }
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        found.extend(target.split_whitespace().next());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_form_of_link() {
        assert_eq!(targets("see [a](x.md) and [b](y.md#part \"title\")"), ["x.md", "y.md#part"]);
        assert_eq!(targets("[ref]: docs/z.md"), ["docs/z.md"]);
        assert_eq!(targets("no link (here) [or] here"), Vec::<&str>::new());
    }

    #[test]
    fn only_relative_links_that_lead_nowhere_are_dead() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dead =
            |text: &str| dead(root, &Source { name: "src/page.md".to_owned(), text: text.to_owned() }).join("\n");
        assert_eq!(dead("[x](main.rs) [y](../Cargo.toml#a) [z](https://example.org/q) [w](#here)"), "");
        assert_eq!(dead("```\n[x](nowhere.md)\n```"), "");
        assert_eq!(dead("\n[x](nowhere.md)"), "src/page.md:2: `nowhere.md` leads nowhere");
    }
}
