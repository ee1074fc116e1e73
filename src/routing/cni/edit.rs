//! What a CNI configuration should say, given what it says (pure).
//!
//! The rule is kube-router's: in the plugin of type `bridge`, `ipam.subnet` moves into `ipam.ranges`, every pod prefix
//! that no range has is added as a range set of its own, ranges are never taken away, and `mtu` is set. Everything else
//! stays as it is. Output is one line with keys in order, which is what kube-router writes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::net::Prefix;

/// How the file is laid out; its name decides, as it does for container runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One plugin (`.conf`, `.json`).
    Single,
    /// A list of plugins (`.conflist`).
    List,
}

impl Form {
    /// The form a file of this name has.
    pub fn of(path: &Path) -> Form {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        if ending.eq_ignore_ascii_case("conflist") { Form::List } else { Form::Single }
    }
}

/// Why a configuration cannot be edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No JSON.
    #[error("is not JSON: {0}")]
    Syntax(String),
    /// A value of another kind than expected.
    #[error("{field} must be {kind}")]
    Kind {
        /// Where.
        field: &'static str,
        /// What should be there.
        kind: &'static str,
    },
    /// No plugin that connects pods to a bridge.
    #[error("has no plugin of type bridge: add one, or set --enable-cni=false")]
    NoBridge,
    /// Addresses come from elsewhere.
    #[error("ipam.type is {0:?}, which has no ranges: set it to host-local, or set --enable-cni=false")]
    NoRanges(String),
}

/// What should be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// The new text; `None` where the old one says the same.
    pub text: Option<String>,
    /// Ranges that stay although they are no pod prefixes of this node.
    pub foreign: Vec<String>,
}

/// Makes a configuration give pods addresses of these prefixes, and this MTU where one is given.
///
/// # Errors
/// What is wrong with the text.
pub fn edit(text: &str, form: Form, pods: &[Prefix], mtu: Option<u32>) -> Result<Edited, Fault> {
    let older: Value = serde_json::from_str(text).map_err(|error| Fault::Syntax(error.to_string()))?;
    let mut newer = older.clone();
    let plugin = bridge_plugin(&mut newer, form)?;
    if let Some(mtu) = mtu {
        plugin.insert("mtu".to_owned(), json!(mtu));
    }
    let ipam = plugin
        .entry("ipam")
        .or_insert_with(|| json!({"type": "host-local"}))
        .as_object_mut()
        .ok_or(Fault::Kind { field: "ipam", kind: "an object" })?;
    match ipam.get("type").and_then(Value::as_str) {
        Some("host-local") => {}
        other => return Err(Fault::NoRanges(other.unwrap_or_default().to_owned())),
    }
    let foreign = edit_ranges(ipam, pods)?;
    let text = (older != newer).then(|| newer.to_string());
    Ok(Edited { text, foreign })
}

fn bridge_plugin(root: &mut Value, form: Form) -> Result<&mut Map<String, Value>, Fault> {
    let is_bridge = |plugin: &Value| plugin.get("type").and_then(Value::as_str) == Some("bridge");
    let plugin = match form {
        Form::Single => Some(root).filter(|root| is_bridge(root)),
        Form::List => root
            .get_mut("plugins")
            .and_then(Value::as_array_mut)
            .ok_or(Fault::Kind { field: "plugins", kind: "a list" })?
            .iter_mut()
            .find(|plugin| is_bridge(plugin)),
    };
    plugin.and_then(Value::as_object_mut).ok_or(Fault::NoBridge)
}

/// Adds the missing prefixes. Returns the ranges that are none of ours.
fn edit_ranges(ipam: &mut Map<String, Value>, pods: &[Prefix]) -> Result<Vec<String>, Fault> {
    let single = ipam.remove("subnet");
    let sets = ipam
        .entry("ranges")
        .or_insert_with(|| Value::Array(Vec::new()))
        .as_array_mut()
        .ok_or(Fault::Kind { field: "ipam.ranges", kind: "a list of lists" })?;
    let subnet_of = |range: &Value| range.get("subnet").and_then(Value::as_str).map(str::to_owned);
    let listed = |sets: &[Value]| -> Vec<String> {
        sets.iter().flat_map(|set| set.as_array().into_iter().flatten()).filter_map(subnet_of).collect()
    };
    if let Some(Value::String(single)) = single
        && !listed(sets).iter().any(|known| same(known, &single))
    {
        sets.push(json!([{ "subnet": single }]));
    }
    let known = listed(sets);
    let wanted: BTreeSet<Prefix> = pods.iter().map(Prefix::trunc).collect();
    // In the order the node names its prefixes: the first of a family is where pods get their address from.
    let mut added = BTreeSet::new();
    for prefix in pods.iter().map(Prefix::trunc) {
        let text = prefix.to_string();
        if !known.iter().any(|known| same(known, &text)) && added.insert(prefix) {
            sets.push(json!([{ "subnet": text }]));
        }
    }
    let is_ours = |text: &String| text.parse::<Prefix>().is_ok_and(|prefix| wanted.contains(&prefix.trunc()));
    Ok(known.into_iter().filter(|text| !is_ours(text)).collect())
}

