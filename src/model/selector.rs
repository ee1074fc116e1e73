//! Label selectors and their evaluation (`meta/v1` LabelSelector).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Chooses objects by their labels: every requirement must hold. Without requirements it chooses all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector(pub Vec<Requirement>);

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's name.
    pub key: Arc<str>,
    /// What must be true of it.
    pub operator: Operator,
}

/// What must be true of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// It is there with one of these values.
    In(BTreeSet<Arc<str>>),
    /// It is not there, or has none of these values.
    NotIn(BTreeSet<Arc<str>>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// Nothing is: stands for a requirement that could not be read.
    Never,
}

impl Selector {
    /// Whether an object with these labels is chosen.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether it chooses every object, whatever its labels.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Never => false,
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl get -l` takes it; `<all>` for the one without requirements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("<all>");
        }
        for (n, requirement) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list = |values: &BTreeSet<Arc<str>>| values.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::In(values) => match values.first().filter(|_| values.len() == 1) {
                Some(value) => write!(f, "{key}={value}"),
                None => write!(f, "{key} in ({})", list(values)),
            },
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Never => write!(f, "{key} <unreadable>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
    }

    fn values(values: &[&str]) -> BTreeSet<Arc<str>> {
        values.iter().map(|value| Arc::from(*value)).collect()
    }

    fn one(operator: Operator) -> Selector {
        Selector(vec![Requirement { key: Arc::from("app"), operator }])
    }

    #[test]
    fn operators_mean_what_the_api_says() {
        let web = labels(&[("app", "web")]);
        let none = labels(&[("tier", "back")]);
        for (operator, on_web, on_none) in [
            (Operator::In(values(&["web", "api"])), true, false),
            (Operator::In(values(&["api"])), false, false),
            (Operator::NotIn(values(&["web"])), false, true),
            (Operator::NotIn(values(&["api"])), true, true),
            (Operator::Exists, true, false),
            (Operator::DoesNotExist, false, true),
            (Operator::Never, false, false),
        ] {
            let selector = one(operator);
            assert_eq!((selector.matches(&web), selector.matches(&none)), (on_web, on_none), "{selector}");
        }
        assert!(Selector::default().matches(&none), "an empty selector chooses all");
    }

    #[test]
    fn every_requirement_must_hold() {
        let mut selector = one(Operator::Exists);
        selector.0.push(Requirement { key: Arc::from("tier"), operator: Operator::In(values(&["back"])) });
        assert!(!selector.matches(&labels(&[("app", "web")])));
        assert!(selector.matches(&labels(&[("app", "web"), ("tier", "back")])));
        assert_eq!(selector.to_string(), "app,tier=back");
    }
}
