//! `meta/v1` LabelSelector (pure).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{Context, Rejections};
use crate::model::{Operator, Requirement, Selector};

/// What stands for a requirement that cannot be read: whichever keeps a policy from allowing more than was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Leave it out, so that more is chosen: right for whom a policy isolates.
    ChoosesMore,
    /// Choose nothing: right for whom a policy allows.
    ChoosesNothing,
}

/// Reads a selector that stands at `field`; an absent one has no requirements.
pub(super) fn convert(
    selector: Option<&LabelSelector>,
    field: &str,
    unreadable: Unreadable,
    context: Context<'_>,
    rejections: &mut Rejections,
) -> Selector {
    let Some(selector) = selector else { return Selector::default() };
    let (mut read, problems) = self::read(selector, field, context);
    for (field, value, message) in problems {
        let effect = match unreadable {
            Unreadable::ChoosesMore => "the requirement is left out, so the policy isolates more pods",
            Unreadable::ChoosesNothing => "the selector chooses nothing",
        };
        rejections.add("InvalidSelector", field, &value, format!("{message}; until then {effect}"));
        if unreadable == Unreadable::ChoosesNothing {
            read.0 = vec![Requirement { key: context.names.get(""), operator: Operator::Never }];
        }
    }
    read
}

/// What of a selector can be read, and what cannot: field, value, and what would be right.
pub(super) fn read(
    selector: &LabelSelector,
    field: &str,
    context: Context<'_>,
) -> (Selector, Vec<(String, String, String)>) {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| Requirement {
        key: context.names.get(key),
        operator: Operator::In([context.names.get(value)].into()),
    });
    let mut requirements: Vec<Requirement> = labels.collect();
    let mut problems = Vec::new();
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        match operator(expression, context) {
            Ok(operator) => requirements.push(Requirement { key: context.names.get(&expression.key), operator }),
            Err((part, value, message)) => {
                problems.push((format!("{field}.matchExpressions[{index}].{part}"), value, message.to_owned()));
            }
        }
    }
    requirements.sort();
    requirements.dedup();
    (Selector(requirements), problems)
}

/// The operator, or which part of it makes no sense, its value and why.
fn operator(
    expression: &LabelSelectorRequirement,
    context: Context<'_>,
) -> Result<Operator, (&'static str, String, &'static str)> {
    let values = || expression.values.iter().flatten().map(|value| context.names.get(value)).collect();
    let has_values = expression.values.as_ref().is_some_and(|values| !values.is_empty());
    let shown = || expression.values.as_deref().unwrap_or_default().join(",");
    match (expression.operator.as_str(), has_values) {
        ("In", true) => Ok(Operator::In(values())),
        ("NotIn", true) => Ok(Operator::NotIn(values())),
        ("Exists", false) => Ok(Operator::Exists),
        ("DoesNotExist", false) => Ok(Operator::DoesNotExist),
        ("In" | "NotIn", false) => Err(("values", shown(), "In and NotIn need at least one value")),
        ("Exists" | "DoesNotExist", true) => Err(("values", shown(), "Exists and DoesNotExist take no values")),
        _ => Err(("operator", expression.operator.clone(), "no operator: use In, NotIn, Exists or DoesNotExist")),
    }
}

/// Labels of an object, keys and values shared.
pub(super) fn labels(
    labels: Option<&std::collections::BTreeMap<String, String>>,
    context: Context<'_>,
) -> crate::model::Labels {
    labels.into_iter().flatten().map(|(key, value)| (context.names.get(key), context.names.get(value))).collect()
}
