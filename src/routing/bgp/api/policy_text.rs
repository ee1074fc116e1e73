//! Policies, statements, sets and assignments as `gobgp` 3.10 prints them, from messages in the form of 3.x (pure).

use std::fmt::Write as _;

use super::policy_message as p;
use super::text::{family_message, put};

/// `gobgp policy`: policies with their statements.
pub fn policies(policies: &[p::Policy]) -> String {
    let mut out = String::new();
    for policy in policies {
        put!(out, "Name {}:\n", policy.name);
        policy.statements.iter().for_each(|one| statement(4, one, &mut out));
    }
    out
}

/// `gobgp policy statement`.
pub fn statements(statements: &[p::Statement]) -> String {
    let mut out = String::new();
    statements.iter().for_each(|one| statement(0, one, &mut out));
    out
}

/// What is assigned in one direction. `indent` is 4 where both are shown, 0 where one was asked for.
pub fn assignment(title: &str, assignment: &p::PolicyAssignment, indent: usize) -> String {
    let default = match assignment.default_action {
        1 => "ACCEPT",
        2 => "REJECT",
        _ => "NONE",
    };
    let pad = " ".repeat(indent);
    let mut out = format!("{title} policy:\n{pad}Default: {default}\n");
    for policy in &assignment.policies {
        put!(out, "{pad}Name {}:\n", policy.name);
        policy.statements.iter().for_each(|one| statement(indent + 4, one, &mut out));
    }
    out
}

fn statement(indent: usize, statement: &p::Statement, out: &mut String) {
    let pad = " ".repeat(indent);
    put!(out, "{pad}StatementName {}:\n{pad}  Conditions:\n", statement.name);
    conditions(&" ".repeat(indent + 4), &statement.conditions.clone().unwrap_or_default(), out);
    put!(out, "{pad}  Actions:\n");
    actions(&" ".repeat(indent + 4), &statement.actions.clone().unwrap_or_default(), out);
}

fn match_set(set: &p::MatchSet) -> String {
    let how = match set.kind {
        0 => "any",
        1 => "all",
        2 => "invert",
        _ => "",
    };
    format!("{how} {}", set.name)
}

fn conditions(pad: &str, conditions: &p::Conditions, out: &mut String) {
    // Two of the lines end with a space.
    let sets = [
        ("PrefixSet", &conditions.prefix_set, " "),
        ("NeighborSet", &conditions.neighbor_set, ""),
        ("AsPathSet", &conditions.as_path_set, " "),
        ("CommunitySet", &conditions.community_set, ""),
        ("ExtCommunitySet", &conditions.ext_community_set, ""),
        ("LargeCommunitySet", &conditions.large_community_set, ""),
    ];
    for (name, set, end) in sets {
        if let Some(set) = set {
            put!(out, "{pad}{name}: {}{end}\n", match_set(set));
        }
    }
    if !conditions.next_hop_in_list.is_empty() {
        put!(out, "{pad}NextHopInList: [ {} ]\n", conditions.next_hop_in_list.join(", "));
    }
    if let Some(length) = &conditions.as_path_length {
        let how = match length.kind {
            0 => "=",
            1 => ">=",
            2 => "<=",
            _ => "",
        };
        put!(out, "{pad}AsPathLength: {how}{}\n", length.length);
    }
    let validity = match conditions.rpki_result {
        -1 => None,
        0 => Some("NONE".to_owned()),
        1 => Some("NOT_FOUND".to_owned()),
        2 => Some("VALID".to_owned()),
        3 => Some("INVALID".to_owned()),
        other => Some(other.to_string()),
    };
    if let Some(validity) = validity {
        put!(out, "{pad}RPKI result: {validity}\n");
    }
    let origin = match conditions.route_type {
        0 => None,
        1 => Some("internal"),
        2 => Some("external"),
        3 => Some("local"),
        _ => Some("unknown"),
    };
    if let Some(origin) = origin {
        put!(out, "{pad}Route Type: {origin}\n");
    }
    if !conditions.afi_safi_in.is_empty() {
        let families: Vec<String> = conditions.afi_safi_in.iter().map(|family| family_message(*family)).collect();
        put!(out, "{pad}AFI SAFI In: [{}]\n", families.join(" "));
    }
}

fn communities(action: &p::CommunityAction) -> String {
    let how = match action.kind {
        0 => "add",
        1 => "remove",
        2 => "replace",
        _ => "",
    };
    format!("{how}[{}]", action.communities.join(", ").replace(['^', '$'], ""))
}

