//! Where in a YAML or JSON document a field stands (pure). Asked only when something must be reported.

use std::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a sequence, from 0.
    Index(usize),
}

/// Reads `spec.ports[0].port` and `metadata.annotations[example.org/key]`.
pub(super) fn parse_path(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (key, after) = inner.split_once(']').unwrap_or((inner, ""));
            steps.push(key.parse().map_or_else(|_| Step::Key(key.to_owned()), Step::Index));
            rest = after.strip_prefix('.').unwrap_or(after);
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            steps.push(Step::Key(key.to_owned()));
            rest = after.strip_prefix('.').unwrap_or(after);
        }
    }
    steps
}

/// The opposite of [`parse_path`].
pub(super) fn show_path(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |mut path, step| {
        let written = match step {
            Step::Index(index) => write!(path, "[{index}]"),
            Step::Key(key) if key.contains(['.', '/', '[']) => write!(path, "[{key}]"),
            Step::Key(key) if path.is_empty() => write!(path, "{key}"),
            Step::Key(key) => write!(path, ".{key}"),
        };
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        path
    })
}

/// The shape of a document: where everything stands, without the values.
#[derive(Debug)]
pub(super) struct Outline(Spanned<Shape>);

#[derive(Debug)]
enum Shape {
    Scalar,
    Sequence(Vec<Spanned<Shape>>),
    Mapping(Vec<(String, Spanned<Shape>)>),
}

impl Outline {
    /// Reads a text. `None` where it cannot be read at all.
    pub(super) fn read(text: &str) -> Option<Outline> {
        let options = serde_saphyr::options! { budget: None, strict_booleans: true, with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).ok().map(Outline)
    }

    /// The line, from 1, of what the steps lead to; of the nearest thing above it where that is not there.
    pub(super) fn line_of(&self, steps: &[Step]) -> Option<usize> {
        let mut here = &self.0;
        for step in steps {
            let next = match (&here.value, step) {
                (Shape::Mapping(entries), Step::Key(key)) => {
                    entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
                }
                (Shape::Sequence(entries), Step::Index(index)) => entries.get(*index),
                _ => None,
            };
            match next {
                Some(next) => here = next,
                None => break,
            }
        }
        usize::try_from(here.referenced.line()).ok().filter(|line| *line > 0)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = sequence.next_element()? {
            entries.push(entry);
        }
        Ok(Shape::Sequence(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = mapping.next_key::<Option<String>>()? {
            match key {
                Some(key) => entries.push((key, mapping.next_value()?)),
                None => drop(mapping.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Shape::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_back() {
        for path in
            ["spec.ports[0].port", "metadata.annotations[kube-router.io/service.dsr]", "items[3].spec", "kind", ""]
        {
            assert_eq!(show_path(&parse_path(path)), path);
        }
    }

    #[test]
    fn lines_are_those_of_the_value_or_of_what_is_above_it() {
        let text = "kind: Service\nspec:\n  ports:\n  - port: 80\n  - name: x\n    port: abc\n";
        for (path, line) in
            [("kind", 1), ("spec.ports[1].port", 6), ("spec.ports[0].port", 4), ("spec.ports[1].missing", 5)]
        {
            assert_eq!(Outline::read(text).unwrap().line_of(&parse_path(path)), Some(line), "{path}");
        }
        assert_eq!(
            Outline::read("{\"kind\": 1,\n \"spec\": {\n \"a\": 2}}").unwrap().line_of(&parse_path("spec.a")),
            Some(3)
        );
        assert!(Outline::read("a: [").is_none());
    }
}
