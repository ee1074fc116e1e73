//! Which rule a kernel refuses, where the program only says that it refuses all of them.
//!
//! iptables-legacy hands the kernel a table as a whole. A match or target for which the kernel has no module is refused with it, at
//! the line `COMMIT`. So the rules are tried by halves, in a chain that nobody leads to.

use super::Iptables;
use crate::kernel::error::Error;
use crate::kernel::filter::Name;
use crate::kernel::ipset::Ipset;
use crate::kernel::iptables::programs::{AT_COMMIT, Programs};
use crate::kernel::iptables::{PREFIX, tag};
use crate::net::Family;

impl<I: Ipset, P: Programs> Iptables<I, P> {
    /// The same error, about the first rule of a script that the kernel refuses by itself, where there is one.
    pub(super) fn blame(&mut self, table: &Name, family: Family, script: &str, error: Error) -> Error {
        let Some(op) = error.op.strip_suffix(AT_COMMIT) else { return error };
        let chain = format!("{PREFIX}{}-TRIAL", tag(table));
        let found = rules_of(script).into_iter().find_map(|(of, rules)| {
            let found = self.refused(family, of, &chain, &rules);
            // Whatever is left of it goes with the chains that nobody wants.
            drop(self.programs.restore(family, &format!("*{of}\n:{chain} - [0:0]\n-X {chain}\nCOMMIT\n")));
            found
        });
        match found {
            Some(rule) => Error { op: format!("{op}, at: {rule}"), ..error },
            None => error,
        }
    }

    /// One of these rules that the kernel refuses.
    fn refused<'a>(&mut self, family: Family, table: &str, chain: &str, rules: &[&'a str]) -> Option<&'a str> {
        let mut is_refused = |some: &[&str]| {
            let lines: String = some.iter().map(|rule| trial(rule, chain) + "\n").collect();
            let tried = self.programs.restore(family, &format!("*{table}\n:{chain} - [0:0]\n{lines}COMMIT\n"));
            tried.is_err_and(|error| error.op.ends_with(AT_COMMIT))
        };
        let mut left = rules;
        if left.is_empty() || !is_refused(left) {
            return None;
        }
        while left.len() > 1 {
            let (first, second) = left.split_at(left.len() / 2);
            left = if is_refused(first) { first } else { second };
        }
        left.first().copied().filter(|only| is_refused(&[*only]))
    }
}

/// The rules a script appends, by the name of their table.
fn rules_of(script: &str) -> Vec<(&str, Vec<&str>)> {
    let mut tables: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in script.lines() {
        match line.strip_prefix('*') {
            Some(name) => tables.push((name, Vec::new())),
            None => tables.last_mut().filter(|_| line.starts_with("-A ")).into_iter().for_each(|of| of.1.push(line)),
        }
    }
    tables
}

/// The rule in another chain, from which it leads nowhere.
fn trial(rule: &str, chain: &str) -> String {
    let rest = rule.splitn(3, ' ').nth(2).unwrap_or_default();
    let at = [" -g ".to_owned(), format!(" -j {PREFIX}")].iter().filter_map(|word| rest.rfind(word.as_str())).max();
    let (conditions, leads) = rest.split_at(at.unwrap_or(rest.len()));
    format!("-A {chain} {conditions}{}", if leads.is_empty() { "" } else { " -j RETURN" })
}

#[cfg(test)]
mod tests {
    use super::{rules_of, trial};

    #[test]
    fn a_rule_on_trial_keeps_what_a_kernel_may_refuse() {
        let comment = "-m comment --comment \"default/web ingress[0] #0123456789abcdef\"";
        for (rule, tried) in [
            (
                format!("-p sctp -m sctp --dport 80 {comment} -g FERROVIA-FIR-X"),
                format!("-p sctp -m sctp --dport 80 {comment} -j RETURN"),
            ),
            (
                format!("-m set --match-set A src {comment} -j FERROVIA-FIR-X"),
                format!("-m set --match-set A src {comment} -j RETURN"),
            ),
            (format!("{comment} -j NFLOG --nflog-group 100"), format!("{comment} -j NFLOG --nflog-group 100")),
            (format!("{comment} -j RETURN"), format!("{comment} -j RETURN")),
        ] {
            assert_eq!(trial(&format!("-A FERROVIA-FIR-Y {rule}"), "T"), format!("-A T {tried}"));
        }
    }

    #[test]
    fn rules_are_found_by_their_tables() {
        let script =
            "*mangle\n:A - [0:0]\n-A A -j RETURN\n-X B\nCOMMIT\n*filter\n-I FORWARD 1 -j C\n-A C -j DROP\nCOMMIT\n";
        assert_eq!(rules_of(script), [("mangle", vec!["-A A -j RETURN"]), ("filter", vec!["-A C -j DROP"])]);
    }
}
