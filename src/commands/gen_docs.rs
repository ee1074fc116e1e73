//! `gen-docs`: the generated pages of the user documents.

use crate::cli::docs::{self, Page, cell};
use crate::k8s::annotations::{ANNOTATIONS, AnnotatedKind, AnnotationDoc, Support};
use crate::telemetry::registry;

/// The text of a page.
pub fn page(page: Page) -> String {
    match page {
        Page::Flags => docs::flags_page(),
        Page::Config => docs::config_page(),
        Page::Metrics => registry::metrics_page(),
        Page::Annotations => annotations_page(),
    }
}

/// `docs/user/annotations.md`.
fn annotations_page() -> String {
    let mut page = String::from(ANNOTATIONS_HEAD);
    for (kind, heading) in
        [(AnnotatedKind::Service, "Services"), (AnnotatedKind::Node, "Nodes"), (AnnotatedKind::Namespace, "Namespaces")]
    {
        page.push_str(&format!("\n## {heading}\n\n{TABLE_HEAD}"));
        let rows = ANNOTATIONS.iter().filter(|annotation| annotation.kind == kind).map(annotation_row);
        page.extend(rows);
    }
    page
}

const ANNOTATIONS_HEAD: &str = "\
# Annotations

<!-- Written by `cargo xtask gen`; change `src/k8s/annotations.rs`, not this page. -->

Keys under `kube-router.io/` keep kube-router's meaning. All are followed while the daemon runs. A value that cannot be read is
reported as an event of the object and treated as absent. *Not yet*: known, without effect in this version.
";

const TABLE_HEAD: &str = "\
| Annotation | Effect | Values | Without it | Example | Since |
| --- | --- | --- | --- | --- | --- |
";

fn annotation_row(annotation: &AnnotationDoc) -> String {
    let AnnotationDoc { key, what, values, default, example, support, .. } = *annotation;
    let support = match support {
        Support::Since(version) => version.to_owned(),
        Support::Always(why) => format!("always on: {why}"),
        Support::NotYet => "not yet".to_owned(),
    };
    let [what, values, default, example, support] = [what, values, default, example, &support].map(cell);
    format!("| `{key}` | {what} | {values} | {default} | `{example}` | {support} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_the_same_every_time_and_ends_in_a_newline() {
        for name in Page::NAMES {
            let text = page(Page::parse(name).unwrap());
            assert_eq!(text, page(Page::parse(name).unwrap()), "{name}");
            assert!(text.ends_with('\n') && !text.contains("  \n"), "{name}");
        }
    }

    #[test]
    fn every_flag_and_annotation_has_a_row() {
        let flags = page(Page::Flags);
        for flag in crate::cli::flags::FLAGS {
            assert!(flags.contains(&format!("`--{}` |", flag.name)), "{}", flag.name);
        }
        let annotations = page(Page::Annotations);
        assert!(ANNOTATIONS.iter().all(|one| annotations.contains(&format!("| `{}` |", one.key))));
    }
}