/// Whether two texts name the same prefix, however they are written.
fn same(one: &str, other: &str) -> bool {
    match (one.parse::<Prefix>(), other.parse::<Prefix>()) {
        (Ok(one), Ok(other)) => one.trunc() == other.trunc(),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::prefix;

    const STOCK: &str = r#"{"cniVersion":"0.3.0","name":"mynet","type":"bridge","bridge":"kube-bridge",
        "isDefaultGateway":true,"ipam":{"type":"host-local"}}"#;

    fn pods() -> Vec<Prefix> {
        vec![prefix("10.244.1.0/24"), prefix("fd00:244:1::/64")]
    }

    #[test]
    fn the_stock_file_becomes_what_kube_router_makes_of_it() {
        let edited = edit(STOCK, Form::Single, &pods(), Some(1480)).unwrap();
        let expected = r#"{"bridge":"kube-bridge","cniVersion":"0.3.0","ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:1::/64"}]],"type":"host-local"},"isDefaultGateway":true,"mtu":1480,"name":"mynet","type":"bridge"}"#;
        assert_eq!(edited, Edited { text: Some(expected.to_owned()), foreign: Vec::new() });
        assert_eq!(
            edit(expected, Form::Single, &pods(), Some(1480)).unwrap().text,
            None,
            "a second edit changes nothing"
        );
        assert_eq!(edit(expected, Form::Single, &pods(), None).unwrap().text, None, "without auto-mtu the mtu stays");
    }

    #[test]
    fn in_a_list_only_the_bridge_plugin_changes() {
        let list = r#"{"name":"x","plugins":[{"type":"portmap","capabilities":{"snat":true}},
            {"type":"bridge","hairpinMode":true,"ipam":{"type":"host-local","subnet":"10.244.9.0/24","routes":[{"dst":"0.0.0.0/0"}]}}]}"#;
        let edited = edit(list, Form::List, &pods(), None).unwrap();
        let expected = r#"{"name":"x","plugins":[{"capabilities":{"snat":true},"type":"portmap"},{"hairpinMode":true,"ipam":{"ranges":[[{"subnet":"10.244.9.0/24"}],[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:1::/64"}]],"routes":[{"dst":"0.0.0.0/0"}],"type":"host-local"},"type":"bridge"}]}"#;
        assert_eq!(edited.text.as_deref(), Some(expected));
        assert_eq!(edited.foreign, ["10.244.9.0/24"], "an older range stays and is told");
    }

    #[test]
    fn ranges_that_are_there_count_however_they_are_written() {
        let text = r#"{"type":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.7/24","gateway":"10.244.1.1"}],[{"subnet":"FD00:0244:1::/64"}]]}}"#;
        assert_eq!(edit(text, Form::Single, &pods(), None).unwrap(), Edited::default());
        let doubled = r#"{"type":"bridge","ipam":{"type":"host-local","subnet":"10.244.1.0/24","ranges":[[{"subnet":"10.244.1.0/24"}]]}}"#;
        let text = edit(doubled, Form::Single, &[prefix("10.244.1.0/24")], None).unwrap().text.unwrap();
        assert_eq!(text, r#"{"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"type":"host-local"},"type":"bridge"}"#);
    }

    #[test]
    fn what_cannot_be_edited_is_said_in_words() {
        for (text, form, expected) in [
            ("{", Form::Single, "is not JSON"),
            ("[]", Form::List, "plugins must be a list"),
            (r#"{"plugins":[{"type":"ptp"}]}"#, Form::List, "no plugin of type bridge"),
            (r#"{"type":"ptp"}"#, Form::Single, "no plugin of type bridge"),
            (r#"{"type":"bridge","ipam":7}"#, Form::Single, "ipam must be an object"),
            (r#"{"type":"bridge","ipam":{"type":"dhcp"}}"#, Form::Single, "ipam.type is \"dhcp\""),
            (r#"{"type":"bridge","ipam":{"type":"host-local","ranges":{}}}"#, Form::Single, "ipam.ranges must be"),
        ] {
            let fault = edit(text, form, &pods(), None).unwrap_err().to_string();
            assert!(fault.contains(expected), "{text}: {fault}");
        }
        let text = edit(r#"{"type":"bridge"}"#, Form::Single, &[prefix("10.244.1.0/24")], None).unwrap().text.unwrap();
        assert!(text.contains("host-local"), "a bridge without ipam gets one: {text}");
    }

    #[test]
    fn the_name_decides_the_form() {
        for (name, form) in [("a.conflist", Form::List), ("a.CONFLIST", Form::List), ("a.conf", Form::Single)] {
            assert_eq!(Form::of(Path::new(name)), form);
        }
    }
}