fn actions(pad: &str, actions: &p::Actions, out: &mut String) {
    let mut line = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            put!(out, "{pad} {name}:  {text}\n");
        }
    };
    line("Community", actions.community.as_ref().map(communities));
    line("ExtCommunity", actions.ext_community.as_ref().map(communities));
    line("LargeCommunity", actions.large_community.as_ref().map(communities));
    let med = |med: &p::MedAction| {
        if med.kind == 0 && med.value > 0 { format!("+{}", med.value) } else { med.value.to_string() }
    };
    line("MED", actions.med.as_ref().map(med));
    line("LocalPref", actions.local_pref.as_ref().map(|preference| preference.value.to_string()));
    let prepend = |one: &p::AsPrependAction| format!("prepend {} {} times", one.asn, one.repeat);
    line("ASPathPrepend", actions.as_prepend.as_ref().map(prepend));
    let hop = |hop: &p::NextHopAction| match (hop.own, hop.unchanged) {
        (true, _) => "self".to_owned(),
        (false, true) => "unchanged".to_owned(),
        (false, false) => hop.address.clone(),
    };
    line("Nexthop", actions.nexthop.as_ref().map(hop));
    match actions.route_action {
        0 => {}
        2 => {
            put!(out, "{pad} reject\n");
        }
        _ => {
            put!(out, "{pad} accept\n");
        }
    }
}

/// Named sets of one kind; `head` names what their members are.
pub fn defined_sets(head: &str, sets: &[p::DefinedSet]) -> String {
    if sets.is_empty() {
        return "Nothing defined yet\n".to_owned();
    }
    let names = sets.iter().map(|set| set.name.len()).fold(4, usize::max);
    let mut out = String::new();
    put!(out, "{:<names$}  {head}\n", "NAME");
    for set in sets {
        let range =
            |one: &p::PrefixRange| format!("{} {}..{}", one.ip_prefix, one.mask_length_min, one.mask_length_max);
        let mut members: Vec<String> = if head == "PREFIX" {
            set.prefixes.iter().map(range).collect()
        } else {
            set.list.iter().map(|one| member(head, one)).collect()
        };
        if members.is_empty() {
            members.push(String::new());
        }
        for (n, member) in members.iter().enumerate() {
            let name = if n == 0 { set.name.as_str() } else { "" };
            put!(out, "{name:<names$}  {member}\n");
        }
    }
    out
}

/// A member of a set. Communities may come as patterns that only one value fits.
fn member(head: &str, member: &str) -> String {
    let plain = if head.ends_with("COMMUNITY") {
        member.strip_prefix("^^").and_then(|rest| rest.strip_suffix("$$"))
    } else {
        None
    };
    plain.unwrap_or(member).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_shown_with_all_it_does() {
        let set = |name: &str, kind: i32| Some(p::MatchSet { kind, name: name.to_owned() });
        let conditions = p::Conditions {
            prefix_set: set("vips", 0),
            neighbor_set: set("edge", 2),
            as_path_length: Some(p::AsPathLength { kind: 1, length: 3 }),
            rpki_result: -1,
            route_type: 3,
            ..p::Conditions::default()
        };
        let actions = p::Actions {
            route_action: 1,
            community: Some(p::CommunityAction { kind: 0, communities: vec!["^1:2$".to_owned()] }),
            med: Some(p::MedAction { kind: 0, value: 5 }),
            nexthop: Some(p::NextHopAction { own: true, ..p::NextHopAction::default() }),
            ..p::Actions::default()
        };
        let one = p::Statement { name: "s".to_owned(), conditions: Some(conditions), actions: Some(actions) };
        let text = policies(&[p::Policy { name: "export".to_owned(), statements: vec![one] }]);
        let want = "\
Name export:
    StatementName s:
      Conditions:
        PrefixSet: any vips \n        NeighborSet: invert edge
        AsPathLength: >=3
        Route Type: local
      Actions:
         Community:  add[1:2]
         MED:  +5
         Nexthop:  self
         accept
";
        assert_eq!(text, want);
    }

    #[test]
    fn sets_are_shown_in_two_columns() {
        let prefixes = vec![
            p::PrefixRange { ip_prefix: "10.0.0.0/8".to_owned(), mask_length_min: 24, mask_length_max: 32 },
            p::PrefixRange { ip_prefix: "192.0.2.0/24".to_owned(), mask_length_min: 24, mask_length_max: 24 },
        ];
        let set = p::DefinedSet { defined_type: 0, name: "pods".to_owned(), list: Vec::new(), prefixes };
        assert_eq!(
            defined_sets("PREFIX", &[set]),
            "NAME  PREFIX\npods  10.0.0.0/8 24..32\n      192.0.2.0/24 24..24\n"
        );
        assert_eq!(defined_sets("ADDRESS", &[]), "Nothing defined yet\n");
        assert_eq!(member("COMMUNITY", "^^1:2$$"), "1:2");
    }
}
