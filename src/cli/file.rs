//! The configuration file: the same keys as the flags, without the dashes in front, in YAML or TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::flags::FLAGS;
use super::value::Syntax;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("--config={}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its name tells no format.
    #[error("--config={}: name the file *.yaml, *.yml or *.toml", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// It is not a map of keys to values.
    #[error("--config={}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A key that is no flag.
    #[error("--config={}: unknown key {key:?}{}", path.display(), suggestion.map_or(String::new(), |name| format!("; did you mean {name:?}?")))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
        /// The flag that is spelled nearly so.
        suggestion: Option<&'static str>,
    },
    /// A value that cannot be the value of any flag.
    #[error("--config={}: {key}: expected {expected}", path.display())]
    BadShape {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// Flag name → the texts it has in the file, as if given on the command line.
pub(super) type FileValues = BTreeMap<&'static str, Vec<String>>;

/// Read a configuration file.
pub(super) fn read(path: &Path) -> Result<FileValues, FileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parse a file's text; the format is told by the extension of `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<FileValues, FileError> {
    let malformed = |reason: String| FileError::Malformed { path: path.to_owned(), reason };
    let map: BTreeMap<String, Value> = match path.extension().and_then(|extension| extension.to_str()) {
        _ if text.trim().is_empty() => BTreeMap::new(),
        Some("yaml" | "yml") => serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?,
        Some("toml") => toml::from_str(text).map_err(|error| malformed(error.to_string()))?,
        _ => return Err(FileError::UnknownFormat { path: path.to_owned() }),
    };
    let mut values = FileValues::new();
    for (key, value) in map {
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == key && flag.in_file()) else {
            let suggestion = nearest(&key);
            return Err(FileError::UnknownKey { path: path.to_owned(), key, suggestion });
        };
        let texts = texts_of(&value, flag.syntax).map_err(|expected| FileError::BadShape {
            path: path.to_owned(),
            key,
            expected,
        })?;
        values.insert(flag.name, texts);
    }
    Ok(values)
}

/// The texts a value stands for.
fn texts_of(value: &Value, syntax: Syntax) -> Result<Vec<String>, &'static str> {
    let scalar = |value: &Value| match value {
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Array(items) if syntax.is_list() => {
            let texts: Option<Vec<String>> = items.iter().map(scalar).collect();
            // An empty list must still replace the default, so it counts as one empty occurrence.
            texts
                .map(|texts| if texts.is_empty() { vec![String::new()] } else { texts })
                .ok_or("a list of plain values")
        }
        other => scalar(other).map(|text| vec![text]).ok_or(if syntax.is_list() {
            "a list or a comma-separated text"
        } else {
            "one plain value"
        }),
    }
}

/// The flag whose name is nearest to a misspelled one, where any is near.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let key = key.trim_start_matches('-').replace('_', "-");
    FLAGS
        .iter()
        .filter(|flag| flag.in_file())
        .map(|flag| (edit_distance(&key, flag.name), flag.name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .map(|(_, name)| name)
}

/// How many letters must be added, removed or replaced to make one text of the other (Levenshtein).
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (n, left_letter) in left.chars().enumerate() {
        let mut diagonal = n;
        let mut before = n.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, right_letter) in row.iter_mut().skip(1).zip(right.chars()) {
            let replaced = diagonal.saturating_add(usize::from(left_letter != right_letter));
            diagonal = *cell;
            *cell = replaced.min(before.saturating_add(1)).min(diagonal.saturating_add(1));
            before = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_toml_say_the_same() {
        let yaml = "run-router: false\nexcluded-cidrs: [10.0.0.0/8, 'fd00::/8']\nv: 2\nipvs-sync-period: 1m\n";
        let toml =
            "run-router = false\nexcluded-cidrs = [\"10.0.0.0/8\", \"fd00::/8\"]\nv = 2\nipvs-sync-period = \"1m\"\n";
        let from_yaml = parse(Path::new("a.yaml"), yaml).unwrap();
        assert_eq!(from_yaml, parse(Path::new("a.toml"), toml).unwrap());
        assert_eq!(from_yaml["excluded-cidrs"], ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(from_yaml["run-router"], ["false"]);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let error = parse(Path::new("a.yaml"), "ipvs-sync-perod: 1m").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--config=a.yaml: unknown key \"ipvs-sync-perod\"; did you mean \"ipvs-sync-period\"?"
        );
        assert_eq!(nearest("masquerade_all"), Some("masquerade-all"));
        assert_eq!(nearest("zzzzzzzzzzzz"), None);
        assert!(parse(Path::new("a.yaml"), "config: b.yaml").is_err(), "a file may not name another file");
    }

    #[test]
    fn wrong_shapes_and_formats_are_refused() {
        assert!(matches!(parse(Path::new("a.yaml"), "v: {x: 1}"), Err(FileError::BadShape { .. })));
        assert!(matches!(parse(Path::new("a.yaml"), "v: [1, 2]"), Err(FileError::BadShape { .. })));
        assert!(matches!(parse(Path::new("a.json"), "{\"v\": 1}"), Err(FileError::UnknownFormat { .. })));
        assert!(matches!(parse(Path::new("a.yaml"), "- v"), Err(FileError::Malformed { .. })));
        assert!(parse(Path::new("a.yaml"), "").unwrap().is_empty());
    }

    #[test]
    fn an_empty_list_replaces_the_default() {
        assert_eq!(parse(Path::new("a.yaml"), "excluded-cidrs: []").unwrap()["excluded-cidrs"], [""]);
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
